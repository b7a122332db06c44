import pytest
import torch
from torch import nn

from sparse_lightning import is_n_m, to_semi_structured


@pytest.mark.parametrize(
    ("weight", "n", "m", "expected"),
    [
        ([[1, 0, 2, 0], [0, 0, 0, 0]], 2, 4, True),
        ([[1, 0, 2, 0], [0, 1, 1, 1]], 2, 4, False),
        ([[1, 0, 2]], 2, 4, False),  # no whole groups
        ([[1, 0, 0, 2]], 1, 2, True),
        ([[1, 0, 2, 0, 0, 0, 0, 3]], 1, 4, False),
    ],
)
def test_groups_by_hand(weight, n, m, expected):
    assert is_n_m(torch.tensor(weight), n, m) is expected
    assert is_n_m(torch.tensor(weight) != 0, n, m) is expected


def test_what_is_missing_is_named():
    linear = nn.Linear(8, 4)
    with pytest.raises(ValueError, match="at most 2 of every 4 weights nonzero, got none"):
        to_semi_structured(nn.Sequential(linear))
    linear.weight.data.view(-1, 4)[:, :2] = 0
    with pytest.raises(RuntimeError, match=r"Expected a GPU of compute capability 8\.0 or higher, got weights on cpu"):
        to_semi_structured(nn.Sequential(linear))
