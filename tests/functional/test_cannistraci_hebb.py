"""Cannistraci-Hebb scores against a walk along every path of length 3."""

import pytest
import torch
from torch import Tensor

from sparse_lightning.functional.cannistraci_hebb import RULES, _product_at
from sparse_lightning.functional.masks import derived_generator, perturbed


def neighbours(mask: Tensor) -> tuple[list[set[int]], list[set[int]]]:
    """The input units of each output unit, and the output units of each input unit."""
    return [set(row.nonzero().flatten().tolist()) for row in mask], [
        set(column.nonzero().flatten().tolist()) for column in mask.T
    ]


def by_paths(mask: Tensor) -> Tensor:
    """CH3-L3p as it is defined: the community of a pair of units is all units on paths between them."""
    inputs_of, outputs_of = neighbours(mask)
    scores = torch.zeros(mask.shape)
    for u, v in (~mask).nonzero().tolist():
        paths = [(a, b) for a in inputs_of[u] for b in outputs_of[v] if mask[b, a]]
        firsts, seconds = {a for a, _ in paths}, {b for _, b in paths}
        for a, b in paths:
            outside = len(outputs_of[a] - seconds - {u}), len(inputs_of[b] - firsts - {v})
            scores[u, v] += ((1 + outside[0]) * (1 + outside[1])) ** -0.5
    return scores


def by_nodes(mask: Tensor, shared: bool) -> Tensor:
    """CH2-L3n and CH3-L3n, one pair of units of a side after the other."""
    inputs_of, outputs_of = neighbours(mask)

    def pair(links: list[set[int]], one: int, way: int) -> float:
        common = len(links[one] & links[way])
        external = max(len(links[way]) - common, 1) - 1
        return ((common + 1) if shared else 1) / (external + 1) if common else 0.0

    scores = torch.zeros(mask.shape)
    for u, v in (~mask).nonzero().tolist():
        scores[u, v] = sum(pair(inputs_of, u, b) for b in outputs_of[v])
        scores[u, v] += sum(pair(outputs_of, v, a) for a in inputs_of[u])
    return scores


REFERENCES = {
    "ch2_l3n": lambda mask: by_nodes(mask, True),
    "ch3_l3n": lambda mask: by_nodes(mask, False),
    "ch3_l3p": by_paths,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("density", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(7, 9), (9, 4), (1, 5)])
def test_a_score_is_the_sum_over_paths(rule, density, shape):
    for seed in range(3):
        mask = torch.rand(shape, generator=derived_generator(seed)) < density
        scores, absent = RULES[rule](mask), ~mask
        torch.testing.assert_close(scores[absent], REFERENCES[rule](mask)[absent])


def test_two_pairs_that_share_a_neighbour_by_hand():
    # Output units 0 and 1 share input 0; output 1 has input 1 besides. One path: 0 - 0 - 1 - 1, and no link leads out.
    mask = torch.tensor([[True, False], [True, True]])
    assert float(RULES["ch3_l3p"](mask)[0, 1]) == 1.0
    assert float(RULES["ch2_l3n"](mask)[0, 1]) == 4.0  # (1 + 1) / 1 by output 1, and (1 + 1) / 1 by input 0


def test_an_empty_layer_has_no_scores():
    for rule in RULES.values():
        assert not rule(torch.zeros(3, 4, dtype=torch.bool)).any()


def test_without_mkl_the_product_is_the_same(monkeypatch):
    mask, left, right = torch.rand(5, 6) < 0.4, torch.randn(5, 3), torch.randn(3, 6)
    by_csr = _product_at(mask)(left, right)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    torch.testing.assert_close(_product_at(mask)(left, right), by_csr)


def test_a_draw_follows_its_scores():
    scores = torch.tensor([1.0, 2.0, 0.0, 5.0])
    first = [int(perturbed(scores, 1.0, derived_generator(seed)).argmax()) for seed in range(4000)]
    shares = torch.tensor(first).bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, scores / 8, atol=0.03, rtol=0)
    sharp = [int(perturbed(scores, 20.0, derived_generator(seed)).argmax()) for seed in range(50)]
    assert set(sharp) == {3}
    assert perturbed(torch.zeros(3), 1.0, derived_generator(0)).isfinite().all()
