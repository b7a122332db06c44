import copy
import pickle
from fractions import Fraction

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from sparse_lightning import PruneRegrow, save_safetensors, sparsity_report, topology_of
from sparse_lightning.callbacks.summary import table


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
    for checkpoint in (tmp_path / "bare.pt", module.state_dict(), copy.deepcopy(module)):
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
            "Expected masks to start from of weights of the model, such as 'network.0.weight', got 'nonsense'",
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


def test_a_checkpoint_of_weights_alone_keeps_the_masks_of_a_training(trainer, model, net, data, tmp_path):
    callback = PruneRegrow(density=0.25)
    keep = ModelCheckpoint(tmp_path, "weights", save_weights_only=True)
    module = model(net)
    run = trainer(max_epochs=2, callbacks=[callback, keep], enable_checkpointing=True)
    run.fit(module, data)
    found = topology_of(tmp_path / "weights.ckpt")
    assert all(found[name].equal(mask) for name, mask in callback.masks.items())
    # Weights that happen to be zero are connections all the same.
    saved = torch.load(tmp_path / "weights.ckpt", weights_only=True)["state_dict"]
    saved[next(iter(callback.masks))].zero_()
    assert all(topology_of(saved)[name].equal(mask) for name, mask in callback.masks.items())
    net.load_state_dict({name.removeprefix("network."): weight for name, weight in saved.items()})


def test_the_model_is_plain_again_after_training(trained):
    _, module, _ = trained
    assert not any("sparse_lightning" in repr(metadata) for metadata in module.state_dict()._metadata.values())
    assert b"sparse_lightning" not in pickle.dumps(module.network)


def test_the_report_and_the_summary_agree_and_count_grown_zeros(trained):
    callback, module, path = trained
    with torch.no_grad():  # an active connection that is zero
        name = next(iter(callback.masks))
        weight, mask = module.get_parameter(name), callback.masks[name]
        weight.view(-1)[mask.flatten().nonzero()[0]] = 0
    report = [line.split() for line in sparsity_report(module).splitlines()]
    assert sparsity_report(module) == sparsity_report(module, callback.masks)
    summary = [line.split() for line in callback.summary().splitlines()]
    assert report[0] == ["parameter", "shape", "active", "of", "density", "dead"]
    sparse = {row[0]: row[1:6] for row in summary if row and row[0] in callback.masks}
    assert sparse == {row[0]: row[1:] for row in report if row[0] in callback.masks}
    assert int(sparse[name][-1]) >= 1
    assert next(row for row in report if row[0] == "all")[1:] == summary[4][1:5]
    in_file = {line.split()[0]: line.split()[2] for line in sparsity_report(path).splitlines()}
    assert in_file[name] == sparse[name][1]
    assert topology_of(module)[name].equal(mask)
    nonzero = {line.split()[0]: line.split()[2] for line in sparsity_report(module, {}).splitlines()}
    assert int(nonzero[name]) == int(sparse[name][1]) - int(sparse[name][-1])


def test_a_module_whose_weights_left_their_masks_is_read_by_its_weights(trained):
    callback, module, _ = trained
    name = next(iter(callback.masks))
    with torch.no_grad():
        module.get_parameter(name).fill_(1.0)
    assert name not in topology_of(module)
    row = next(line.split() for line in sparsity_report(module).splitlines() if line.startswith(name))
    assert row[2:] == [row[3], row[3], "1.0000", "0"]


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}])
def test_a_checkpoint_without_weights_is_refused(content):
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got none"):
        topology_of(content)
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got none"):
        sparsity_report(content)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [1, 2],
        {"state_dict": None},
        {"state_dict": [torch.ones(2)]},
        {3: "three"},
        {"w": torch.ones(2, device="meta")},
    ],
)
def test_odd_contents_are_refused_in_one_sentence(content, tmp_path):
    torch.save(content, tmp_path / "odd.pt")
    for read in (topology_of, sparsity_report):
        with pytest.raises(ValueError, match="Expected ") as refused:
            read(tmp_path / "odd.pt")
        assert "weights_only" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off", pickle.dumps(Fraction(1, 2))])
