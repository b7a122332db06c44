import copy

import pytest
import torch
from exported import IMAGES, TOKENS, mlp, transformer
from torch import nn

from sparse_lightning import SparseLinear, dense_state_dict, to_csr


@pytest.mark.parametrize(("model", "inputs"), [(mlp(), IMAGES), (transformer(), TOKENS)])
def test_the_outputs_are_the_same(model, inputs):
    before = copy.deepcopy(model.state_dict())
    sparse = to_csr(model)
    assert any(isinstance(each, SparseLinear) for each in sparse.modules())
    torch.testing.assert_close(sparse(inputs), model(inputs))
    assert not any(each.requires_grad for each in sparse.parameters())
    assert not sparse.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert dense_state_dict(sparse.state_dict()).keys() == before.keys()


def test_layers_above_the_density_stay_dense():
    one, two = nn.Linear(10, 10), nn.Linear(10, 10)
    one.weight.data[1:] = 0
    sparse = to_csr(nn.Sequential(one, two))
    assert [type(each) for each in sparse] == [SparseLinear, nn.Linear]
    stored = to_csr(nn.Sequential(one, two), max_density=1.0)
    assert type(stored[1]) is SparseLinear
    again = to_csr(stored)  # what was stored before goes by the density too
    assert [type(each) for each in again] == [SparseLinear, nn.Linear]
    torch.testing.assert_close(again(torch.ones(2, 10)), stored(torch.ones(2, 10)))


def test_a_single_sparse_layer_is_copied():
    layer = SparseLinear(10, 10, 0.5)
    copied = to_csr(layer)
    assert copied is not layer
    assert not list(copied.children())
    torch.testing.assert_close(copied(torch.ones(2, 10)), layer(torch.ones(2, 10)))


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"density of at most 0\.2, got 0 \(density 1\)"):
        to_csr(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match=r"Expected max_density in \(0, 1\], got 0"):
        to_csr(mlp(), max_density=0)
    tied = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.Linear(9, 9))
    for layer in (tied[0], tied[2]):
        layer.weight.data[1:] = 0
    tied[3].weight = tied[2].weight
    with pytest.warns(UserWarning, match=r"stay dense: 2 \(its weight is shared\), 3 \(its weight is shared\)"):
        to_csr(tied)
