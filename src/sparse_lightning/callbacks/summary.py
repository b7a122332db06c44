"""What a PruneRegrow shows: the table of its layers, and the measures that it logs."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from sparse_lightning.callbacks.averages import averages_of
from sparse_lightning.callbacks.selection import layer_name
from sparse_lightning.callbacks.topology import Topology
from sparse_lightning.criteria.base import Statistic
from sparse_lightning.criteria.coactivation import CoactivationTracker
from sparse_lightning.nn.sparse_linear import weight_shapes

Sizes = Mapping[str, tuple[int, torch.Size]]


def summary(topology: Topology, statistic: Statistic | None, criteria: Sequence[str]) -> str:
    """Return the table of a topology; `statistic` is its coactivation, which shows where activity is read."""
    masks = topology.masks
    dead = {} if masks.module is None else masks.dead(masks.module)
    read_at = statistic.read_at if isinstance(statistic, CoactivationTracker) else {}
    averages = {} if masks.module is None else averages_of(masks.module, masks)
    return summary_table(masks.sizes, dead, criteria, read_at, topology.dense, masks.module, averages)


def summary_table(
    sizes: Sizes,
    dead: Mapping[str, int],
    criteria: Sequence[str],
    read_at: Mapping[str, str],
    dense: Mapping[str, str],
    module: nn.Module | None,
    averages: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a table of the sparse weights, what stays dense and why, and the density of the whole model.

    Args:
        sizes: The number of active connections and the shape of each sparse weight, by parameter name.
        dead: How many active connections of each weight are exactly zero.
        criteria: The pruning and the growth criterion, in words.
        read_at: At which module the activity of each weight's output units is read.
        dense: Why each other weight stays dense.
        module: The model, None before its setup.
        averages: The source of each weight that is an average of a sparse one and has its connections.
    """
    heads = ("parameter", "shape", "active", "of", "density", "dead", "pruning", "growth", "activity read at")
    counts = {name: (active, shape.numel()) for name, (active, shape) in sizes.items()}
    rows = [
        (name, shape_of(shape), *shares(*counts[name]), f"{dead.get(name, 0):,}", *criteria, read_at.get(name, ""))
        for name, (_, shape) in sizes.items()
    ]
    active, size = (sum(column) for column in zip((0, 0), *counts.values(), strict=True))
    rows.append(("all", "", *shares(active, size), f"{sum(dead.values()):,}", "", "", ""))
    lines = [table([heads, *rows])]
    if averages:
        lines += ["", "Sparse as their sources: averages " + ", ".join(map(layer_name, averages))]
    dense = {name: reason for name, reason in dense.items() if name not in averages}
    if dense:
        listed = {reason: [layer_name(name) for name in dense if dense[name] == reason] for reason in dense.values()}
        lines += ["", "Dense: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in listed.items())]
    if module is not None:
        all_sizes = sum(shape.numel() for shape in weight_shapes(module).values())
        inactive = {name: numel - count for name, (count, numel) in counts.items()}
        whole = all_sizes - sum(inactive.values()) - sum(inactive[source] for source in averages.values())
        lines.append(f"Of all {all_sizes:,} parameters, {whole:,} are active: {whole / max(all_sizes, 1):.4f}")
    return "\n".join(lines)


def topology_metrics(found: Iterable[tuple[Sizes, Mapping[str, int]]]) -> dict[str, float]:
    """Return density and connections grown at the last rewiring, of each layer and of all together.

    Args:
        found: Of each callback, the sizes of its weights and how many connections each has grown.
    """
    sizes: dict[str, tuple[int, torch.Size]] = {}
    grown: dict[str, int] = {}
    for own_sizes, own_grown in found:
        sizes |= own_sizes
        grown |= own_grown
    whole = sum(active for active, _ in sizes.values()), sum(shape.numel() for _, shape in sizes.values())
    metrics = {
        f"topology/density/{layer_name(name)}": active / shape.numel() for name, (active, shape) in sizes.items()
    }
    metrics |= {f"topology/grown/{layer_name(name)}": float(grown.get(name, 0)) for name in sizes}
    metrics["topology/density/all"] = whole[0] / max(whole[1], 1)
    metrics["topology/grown/all"] = float(sum(grown.values()))
    return metrics


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of words in columns, the first row their heads; a column without words is left out.

    >>> print(table([("one", "none", "two"), ("1", "", "22")]))
    one  two
    1    22
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True))


def shares(active: int, size: int) -> tuple[str, str, str]:
    """Return a count, what it is a count of, and their quotient, as words.

    >>> shares(1200, 4800)
    ('1,200', '4,800', '0.2500')
    """
    density = active / max(size, 1)
    return f"{active:,}", f"{size:,}", f"{density:.4f}" if density >= 0.001 or not active else f"{density:.1e}"


def shape_of(shape: Sequence[int]) -> str:
    """Return a shape in words, such as 10x784."""
    return "x".join(map(str, shape))
