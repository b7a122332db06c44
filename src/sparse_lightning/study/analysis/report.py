"""The report of folders of runs: what is found in them, written as text, page, figures, table and TensorBoard runs."""

import shutil
import textwrap
import warnings
from pathlib import Path

import pandas as pd

from sparse_lightning.study.analysis import figures, tables
from sparse_lightning.study.analysis.findings import Findings, analyse, dead_connections
from sparse_lightning.study.analysis.metrics import Mode
from sparse_lightning.study.analysis.page import page
from sparse_lightning.study.train.record import write

WIDTH = 110  # letters of a line of prose, or as many as the terminal has
SEVERAL = 3  # comparisons: of more than so many, the screen shows one row each
PAGE, SUMMARY, FIGURES = "report.html", "summary.csv", "figures"


def make_report(
    *folders: str | Path,
    against: str | None = None,
    metric: str | None = None,
    mode: Mode | None = None,
    threshold: float | None = None,
) -> str:
    """Make the report of some folders of runs, in the first of them, and return it as text.

    Writes `report.html`, `summary.csv`, `figures/` and `arms/`, and touches nothing else. The same runs give the same
    bytes. Arguments and errors are those of :func:`~sparse_lightning.study.analysis.findings.analyse`.
    """
    from sparse_lightning.study.analysis.tensorboard import write_arms  # slow: it needs torch

    findings = analyse(folders, against=against, metric=metric, mode=mode, threshold=threshold)
    home, pictures = Path(folders[0]), []
    with figures.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of scripts that the page can show
        for picture in figures.draw(findings):
            (home / FIGURES).mkdir(exist_ok=True)
            rendered = {kind: figures.render(picture.figure, kind) for kind in ("png", "svg")}
            for kind, content in rendered.items():
                write(home / FIGURES / f"{picture.name}.{kind}", content)
            pictures.append((picture, rendered["svg"]))
    write_arms(home, findings)
    width = min(WIDTH, max(40, shutil.get_terminal_size((WIDTH, 24)).columns))
    write(home / SUMMARY, summary(findings).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    links = {SUMMARY: SUMMARY} | ({"figure files": f"{FIGURES}/"} if pictures else {})
    write(home / PAGE, page(findings, pictures, links, home))
    return "\n".join([format_report(findings, width), "", f"The report is in {home / PAGE}"])


def format_report(findings: Findings, width: int = WIDTH) -> str:
    """A report as text: the main table, warnings, verdicts, published figures, comparisons and notes.

    Args:
        findings: What it says.
        width: The letters of a line of prose; tables are as wide as they are.
    """
    lines = [tables.format_table(findings.frame, findings.metric, findings.mode)]
    for warning in findings.warnings:
        lines += ["", *textwrap.wrap(f"WARNING: {warning}", width, subsequent_indent="  ")]
    if findings.conclusions:
        lines += ["", "Verdicts on the published conclusions"]
    for number, conclusion in enumerate(findings.conclusions, start=1):
        lines += textwrap.wrap(f"{number}. {conclusion.title}", width, subsequent_indent="   ")
        for verdict in conclusion.verdicts:
            words = f"{verdict.status.upper()}: {verdict.claim} {verdict.figures}"
            lines += textwrap.wrap(words, width, initial_indent="   - ", subsequent_indent="     ")
        lines += textwrap.wrap(conclusion.remark, width, initial_indent="   ", subsequent_indent="   ")
    if findings.cells and (published := tables.cells_table(findings)).rows:
        lines += ["", str(published)]
    if len(findings.comparisons) > SEVERAL:
        lines += ["", str(tables.overview_table(findings)), f"{PAGE} has the other metrics."]
    else:
        for compared in findings.comparisons:
            lines += ["", str(tables.comparison_table(compared, findings.main_metrics).first(7))]
    for note in findings.notes:
        lines += ["", *textwrap.wrap(note, width)] if note == findings.notes[0] else textwrap.wrap(note, width)
    return "\n".join(lines)


def summary(findings: Findings) -> pd.DataFrame:
    """Every figure of the tables, one a row: `table`, `arm`, `reference`, `metric`, `figure`, `value`, in shares."""
    rows: list[tuple[object, ...]] = []
    for compared in findings.comparisons:
        for kind, table in (("comparison", compared.main), ("topology", compared.topology)):
            for name, row in table.iterrows():
                rows += [(kind, compared.arm, compared.reference, name, *item) for item in row.items()]
    if findings.curves:
        for arm in findings.design.arms:
            runs = findings.table[findings.table["arm"] == arm]
            for metric in (*findings.main_metrics, *findings.topology_metrics):
                spread = runs[metric.name].agg(["min", "max", "mean", "std", "count"])
                rows += [("arms", arm, "", metric.name, *item) for item in spread.items()]
                rows += [
                    ("runs", arm, "", metric.name, *item) for item in zip(runs["run"], runs[metric.name], strict=True)
                ]
        for _, dead in dead_connections(findings).iterrows():
            rows += [
                ("dead connections", dead["arm"], "", f"topology/dead/{dead['layer']}", *item)
                for item in dead[2:].items()
            ]
    for cell, arms in findings.cells:
        for arm in arms:
            rows += [("published", arm, cell.words(), cell.metric, cell.statistic, cell.value)]
    return pd.DataFrame(rows, columns=["table", "arm", "reference", "metric", "figure", "value"])
