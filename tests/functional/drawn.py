"""Masks and scores, written by hand or drawn without any of the code under test."""

import torch
from hypothesis import strategies as st
from torch import Tensor


def bits(*rows: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in row] for row in rows])


def some(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """A mask of so many connections, drawn without any of the code under test."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed))[:count]] = True
    return mask


SCORES = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 1e-40]))


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores, tied more often than not, and a mask, empty and full ones candidates them."""
    size = draw(st.integers(1, 24))
    values = draw(st.one_of(st.lists(SCORES, min_size=size, max_size=size), st.just([1.0] * size)))
    mask = draw(
        st.one_of(
            st.lists(st.booleans(), min_size=size, max_size=size), st.just([True] * size), st.just([False] * size)
        )
    )
    return torch.tensor(values, dtype=torch.float64), torch.tensor(mask)
