"""Folders of runs to tables, statistics, figures and a page: runs, arms, metrics, statistics, findings, report."""
