import pytest
import torch
from torch import Tensor

from sparse_lightning.masks import generator_for, part
from sparse_lightning.topology import Topology, measures


def bits(row: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in row]])


def move(topology: Topology, drop: int, grow: int) -> None:
    """Replace one connection by another, by their columns."""
    columns = torch.arange(topology.mask.numel()).view(topology.mask.shape)
    topology.rewire(columns == drop, (columns == grow).float(), generator_for(0))


def test_a_topology_starts_with_nothing_grown_and_its_mask_explored():
    topology = Topology.start(bits("1100"))
    assert not topology.grown.any()
    assert topology.explored.equal(bits("1100"))
    move(topology, drop=0, grow=3)
    assert topology.explored.equal(bits("1101"))


def test_three_rewirings_by_hand():
    topology = Topology.start(bits("110000"))
    seen = []
    for drop, grow in ((0, 2), (2, 0), (1, 3)):
        move(topology, drop, grow)
        seen.append((topology.mask, topology.grown, topology.explored))
        seen[-1] = (*(tensor.clone() for tensor in seen[-1]), topology.survivors, topology.candidates)
    expected = [
        (bits("011000"), bits("001000"), bits("111000"), 0, 0),
        (bits("110000"), bits("100000"), bits("111000"), 0, 1),
        (bits("100100"), bits("000100"), bits("111100"), 1, 1),
    ]
    torch.testing.assert_close(seen, expected)


def test_a_view_of_the_mask_follows_it():
    topology = Topology.start(bits("1100"))
    view = topology.mask.view(torch.uint8)
    move(topology, drop=1, grow=2)
    assert view.tolist() == [[1, 0, 1, 0]]


def test_a_refused_rewiring_changes_nothing():
    topology = Topology.start(bits("1100"))
    with pytest.raises(ValueError, match="active"):
        move(topology, drop=3, grow=2)
    torch.testing.assert_close(topology.state_dict(), Topology.start(bits("1100")).state_dict())


@pytest.mark.parametrize(("mask", "room"), [("1000", 3.0), ("1100", 1.0), ("11110", 0.25), ("11", 0.0), ("000", 0.0)])
def test_room_is_inactive_over_active_connections(mask, room):
    assert Topology.start(bits(mask)).room == pytest.approx(room)


def test_a_part_as_large_as_the_room_is_all_that_is_inactive():
    for active in range(1, 60):
        for inactive in range(active):
            mask = torch.arange(active + inactive) < active
            assert part(Topology.start(mask).room, active) == inactive


def test_a_state_is_a_copy_that_brings_the_topology_back():
    topology = Topology.start(bits("1100"))
    move(topology, drop=0, grow=2)
    move(topology, drop=1, grow=3)
    state = topology.state_dict()
    again = Topology(**state)
    torch.testing.assert_close(again.state_dict(), topology.state_dict())
    move(topology, drop=2, grow=0)
    assert again.mask.equal(bits("0011"))
    assert again.candidates == 1


def test_measures_by_hand():
    small, large = Topology.start(bits("10")), Topology.start(bits("11000000"))
    assert measures({"small": small, "large": large}) == {
        "density/small": 0.5,
        "grown/small": 0.0,
        "explored/small": 0.5,
        "density/large": 0.25,
        "grown/large": 0.0,
        "explored/large": 0.25,
        "density/all": 0.3,  # of all ten connections, not the mean of two layers
        "grown/all": 0.0,
        "explored/all": 0.3,
    }
    move(small, drop=0, grow=1)
    move(large, drop=0, grow=2)
    move(large, drop=2, grow=3)
    found = measures({"small": small, "large": large})
    assert [found[f"grown/{layer}"] for layer in ("small", "large", "all")] == [1.0, 1.0, 2.0]
    assert [found[f"explored/{layer}"] for layer in ("small", "large", "all")] == [1.0, 0.5, 0.6]
    assert "survived/small" not in found
    assert [found[f"survived/{layer}"] for layer in ("large", "all")] == [0.0, 0.0]
    move(large, drop=1, grow=4)
    assert measures({"large": large})["survived/large"] == 1.0
