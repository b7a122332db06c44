from types import SimpleNamespace

import pytest
import torch
from exported import IMAGES, TOKENS, mlp, transformer
from torch import nn

from sparse_lightning import sparsity_report, to_csr
from sparse_lightning.export.cost import latency_table


def rows(text: str) -> dict[str, list[str]]:
    return {line.split("  ")[0]: line.split()[-3:] for line in text.splitlines() if line}


def test_bytes_and_operations_by_hand():
    linear = nn.Linear(8, 4)
    linear.weight.data = torch.zeros(4, 8)
    linear.weight.data[:, 0] = 1.0
    report = sparsity_report(nn.Sequential(linear, nn.ReLU(), nn.Linear(4, 2)), example=torch.zeros(5, 8))
    found = rows(report)
    dense = 4 * (32 + 4 + 8 + 2)
    assert found["dense"][1:] == [f"{dense}", "1.000"]
    assert found["csr"][1:] == [f"{dense - 128 + 4 * 4 + 4 * (4 + 5)}", "0.587"]
    assert found["packed"][1:] == [f"{dense - 128 + 16 + 4}", "0.413"]
    # A multiplication and an addition a weight: 2 x 32 + 2 x 8 dense, 2 x 4 + 2 x 8 sparse.
    assert found["inference"] == ["80", "24", "0.300"]
    assert found["training step"] == ["240", "72", "0.300"]
    assert found["training step, growth by gradient"] == ["240", f"{(302 * 24 + 80) / 101:.0f}", "0.302"]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(8, 12, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


LAYER = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
ATTENTION = 5 * 2 * 2 * 5 * 16  # of each of 5 tokens: queries by keys, attention by values; always dense
OF_WEIGHTS = 5 * 2 * (4 * 16 * 16 + 2 * 16 * 32)


@pytest.mark.parametrize(
    ("model", "example", "dense", "sparse"),
    [
        (nn.TransformerEncoder(LAYER, 2), torch.zeros(3, 5, 16), 2 * (ATTENTION + OF_WEIGHTS), 0.5),
        (Recurrent(), torch.zeros(3, 5, 8), 5 * 2 * 4 * 12 * (8 + 12), 0.5),
        (nn.Conv2d(4, 6, 3, groups=2), torch.zeros(3, 4, 4, 4), 2 * 2 * 2 * 6 * 2 * 9, 0.5),
    ],
)
def test_operations_are_counted_inside_fused_layers(model, example, dense, sparse):
    masks = {name: torch.arange(p.numel()).view_as(p) % 2 == 0 for name, p in model.named_parameters() if p.dim() > 1}
    found = rows(sparsity_report(model.eval(), masks, example=example))["inference"]
    attention = 2 * ATTENTION if isinstance(model, nn.TransformerEncoder) else 0
    assert found[:2] == [f"{dense:,}", f"{round((dense - attention) * sparse + attention):,}"]


def test_a_sparse_weight_without_operations_is_named():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 2))
    masks = {"0.weight": torch.eye(6, 4).bool()}
    report = sparsity_report(model, masks, example=torch.zeros(3, dtype=torch.long))
    assert report.endswith("No operations were seen of 0.weight.")


@pytest.mark.parametrize(("model", "inputs"), [(mlp(), IMAGES), (transformer(), TOKENS), (to_csr(mlp()), IMAGES)])
def test_a_report_has_all_costs(model, inputs):
    report = sparsity_report(model, example=inputs[:4], latency=True)
    for word in ("of dense", "training step, growth by gradient", "csr / dense", "CSR is"):
        assert word in report
    assert report.startswith(sparsity_report(model))


def test_where_sparse_is_slower_is_reported(monkeypatch):
    ticks = iter(range(10**6))
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("sparse_lightning.export.cost.time", clock)
    assert latency_table(mlp(), IMAGES, 3).endswith("CSR is faster than dense at both.")
    durations = iter([0, 1, 0, 5] * 1000)  # dense takes 1, CSR 5
    clock.perf_counter = lambda: next(durations)
    assert latency_table(mlp(), IMAGES, 3).endswith("CSR is slower than dense at batch 1 and batch 128.")


def test_costs_ask_for_a_module_and_an_example():
    for model, options in ((mlp().state_dict(), {"example": IMAGES}), (mlp(), {"latency": True})):
        with pytest.raises(ValueError, match="Expected a module and an example of its input"):
            sparsity_report(model, **options)


def test_what_csr_leaves_dense_counts_as_dense():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    for layer in (model[0], model[2]):
        layer.weight.data.flatten()[::2].zero_()
    lines = sparsity_report(model, example=torch.ones(1, 1, 3, 3)).splitlines()
    bytes_ = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("dense ", "csr "))}
    dense = 4 * (72 + 8 + 80 + 10)
    assert bytes_ == {"dense": f"{dense}", "csr": f"{dense - 4 * 80 + 4 * 40 + 4 * (40 + 11)}"}
    assert "Dense in csr too: 0 (a Conv2d)." in lines
