from pathlib import Path

import pytest
import torch
from exported import IMAGES, mlp, transformer
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparse_lightning import PruneRegrow, SparseMLP, load_safetensors, save_safetensors, to_csr
from sparse_lightning.export.packed import pack, unpack
from sparse_lightning.functional.masks import derived_generator

pytest.importorskip("safetensors")


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]), st.integers(0, 3))
def test_a_mask_comes_back(size, density, seed):
    mask = torch.rand(1, size, generator=derived_generator(seed)) < density
    coding, code = pack(mask)
    assert unpack(code, coding, [1, size]).equal(mask)
    assert len(code) <= -(-size // 8)


def test_gaps_of_255_and_more():
    for gap in (254, 255, 256, 509, 510, 511):
        mask = torch.zeros(1, 20_000, dtype=torch.bool)
        mask[0, gap] = mask[0, 2 * gap + 1] = True
        coding, code = pack(mask)
        assert coding == "gaps"
        assert unpack(code, coding, [1, 20_000]).equal(mask)


@pytest.mark.parametrize("model", [mlp(), transformer(), to_csr(mlp())])
def test_weights_come_back_to_the_bit(model, tmp_path):
    save_safetensors(model, tmp_path / "model.safetensors")
    state = load_safetensors(tmp_path / "model.safetensors")
    dense = (mlp() if hasattr(model, "network") else model).state_dict()
    assert state.keys() == dense.keys()
    assert all(each.equal(dense[name]) for name, each in state.items())


def test_the_file_is_about_as_large_as_its_connections(tmp_path):
    model = SparseMLP(hidden_sizes=[1000, 1000], density=0.02, batch_norm=False)
    PruneRegrow(0.02, seed=1).sparsify(model)
    save_safetensors(model, tmp_path / "model.safetensors")
    weights = [each for each in model.parameters() if each.dim() > 1]
    connections = sum(int(each.count_nonzero()) for each in weights)
    other = sum(each.nbytes for each in model.parameters() if each.dim() == 1)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert connections * (4 + 1) + other < size < connections * (4 + 1) * 1.05 + other + 2000  # headers


def test_a_connection_that_is_zero_stays_one_with_its_mask(tmp_path):
    weight, mask = torch.zeros(50, 50), torch.zeros(50, 50, dtype=torch.bool)
    mask[0, :20] = True
    save_safetensors({"weight": weight}, tmp_path / "file", masks={"weight": mask})
    from safetensors.torch import load_file

    assert len(load_file(tmp_path / "file")["weight.values"]) == 20
    assert load_safetensors(tmp_path / "file")["weight"].equal(weight)


def test_files_that_are_damaged_or_others_are_refused_and_plain_ones_read(tmp_path: Path):
    from safetensors.torch import save_file

    save_safetensors(mlp(), tmp_path / "model")
    (tmp_path / "cut").write_bytes((tmp_path / "model").read_bytes()[:-10])
    (tmp_path / "text").write_text("no weights")
    for name in ("cut", "text"):
        with pytest.raises(ValueError, match="to be a safetensors file, got one that cannot be read"):
            load_safetensors(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "none")
    save_file({"a": torch.ones(2)}, tmp_path / "plain")
    assert load_safetensors(tmp_path / "plain")["a"].equal(torch.ones(2))
    about = {"sparse_lightning": '{"a": {"shape": [2, 4], "coding": "bits"}}'}
    save_file({"a.values": torch.ones(3)}, tmp_path / "lacking", metadata=about)
    with pytest.raises(ValueError, match="Expected values and topology of 'a'"):
        load_safetensors(tmp_path / "lacking")
    topology = torch.tensor([255], dtype=torch.uint8)
    save_file({"a.values": torch.ones(3), "a.topology": topology}, tmp_path / "wrong", metadata=about)
    with pytest.raises(ValueError, match="Expected as many values of 'a'"):
        load_safetensors(tmp_path / "wrong")
    for code, coding in (([9, 9], "bits"), ([9], "gaps")):
        with pytest.raises(ValueError, match=r"Expected a topology of the shape \[2, 4\]"):
            unpack(torch.tensor(code, dtype=torch.uint8), coding, [2, 4])


def test_the_bare_model_loads_it(tmp_path):
    model = mlp()
    save_safetensors(model, tmp_path / "model")
    bare = SparseMLP(hidden_sizes=[50, 40], density=0.05, dropout=0.1)
    bare.load_state_dict(load_safetensors(tmp_path / "model"))
    assert bare.eval()(IMAGES).equal(model(IMAGES))
    assert isinstance(bare.network[0], nn.Linear)


def test_a_checkpoint_is_taken_and_one_without_weights_refused(tmp_path):
    model = mlp()
    save_safetensors({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "model")
    assert load_safetensors(tmp_path / "model").keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="Expected a model, a state_dict or a checkpoint with weights, got none"):
        save_safetensors({"epoch": 3}, tmp_path / "none")


@pytest.mark.parametrize("mask", [{"nope": torch.ones(2).bool()}, {"0.weight": torch.ones(2).bool()}], ids=list)
def test_a_mask_that_belongs_to_no_weight_is_refused(tmp_path, mask):
    with pytest.raises(ValueError, match=f"Expected masks of weights that the model has.*got '{next(iter(mask))}'"):
        save_safetensors(nn.Sequential(nn.Linear(3, 2)), tmp_path / "model.safetensors", masks=mask)
