"""What a sparse model costs beside a dense one: bytes, floating-point operations, and measured time."""

import statistics
import time
from collections.abc import Mapping
from itertools import islice, repeat

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparse_lightning.callbacks.summary import table
from sparse_lightning.export.csr import to_csr
from sparse_lightning.export.dense_small import dense_copy
from sparse_lightning.export.packed import pack

BATCHES = (1, 128)


def size_table(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> str:
    """Return what the weights of a model take, in bytes: dense, in CSR, and packed as in a safetensors file.

    Args:
        weights: The parameters of a model, dense, by name.
        masks: The masks of the sparse ones.
    """
    totals = [0, 0, 0]
    for name, weight in weights.items():
        sizes = [weight.nbytes] * 3
        if name in masks:
            active, rows = int(masks[name].count_nonzero()), len(weight)
            values = active * weight.element_size()
            sizes[1] = values + 4 * (active + rows + 1)
            sizes[2] = min(weight.nbytes, values + pack(masks[name].cpu())[1].nbytes)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
    rows_of = [("stored", "bytes", "of dense")]
    rows_of += [
        (word, f"{size:,}", f"{size / max(totals[0], 1):.3f}")
        for word, size in zip(("dense", "csr", "packed"), totals, strict=True)
    ]
    return table(rows_of)


def flop_table(model: nn.Module, densities: Mapping[str, float], example: Tensor) -> str:
    """Return floating-point operations of one sample: of inference, and of a training step.

    Dense ones are counted by ``torch.utils.flop_counter``; a layer's sparse ones are its density's share of them. A
    training step takes three times the forward pass (Evci et al. 2020, "Rigging the Lottery", appendix H), with RigL
    every 100 steps (3 s x 100 + 2 s + d) / 101, for s sparse and d dense operations of the forward pass.

    Args:
        model: A dense model.
        densities: The density of each sparse layer, by the layer's name.
        example: An input, (batch, ...).
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    counts = counter.get_flop_counts()
    samples = max(len(example), 1)
    dense = sum(counts["Global"].values()) / samples
    prefix = type(model).__name__
    saved = sum(
        sum(counts.get(f"{prefix}.{name}", {}).values()) / samples * (1 - density)
        for name, density in densities.items()
    )
    sparse = dense - saved
    rows = [("operations of a sample", "dense", "sparse", "sparse / dense")]
    for word, one, other in (
        ("inference", dense, sparse),
        ("training step", 3 * dense, 3 * sparse),
        ("training step, RigL", 3 * dense, (302 * sparse + dense) / 101),
    ):
        rows.append((word, f"{one:,.0f}", f"{other:,.0f}", f"{other / max(one, 1):.3f}"))
    return table(rows)


def latency_table(model: nn.Module, example: Tensor, repetitions: int = 30) -> str:
    """Return the measured time of inference, dense and in CSR, and say where sparse loses.

    The two take turns; each time is the median of some repetitions, on as many threads as PyTorch has.

    Args:
        model: A dense model with sparse weights.
        example: An input, (batch, ...), whose samples are repeated to fill a batch.
        repetitions: How often each is measured.

    Raises:
        ValueError: No layer can be stored in CSR.
    """
    rows, slower = [("batch", "dense ms", "csr ms", "csr / dense")], []
    dense, sparse = dense_copy(model), to_csr(dense_copy(model), max_density=0.99)
    for batch in BATCHES:
        inputs = torch.cat(list(islice(repeat(example), batch // len(example) + 1)))[:batch]
        times: tuple[list[float], list[float]] = [], []
        for _ in range(3 + repetitions):  # the first ones warm up
            for each, found in zip((dense, sparse), times, strict=True):
                start = time.perf_counter()
                with torch.inference_mode():
                    each(inputs)
                found.append(time.perf_counter() - start)
        one, other = (1000 * statistics.median(each[3:]) for each in times)
        rows.append((str(batch), f"{one:.3f}", f"{other:.3f}", f"{other / one:.2f}"))
        slower += [f"batch {batch}"] if other > one else []
    verdict = f"CSR is slower than dense at {' and '.join(slower)}." if slower else "CSR is faster than dense at both."
    return f"{table(rows)}\n{verdict}"
