"""The loader of tensors in memory, and the order in which each rank takes them."""

import pytest
import torch
from torch import Tensor

from sparse_lightning.datamodules.in_memory import Batches, Order


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Samples whose label is their index, as is their image."""
    return torch.arange(count).float().view(-1, 1), torch.arange(count)


def loader(count: int = 50, batch_size: int = 12, **options: int) -> Batches:
    return Batches(*samples(count), Order(count, batch_size, seed=0), **options)


def order(seed: int, epoch: int, count: int = 500) -> list[Tensor]:
    batches = Order(count, 32, seed=seed)
    batches.set_epoch(epoch)
    return list(batches)


def test_the_order_is_decided_by_seed_and_epoch_alone():
    first = order(0, 0)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    torch.testing.assert_close(order(0, 0), first)
    assert torch.get_rng_state().equal(before)
    orders = [torch.cat(order(*key)).tolist() for key in ((0, 0), (0, 1), (1, 0), (0, 2))]
    assert len({tuple(each) for each in orders}) == 4
    assert all(sorted(each) == list(range(500)) for each in orders)


def test_without_a_seed_samples_come_in_sequence():
    assert torch.cat(list(Order(10, 4))).tolist() == list(range(10))


def test_images_stay_with_their_labels():
    for images, labels in loader(100, 16):
        assert images.flatten().long().equal(labels)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [7, 16, 17, 50])
def test_ranks_share_the_samples_evenly_and_see_none_twice(count, ranks, seed):
    for batch_size in (1, 4, 100):
        orders = [Order(count, batch_size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
        batches = [list(each) for each in orders]
        assert {len(own) for own in batches} == {len(each) for each in orders} == {len(batches[0])}
        shares = [torch.cat(own).tolist() for own in batches]
        seen = [sample for share in shares for sample in share]
        assert len(set(seen)) == len(seen)
        if seed is None:  # evaluation misses nothing
            assert sorted(seen) == list(range(count))
        else:  # training is even
            assert [len(share) for share in shares] == [count // ranks] * ranks
        assert all(len(batch) == batch_size for own in batches for batch in own[:-2])


def test_the_samples_left_out_to_keep_ranks_even_are_others_each_epoch():
    left_out = set()
    for epoch in range(20):
        orders = [Order(7, 2, seed=0, rank=rank, ranks=3) for rank in range(3)]
        for each in orders:
            each.set_epoch(epoch)
        left_out |= set(range(7)) - {sample for each in orders for batch in each for sample in batch.tolist()}
    assert len(left_out) > 3


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (3, [3, 2]), (5, [5]), (9, [5])])
def test_batches_come_in_lists_of_batches_per_step_and_are_the_same(size, lengths):
    lists = list(loader(batches_per_step=size))
    assert [len(batches) for batches in lists] == lengths
    assert len(loader(batches_per_step=size)) == len(lengths)
    torch.testing.assert_close([batch for batches in lists for batch in batches], list(loader()), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("given", range(4))
def test_a_loader_continues_from_the_middle_of_an_epoch(given, size):
    whole, first, second = (loader(batches_per_step=size) for _ in range(3))
    given = min(given, len(whole) - 1)
    iterator = iter(first)
    for _ in range(given):
        next(iterator)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(list(second), list(whole)[given:])
    torch.testing.assert_close(list(second), list(whole))  # and the next epoch has all batches again


def test_a_loader_saved_at_the_end_of_an_epoch_begins_the_next():
    first, second = loader(), loader()
    list(first)
    second.load_state_dict(first.state_dict())
    assert len(list(second)) == 5
