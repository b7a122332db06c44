"""The report as one HTML page, which needs nothing beside itself but links to its tables, figures and runs."""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparse_lightning.study.analysis.figures import MOST, Picture
from sparse_lightning.study.analysis.findings import Findings
from sparse_lightning.study.analysis.runs import origin
from sparse_lightning.study.analysis.tables import (
    COMPARISON_CAPTION,
    Table,
    cells_table,
    comparison_table,
    dead_table,
    main_table,
    overview_table,
)
from sparse_lightning.study.train.record import CONFIG, ERROR, METRICS


def page(findings: Findings, pictures: Sequence[tuple[Picture, bytes]], links: Mapping[str, str], home: Path) -> str:
    """The whole page.

    Args:
        findings: What it says.
        pictures: The figures, each with its SVG.
        links: Other files of the report by their titles, relative to the page.
        home: The folder that the page will be in, which links to the runs start from.
    """
    environment = Environment(
        loader=PackageLoader("sparse_lightning.study.analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"minus": _minus, "breakable": _breakable}
    counts = findings.frame["status"].value_counts().sort_index()
    factors = ", ".join(findings.design.factors)
    return environment.get_template("page.html").render(
        title=f"Study of {factors}" if factors else "Study",
        counts=f"{len(findings.frame)} runs: {', '.join(f'{count} {status}' for status, count in counts.items())}",
        origin=origin(findings.frame),
        links=links,
        findings=findings,
        tables=_tables(findings),
        pictures=[(picture, base64.b64encode(svg).decode()) for picture, svg in pictures],
        runs=[_run(run, findings, home) for _, run in _by_arm(findings).iterrows()],
        comparison_caption=COMPARISON_CAPTION,
        most_lines=MOST,
    )


def _by_arm(findings: Findings) -> pd.DataFrame:
    """All runs, those that count in the order of their arms."""
    if findings.runs.empty:
        return findings.frame
    arms = {arm: place for place, arm in enumerate(findings.design.arms)}
    places = dict(zip(findings.runs["folder"], findings.runs["arm"].map(arms), strict=True))
    order = findings.frame["folder"].map(places).fillna(len(arms))
    return findings.frame.loc[order.sort_values(kind="stable").index]


def _minus(words: str) -> str:
    """A minus sign where a hyphen stands before a digit."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", words)


def _breakable(words: str) -> Markup:
    """An arm that a narrow screen breaks between settings."""
    return Markup("<wbr>").join(re.split(r"(?<=[,(])", words))


def _tables(findings: Findings) -> dict[str, list[Table]]:
    """The tables of each section; sections without rows are left out by the page."""
    if not findings.curves:
        return {"main": [], "published": [], "comparisons": [], "dead": []}
    comparisons = []
    for compared in findings.comparisons:
        for shown, topology in ((findings.main_metrics, False), (findings.topology_metrics, True)):
            table = comparison_table(compared, shown, topology)
            title = f"{table.title}, {'topology' if topology else findings.metric}"
            rows = [[row[0], *row[-2:], *row[1:-2]] for row in (table.headings, *table.rows)]  # arms beside each other
            comparisons.append(Table(title, rows[0], rows[1:]))
    overview = overview_table(findings) if len(findings.comparisons) > 1 else Table("", [], [])
    tables = {
        "main": [main_table(findings.frame, findings.metric, findings.mode), overview],
        "published": [cells_table(findings)],
        "comparisons": comparisons,
        "dead": [dead_table(findings)],
    }
    return {name: [table for table in several if table.rows] for name, several in tables.items()}


def _run(run: "pd.Series[Any]", findings: Findings, home: Path) -> dict[str, Any]:
    folder = Path(run["folder"])
    names = [name for name in (METRICS, CONFIG, ERROR) if (folder / name).exists()]
    reached = str(run["error"])
    if run["status"] == "finished":
        best, shown = f"{findings.metric}_{findings.mode}", findings.main_metrics[0]
        reached = f"best {findings.metric} {shown.show(run[best])}{shown.unit} in epoch {run[f'{best}_epoch']:.0f}"
    return {
        "name": run["run"],
        "words": reached,
        "links": {name: quote(Path(os.path.relpath(folder / name, home)).as_posix()) for name in names},
        "config": (folder / CONFIG).read_text(encoding="utf-8", errors="replace"),
    }
