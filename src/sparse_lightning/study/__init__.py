"""A study: runs trained over a grid, each in a folder of its own, and what can be read from those folders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_lightning.study.analysis.experiments.hebbian_growth import original_columns
    from sparse_lightning.study.analysis.runs import load_metrics, load_runs
    from sparse_lightning.study.analysis.tables import format_table, summarize

_HOMES = {
    "format_table": "tables",
    "load_metrics": "runs",
    "load_runs": "runs",
    "original_columns": "experiments.hebbian_growth",
    "summarize": "tables",
}
__all__ = ["format_table", "load_metrics", "load_runs", "original_columns", "summarize"]


def __getattr__(name: str) -> Any:
    """What reads a study needs pandas, which a run does not: it is imported with the first of these names."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.analysis.{_HOMES[name]}"), name)
