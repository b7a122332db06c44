from pathlib import Path

import pytest
from studies import course, make_run, sweep

GROWTH = ({"model.hebbian_grow": True}, {"model.hebbian_grow": False})


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The headline experiment: two arms of eight seeds, thirty epochs, all settings as published."""
    for seed in range(8):
        make_run(tmp_path / "study", course(0.97, seed, 30), seed, GROWTH[0])
        make_run(tmp_path / "study", course(0.98, seed + 100, 30), seed, GROWTH[1])
    return tmp_path / "study"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two arms of two seeds, eight epochs."""
    return sweep(tmp_path / "small", *GROWTH)
