"""A study: runs trained over a grid, each in a folder of its own, and what can be read from those folders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_lightning.study.analysis.runs import load_metrics, load_runs, original_columns
    from sparse_lightning.study.analysis.table import format_table, summarize

__all__ = ["format_table", "load_metrics", "load_runs", "original_columns", "summarize"]


def __getattr__(name: str) -> Any:
    """What reads a study needs pandas, which a run does not: it is imported with the first of these names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "analysis.table" if name in ("format_table", "summarize") else "analysis.runs"
    return getattr(import_module(f"{__name__}.{home}"), name)
