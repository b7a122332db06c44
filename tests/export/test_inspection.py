import pytest
import torch
from torch import nn

from sparse_lightning import PruneRegrow, sparsity_report, topology_of
from sparse_lightning.export.inspection import table


@pytest.fixture
def trained(trainer, model, net, data, tmp_path):
    """A callback, its model, and the checkpoint of two epochs."""
    callback, module = PruneRegrow(density=0.25), model(net)
    run = trainer(max_epochs=2, callbacks=[callback])
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "two.ckpt")
    return callback, module, tmp_path / "two.ckpt"


def test_a_checkpoint_gives_its_masks_back(trained):
    callback, _, path = trained
    # One weight that is active and happens to be zero is still a connection.
    saved = torch.load(path, weights_only=True)
    name = next(iter(callback.masks))
    saved["state_dict"][name].zero_()
    for checkpoint in (path, str(path), saved):
        found = topology_of(checkpoint)
        assert list(found) == list(callback.masks)
        assert all(mask.equal(callback.masks[name]) for name, mask in found.items())


def test_bare_weights_give_the_topology_that_they_have(trained, tmp_path):
    callback, module, _ = trained
    torch.save(module.state_dict(), tmp_path / "bare.pt")
    for checkpoint in (tmp_path / "bare.pt", module.state_dict()):
        found = topology_of(checkpoint)
        assert list(found) == list(callback.masks)
        assert all(mask.equal(module.get_parameter(name) != 0) for name, mask in found.items())


def test_a_run_starts_from_the_topology_of_a_checkpoint(trained, trainer, model, data):
    callback, _, path = trained
    fresh = model(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    )
    other = PruneRegrow(density=0.25, growth=None)
    other.start_from(topology_of(path))
    trainer(max_epochs=1, callbacks=[other]).fit(fresh, data)
    assert all(mask.equal(callback.masks[name]) for name, mask in other.masks.items())


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"nonsense": torch.ones(8, 6, dtype=torch.bool)},
            r"Expected a mask to start 'nonsense' from .* None, got \[8",
        ),
        ({"network.0.weight": torch.ones(3, 3, dtype=torch.bool)}, r"'network.0.weight' .*\[8, 6\], got \[3, 3\]"),
        ({"network.0.weight": torch.ones(8, 6)}, "Expected a boolean mask for 'network.0.weight', got torch.float32"),
    ],
)
def test_masks_that_are_not_the_models_are_refused_before_training(model, net, masks, message):
    def start() -> None:
        callback = PruneRegrow()
        callback.start_from(masks)
        callback.sparsify(model(net))

    with pytest.raises(ValueError, match=message):
        start()


def test_the_report_counts_what_is_not_zero(trained):
    callback, module, path = trained
    expected = sparsity_report(module)
    assert expected == sparsity_report(path) == sparsity_report(module.state_dict())
    lines = {line.split()[0]: line.split()[1:] for line in expected.splitlines()}
    name = next(iter(callback.masks))
    nonzero = int(module.get_parameter(name).count_nonzero())
    assert lines[name] == ["8x6", str(nonzero), "48", f"{nonzero / 48:.4f}"]
    assert "network.0.bias" not in lines
    assert lines["all"][1] == "136"


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}])
def test_a_checkpoint_without_weights_is_refused(content):
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got none"):
        topology_of(content)
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got none"):
        sparsity_report(content)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got list"):
        topology_of(tmp_path / "list.pt")


def test_a_table_has_its_columns_one_below_the_other():
    assert table([("a", "empty", "long one"), ("value", "", "1")]) == "a      long one\nvalue  1"
