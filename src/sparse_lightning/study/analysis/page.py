"""The report as one HTML page, which needs nothing beside itself."""

import base64
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from sparse_lightning.study.analysis.report import HEADINGS, Report, cells, left_out
from sparse_lightning.study.analysis.statistics import TOPOLOGY
from sparse_lightning.study.analysis.table import format_table
from sparse_lightning.study.analysis.verdicts import CONTRADICTED, OPEN, SETTLED, SUPPORTED, Conclusion
from sparse_lightning.study.train.record import CONFIG, ERROR, METRICS

# What each figure shows, in the order in which the page has them.
CAPTIONS = {
    "learning_curves": ("Learning curves", "Mean over the runs of an arm; the band is one standard deviation."),
    "differences": (
        "Every pair's difference",
        "A dot for each seed, arm less reference; the diamond is their mean, the bar its 95% bootstrap interval.",
    ),
    "speed": (
        "Speed",
        "Left, a dot for each run, the bar their mean. Right, mean epochs of training until the validation accuracy "
        "is first reached; a run that never gets there counts as the whole length. Dotted: the accuracy judged by.",
    ),
    "topology": (
        "Where the connections go",
        "By layer. The Gini coefficient of connections per unit is 0 if all have as many. Of the connections grown 1, "
        "2 and 5 prunings ago, the share never pruned since. Bands are one standard deviation.",
    ),
    "pixels": ("What the network looks at", "Connections that each input pixel holds, mean over the runs of an arm."),
}
_BADGES = {SUPPORTED: "yes", SETTLED: "yes", CONTRADICTED: "no", OPEN: "open"}
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6572;--page:#fbfbf9;--card:#fff;--rule:#e1e4e8;--link:#00599c;
--yes:#00694d;--yes-bg:#dff3ec;--no:#a13d00;--no-bg:#fdeadd;--open:#4a5361;--open-bg:#e9ecf0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#a0abb9;--page:#14171b;--card:#1d2127;--rule:#343b45;
--link:#7cc4ff;--yes:#7be0bd;--yes-bg:#12382c;--no:#ffb488;--no-bg:#45240f;--open:#c6ceda;--open-bg:#323944}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:2.2rem 1.2rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.6rem 0 .8rem}h3{font-size:1.02rem;line-height:1.4;margin:0 0 .6rem}
p{margin:.4rem 0}.soft,figcaption{color:var(--soft);font-size:.9rem}a{color:var(--link)}
.card,figure,details{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.card{padding:1rem 1.2rem;margin:0 0 .9rem}
.verdict{display:grid;grid-template-columns:7.2rem 1fr;gap:.2rem .9rem;padding:.55rem 0;
border-top:1px solid var(--rule)}
.verdict b{font-weight:600}.figures{color:var(--soft);font-size:.88rem;font-variant-numeric:tabular-nums}
.badge{justify-self:start;align-self:start;border-radius:99px;padding:.1rem .65rem;font-size:.8rem;font-weight:600;
white-space:nowrap}
.yes{color:var(--yes);background:var(--yes-bg)}.no{color:var(--no);background:var(--no-bg)}
.open{color:var(--open);background:var(--open-bg)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.4rem .5rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--soft)}th:first-child,td:first-child{text-align:left;padding-left:0}
figure{margin:0 0 1rem;overflow:hidden}figure .wide{background:#fff}
figure img{display:block;width:100%;min-width:660px;height:auto;padding:.6rem}
figcaption{padding:.7rem 1.1rem;border-top:1px solid var(--rule)}figcaption b{color:var(--ink)}
pre{margin:0;overflow-x:auto;font:.8rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
details{margin:0 0 .4rem;padding:.5rem .9rem}summary{cursor:pointer;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
details[open] summary{margin-bottom:.6rem}details pre{max-height:24rem;overflow:auto}
@media(max-width:560px){main{padding:1.3rem .85rem 3rem}h1{font-size:1.4rem}.card{padding:.85rem .9rem}
.verdict{grid-template-columns:1fr}}
@media print{body{background:#fff}figure,.card{break-inside:avoid}figure img{min-width:0}}
"""


def page(report: Report, figures: Mapping[str, bytes], home: Path) -> str:
    """The whole page.

    Args:
        report: What it says.
        figures: SVG figures by name, those of :data:`CAPTIONS` that there are.
        home: The folder that the page will be in, which links to the runs start from.
    """
    counts = report.frame["status"].value_counts()
    arms = [f"{title} ({(report.runs['title'] == title).sum()} runs)" for title in report.titles.values()]
    found = ", ".join(f"{counts[status]} {status}" for status in counts.index.sort_values())
    title = f"Study of {', '.join(report.design.factors)}" if report.design.factors else "Study"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{escape(f'{len(report.frame)} runs: {found}.')} {escape('; '.join(arms))}</p>",
        *_section("Verdicts", (_conclusion(conclusion) for conclusion in report.conclusions)),
        *(f"<p class=soft>{escape(note)}</p>" for note in report.notes),
        *_section("Figures", (_figure(name, figures[name]) for name in CAPTIONS if name in figures)),
        *_section("Comparisons", _comparisons(report)),
    ]
    if report.curves:
        parts += _section(
            "Beside the published table", [f"<div class=card><pre>{escape(format_table(report.frame))}</pre></div>"]
        )
    why = dict(left_out(report.frame))
    parts += _section("Runs", (_run(run, home, why.get(run["run"])) for _, run in report.frame.iterrows()))
    return (
        f"<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<title>{escape(title)}</title>\n"
        f'<meta name=viewport content="width=device-width,initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: Iterable[str]) -> list[str]:
    found = list(content)
    return [f"<h2>{escape(title)}</h2>", *found] if found else []


def _conclusion(conclusion: Conclusion) -> str:
    rows = [
        f'<div class=verdict><span class="badge {_BADGES[verdict.status]}">{escape(verdict.status)}</span>'
        f"<div><b>{escape(verdict.claim)}</b><div class=figures>{_minus(verdict.figures)}</div></div></div>"
        for verdict in conclusion.verdicts
    ]
    remark = f"<p>{escape(conclusion.remark)}</p>" if conclusion.remark else ""
    return f"<div class=card><h3>{escape(conclusion.title)}</h3>{''.join(rows)}{remark}</div>"


def _figure(name: str, svg: bytes) -> str:
    title, words = CAPTIONS[name]
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return (
        f'<figure><div class=wide><img src="{source}" alt="{escape(title)}"></div>'
        f"<figcaption><b>{escape(title)}.</b> {escape(words)}</figcaption></figure>"
    )


def _comparisons(report: Report) -> Iterable[str]:
    for arm, other in report.design.pairs.items():
        heading = f"{report.titles[arm]}, compared with {report.titles[other]}"
        recorded = [metric for metric in TOPOLOGY if report.table[metric.name].notna().any()]
        tables = [_table(HEADINGS, cells(report.main[arm], report.metrics))]
        if recorded:
            tables.append(_table(HEADINGS, cells(report.topology[arm], recorded)))
        yield f"<div class=card><h3>{escape(heading)}</h3>{'<br>'.join(tables)}</div>"
    if report.main:
        yield (
            "<p class=soft>Arm and reference: mean ± standard deviation over their runs. Difference: mean over pairs "
            "of one seed, with a 95% bootstrap interval (BCa). p: permutation of signs, exact for few pairs; Holm's "
            "correction is over the rows of a table. d_z: mean difference over the standard deviation of differences. "
            "Seeds: pairs that would settle such a difference, corrected, 4 times in 5.</p>"
        )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{_minus(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _run(run: "pd.Series[Any]", home: Path, why: str | None) -> str:
    folder = Path(run["folder"])
    best, epoch, last = run[["val_acc_max", "val_acc_max_epoch", "val_acc_last"]]
    says = why or f"best {best:.4f} (epoch {epoch:.0f}), last {last:.4f}"
    links = [
        f'<a href="{quote(Path(os.path.relpath(folder / name, home)).as_posix())}">{name}</a>'
        for name in (METRICS, CONFIG, ERROR)
        if (folder / name).exists()
    ]
    config = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    return (
        f"<details><summary>{escape(run['run'])} <span class=soft>{escape(says)}</span></summary>"
        f"<p class=soft>{' · '.join(links)}</p><pre>{escape(config)}</pre></details>"
    )


def _minus(words: str) -> str:
    """Escaped, with a minus sign where a hyphen stands before a digit."""
    return re.sub(r"(?<![\w-])-(?=\d)", "&minus;", escape(words))
