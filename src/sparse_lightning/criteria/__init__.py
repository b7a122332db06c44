"""Criteria that decide what to prune and grow, and the statistics that they gather."""
