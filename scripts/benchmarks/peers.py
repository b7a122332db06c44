"""One update by RigL on equal inputs, here and in other libraries: whose masks are the same, and where they differ.

    pip install -e '.[peers]'
    PYTHONPATH=scripts python -m benchmarks.peers

sparsimony and rigl-torch are packages; jaxpruner is compared if it can be imported, from a clone on PYTHONPATH. Weights
and gradients are random, with ties or without. All prune the share of the active weights that is nearest zero and grow
where the gradient is largest, and a connection just pruned may grow again.
"""

import importlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from sparse_lightning.functional.grow import exchange
from sparse_lightning.functional.masks import derived_generator, mask_of, positions_of
from sparse_lightning.functional.prune import lowest

SHAPES = ((10, 12), (64, 100), (300, 784), (16, 8, 3, 3))
DENSITIES = (0.02, 0.1, 0.5)
FRACTIONS = ("0.1", "0.3", "0.5")
SEEDS = 5

Update = Callable[[Tensor, Tensor, Tensor, str], Tensor]


def ours(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: str) -> Tensor:
    """This library's pure functions, as RigL calls them."""
    positions, generator = positions_of(mask), derived_generator("peers")
    pruned = lowest(weight.flatten()[positions].abs(), Fraction(fraction), generator)
    dropped, grown = exchange(positions, pruned, gradient.abs(), generator, regrow=True)
    return (mask | mask_of(grown, mask.shape)) & ~mask_of(dropped, mask.shape)


def sparsimony(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: str) -> Tensor:
    """Sparsimony's pruner and grower."""
    pruners = importlib.import_module("sparsimony.pruners.unstructured")
    left = pruners.UnstructuredMagnitudePruner.calculate_mask(float(fraction), mask.float(), weight)
    sparsity = 1 - float(mask.sum()) / mask.numel()
    return pruners.UnstructuredGradientGrower.calculate_mask(sparsity, left, gradient).bool()


def rigl_torch(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: str) -> Tensor:
    """rigl-torch's scheduler at its first step, on a layer of its own."""
    scheduler = importlib.import_module("rigl_torch.RigL").RigLScheduler
    layer = nn.Module()
    layer.weight = nn.Parameter(weight.clone())
    layer.weight.grad = gradient.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    options = {"dense_allocation": 0.5, "T_end": 10**9, "ignore_linear_layers": False}
    state = scheduler(layer, optimizer, alpha=float(fraction), **options)
    layer.weight.data = weight.clone()
    state.backward_masks[0] = mask.clone()
    state.backward_hook_objects[0].dense_grad = gradient.clone()
    state._rigl_step()
    return state.backward_masks[0].bool()


def jaxpruner(weight: Tensor, mask: Tensor, gradient: Tensor, fraction: str) -> Tensor:
    """Jaxpruner's RigL."""
    jax = importlib.import_module("jax")
    jax.tree_map = jax.tree.map  # the name that it was written for
    trainers = importlib.import_module("jaxpruner.algorithms.sparse_trainers")
    method = trainers.RigL(scheduler=SimpleNamespace(), sparsity_distribution_fn=lambda *args: None)
    arrays = [jax.numpy.asarray(each.abs().numpy()) for each in (weight, gradient)]
    old = jax.numpy.asarray(mask.numpy().astype("uint8"))
    return torch.tensor(method._update_masks(old, *arrays, float(fraction)).tolist()) > 0


def cases(ties: bool) -> Iterator[tuple[Tensor, Tensor, Tensor, str]]:
    """Weights, masks, gradients and fractions."""
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        for shape in SHAPES:
            for density in DENSITIES:
                for fraction in FRACTIONS:
                    weight, gradient, drawn = (torch.randn(shape, generator=generator) for _ in range(3))
                    if ties:
                        weight, gradient = weight.mul(2).round() / 2, gradient.mul(2).round() / 2
                    count = max(round(density * drawn.numel()), 2)
                    mask = drawn >= drawn.flatten().topk(count).values[-1]
                    yield weight * mask, mask, gradient, fraction


def compare(update: Update, ties: bool) -> dict[str, int]:
    """How many masks are equal, differ in which connections they have, and in how many."""
    found = {"equal": 0, "other connections": 0, "another number": 0}
    for case in cases(ties):
        mine, theirs = ours(*case), update(*case)
        number = int(mine.sum()) == int(theirs.sum())
        found["equal" if mine.equal(theirs) else "other connections" if number else "another number"] += 1
    return found


def main() -> None:
    """Print a table."""
    print("| library | ties | equal masks | other connections | another number |\n|---|---|---|---|---|")
    for update in (sparsimony, rigl_torch, jaxpruner):
        for ties in (False, True):
            try:
                found = compare(update, ties)
            except ImportError as error:
                print(f"| {update.__name__} | | not installed: {error.name} | | |")
                break
            print(f"| {update.__name__} | {'yes' if ties else 'no'} | {' | '.join(map(str, found.values()))} |")


if __name__ == "__main__":
    main()
