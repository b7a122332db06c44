import pytest
import torch
from exported import IMAGES, TOKENS, mlp, transformer
from torch import nn

from sparse_lightning import PruneRegrow, SparseMLP, to_csr, to_dense_small


def size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_network_is_smaller_and_computes_the_same(batch_norm):
    model = mlp(0.01, batch_norm)
    small = to_dense_small(model)
    assert isinstance(small, SparseMLP)
    assert size(small) < size(model) / 1.5
    torch.testing.assert_close(small(IMAGES), model(IMAGES))
    torch.testing.assert_close(to_dense_small(to_csr(model))(IMAGES), model(IMAGES))


def test_a_transformer_is_smaller_and_computes_the_same():
    model = transformer(0.02)
    small = to_dense_small(model)
    assert small.encoder.layers[0].linear1.out_features < 64
    torch.testing.assert_close(small(TOKENS), model(TOKENS))


def test_constants_go_into_the_next_bias():
    one, two = nn.Linear(2, 3), nn.Linear(3, 1, bias=False)
    one.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    one.bias.data = torch.tensor([0.5, 2.0, 1.0])
    two.weight.data = torch.tensor([[1.0, 3.0, 0.0]])
    small = to_dense_small(nn.Sequential(one, nn.Tanh(), two))
    assert small[0].weight.tolist() == [[1.0, 0.0]]
    assert small[2].weight.tolist() == [[1.0]]
    torch.testing.assert_close(small[2].bias, 3 * torch.tensor([2.0]).tanh())


def test_a_layer_keeps_one_unit_where_nothing_leads_anywhere():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight.data.zero_()
    small, inputs = to_dense_small(model), torch.randn(4, 2)
    assert small[0].out_features == 1
    torch.testing.assert_close(small(inputs), model(inputs))


def test_removal_goes_on_from_layer_to_layer():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 2))
    PruneRegrow(0.15, distribution="uniform", seed=3).sparsify(model)
    model.train()(torch.randn(50, 4))
    small, inputs = to_dense_small(model.eval()), torch.randn(9, 4)
    torch.testing.assert_close(small(inputs), model(inputs))
    assert all(layer.weight.any(1).all() or layer.out_features == 1 for layer in (small[0], small[2]))


@pytest.mark.parametrize("between", [nn.Softmax(-1), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)])
def test_what_does_not_look_at_each_unit_by_itself_is_refused(between):
    with pytest.raises(ValueError, match="Expected two Linear layers in a row"):
        to_dense_small(nn.Sequential(nn.Linear(2, 3), between, nn.Linear(3, 1)))


class Residual(nn.Sequential):
    def forward(self, inputs):
        hidden = self[0](inputs)
        return self[2](hidden.relu()) + hidden.sum(1, keepdim=True)


class TiedOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 6)
        self.head.weight = self.layers[0].weight

    def forward(self, inputs):
        return self.head(self.layers(inputs))


def used_twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))


def with_a_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


@pytest.mark.parametrize(
    "model", [Residual(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), TiedOutput(), used_twice(), with_a_hook()]
)
def test_layers_that_something_else_reads_keep_their_shape(model):
    """Beside them stands a pair that is made smaller, and the outputs stay the same."""
    whole = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(-1), model).eval()
    PruneRegrow(0.2, distribution="uniform", seed=1).sparsify(whole)
    small, inputs = to_dense_small(whole), torch.randn(9, 4)
    assert small[0].out_features < 8
    torch.testing.assert_close(small(inputs), whole(inputs))
    assert size(small[4]) == size(model)