def test_damaged_files_and_refused_pickles_are_one_sentence(content, tmp_path):
    (tmp_path / "odd.pt").write_bytes(content)
    for path in (tmp_path / "odd.pt", tmp_path):
        with pytest.raises(ValueError, match="Expected ") as refused:
            topology_of(path)
        assert "weights_only" not in str(refused.value)
    with pytest.raises(FileNotFoundError):
        topology_of(tmp_path / "absent.pt")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_layouts_eight_bit_floats_and_integer_names_are_read():
    weights = {
        "csr": torch.tensor([[0.0, 2.0], [0.0, 0.0]]).to_sparse_csr(),
        "float8": torch.tensor([[0.0, 2.0]]).to(torch.float8_e4m3fn),
        3: torch.tensor([[0.0, 1.0]]),
    }
    assert {name: mask.tolist() for name, mask in topology_of(weights).items()} == {
        "csr": [[False, True], [False, False]],
        "float8": [[False, True]],
        "3": [[False, True]],
    }


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got list"):
        topology_of(tmp_path / "list.pt")


def test_a_table_has_its_columns_one_below_the_other():
    assert table([("a", "empty", "long one"), ("value", "", "1")]) == "a      long one\nvalue  1"


def test_a_module_without_a_forward_has_no_costs():
    class Bare(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

    with pytest.raises(ValueError, match="Expected a module with a forward for its costs, got Bare without; the part"):
        sparsity_report(Bare(), example=torch.ones(1, 4))
    assert "operations of a sample" in sparsity_report(Bare().layer, example=torch.ones(1, 4))


@pytest.mark.parametrize("name", ["packed.safetensors", "packed", "packed.ckpt"])
def test_packed_files_are_read_with_their_masks_whatever_their_name(trained, tmp_path, name):
    pytest.importorskip("safetensors")
    callback, module, _ = trained
    path = tmp_path / name
    save_safetensors(module, path, masks=callback.masks)
    masks = topology_of(path)
    assert masks.keys() == callback.masks.keys()
    assert all(mask.equal(callback.masks[each]) for each, mask in masks.items())
    assert sparsity_report(path) == sparsity_report(module.state_dict(), callback.masks)


def test_weights_that_are_too_dense_to_be_packed_keep_their_masks_too(tmp_path):
    pytest.importorskip("safetensors")
    weights = {"sparse": torch.ones(40, 40), "dense": torch.ones(40, 40)}
    weights["sparse"][4:], weights["dense"][:, 0] = 0, 0
    save_safetensors(weights, tmp_path / "zeros")
    given = {name: weight != 0 for name, weight in weights.items()}
    given["dense"][:30] = True  # a connection that is zero
    save_safetensors(weights, tmp_path / "masks", masks=given)
    for path, wanted in (("zeros", {name: weight != 0 for name, weight in weights.items()}), ("masks", given)):
        found = topology_of(tmp_path / path)
        assert found.keys() == wanted.keys()
        assert all(found[name].equal(mask) for name, mask in wanted.items())


def test_a_damaged_packed_file_is_refused_with_what_is_wrong(tmp_path):
    files = pytest.importorskip("safetensors.torch")
    about = {"sparse_lightning": '{"a": {"shape": [2, 4], "coding": "bits"}}'}
    files.save_file({"a.values": torch.ones(3)}, tmp_path / "lacking", metadata=about)
    with pytest.raises(ValueError, match="Expected values and topology of 'a'"):
        topology_of(tmp_path / "lacking")


def test_files_of_safetensors_itself_are_read(tmp_path):
    files = pytest.importorskip("safetensors.torch")
    files.save_file({"fc.weight": torch.tensor([[0.5, 0.0]])}, tmp_path / "plain.st")
    assert topology_of(tmp_path / "plain.st")["fc.weight"].tolist() == [[True, False]]
    files.save_file({}, tmp_path / "empty.st")
    with pytest.raises(ValueError, match="Expected a checkpoint to hold weights by name, got none"):
        sparsity_report(tmp_path / "empty.st")


def test_masks_that_are_no_mapping_are_refused():
    with pytest.raises(ValueError, match=r"Expected masks by parameter name, got 'last\.ckpt'"):
        sparsity_report({"fc.weight": torch.ones(2, 2)}, "last.ckpt")
