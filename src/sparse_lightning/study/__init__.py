"""A study: runs trained over a grid, each in a folder of its own, and what can be read from those folders."""

from sparse_lightning.study.runs import load_metrics, load_runs, original_columns
from sparse_lightning.study.table import format_table, summarize

__all__ = ["format_table", "load_metrics", "load_runs", "original_columns", "summarize"]
