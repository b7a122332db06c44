"""The words that a reader meets are those of the field: no private dialect in code, settings, scripts and docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for pattern in (
        "src/**/*.py",
        "src/**/*.html",
        "conf/**/*.yaml",
        "scripts/*.py",
        "examples/*.py",
        "tests/**/*.py",
        "docs/*.md",
        "*.md",
    )
    for path in ROOT.glob(pattern)
    if path != Path(__file__)
)

# What is not to be written, and what to write in its place.
AVOIDED = {
    r"\bsaid\b|\btold\b|_said\b|_told_": "given, expected, or what it is",
    r"\bknobs?\b": "argument, option, override, setting",
    r"\bcame to\b|\bcomes? to the same\b": "reached, gave",
    r"\bfor want of\b": "because there is no",
    r"\b(?:un)?settle[sd]?\b": "significant, inconclusive, decided",
    r"\bwhole numbers?\b": "integer",
    r"\bin points\b|[\d\]] points?\b|\bpoints of (?:accuracy|all)\b": "percentage points",
    r"\bless (?:static|random|dense|the mean)\b|[\w)] less [\w(]+ in\b": "minus",
    r"\b(?:no|any|how much|little) room\b|(?<!one )\broom (?:for|to)\b|\broom\(": "the number that can be replaced",
    r"\bpart\(": "floor_count",
    r"\bd_z\b": "standardised difference",
    r"\b_(?:see|sees|seen|said|say|settle|claim|told|room|part)\b": "a name of what it does, such as _forward_hook",
    r"\b(?:hooks?|trackers?|callbacks?) (?:see|sees|saw)\b": "is called with, reads",
    r"\bthey agree that\b|\bpoint one way\b": "agree, disagree",
}
# Exact technical uses, as they stand in the text.
ALLOWED = ("floating point", "floating-point", "data points", "entry points")


def found_in(text: str) -> list[str]:
    """Each word to avoid in a text, with its line and what to write in its place."""
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}, write {instead}"
        for pattern, instead in AVOIDED.items()
        for match in re.finditer(pattern, text, re.I)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_in_plain_english(path: Path) -> None:
    assert not found_in(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "every knob, in words",
        "what X said of it",
        "the difference is 0.2 points",
        "best val_acc, less static sparse, in points",
        "a whole number",
        "not settled",
        "self._see(module)",
        "part(0.3, 10)",
    ],
)
def test_words_of_the_dialect_are_found(text: str) -> None:
    assert found_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "0.2 percentage points",
        "in floating point",
        "part of a layer",
        "less than half",
        "a seed settings file",
        "nearly",
    ],
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert not found_in(text)
