"""Runs to tables, statistics, figures and a page."""
