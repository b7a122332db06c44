"""What a sparse model costs beside a dense one: bytes, floating-point operations, and measured time."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparse_lightning.callbacks.selection import layer_name
from sparse_lightning.callbacks.summary import table
from sparse_lightning.export.csr import to_csr
from sparse_lightning.export.dense_small import dense_copy
from sparse_lightning.export.packed import pack

BATCHES = (1, 128)


def size_table(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], obstacles: Mapping[str, str]) -> str:
    """Return what the weights of a model take, in bytes: dense, in CSR, and packed as in a safetensors file.

    Args:
        weights: The parameters of a model, dense, by name.
        masks: The masks of the sparse ones.
        obstacles: Why :func:`~sparse_lightning.to_csr` leaves one of these dense, by name.
    """
    totals = [0, 0, 0]
    for name, weight in weights.items():
        sizes = [weight.nbytes] * 3
        if name in masks:
            active, rows = int(masks[name].count_nonzero()), len(weight)
            values = active * weight.element_size()
            sizes[1] = values + 4 * (active + rows + 1) if name not in obstacles else weight.nbytes
            sizes[2] = min(weight.nbytes, values + pack(masks[name].cpu())[1].nbytes)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
    rows_of = [("stored", "bytes", "of dense")]
    rows_of += [
        (word, f"{size:,}", f"{size / max(totals[0], 1):.3f}")
        for word, size in zip(("dense", "csr", "packed"), totals, strict=True)
    ]
    dense = ", ".join(f"{layer_name(name)} ({reason})" for name, reason in obstacles.items())
    note = [f"Dense in csr too: {dense}."] if dense else []
    return "\n".join([table(rows_of), *note])


def flop_table(model: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> str:
    """Return floating-point operations of one sample: of inference, and of a training step.

    Each product of a sparse weight counts by its density. A training step takes three times the forward pass (Evci et
    al. 2020, "Rigging the Lottery", appendix H); where growth reads the dense gradient every 100 steps, as RigL does,
    (3 s x 100 + 2 s + d) / 101, for s sparse and d dense operations of the forward pass.

    Args:
        model: A dense model.
        masks: The masks of its sparse parameters, by name.
        example: An input, (batch, ...).
    """
    counter = _WeightFlops(model)
    with counter, torch.no_grad(), _plain_kernels():
        model(example)
    samples = max(len(example), 1)
    dense = sum(counter.flops.values()) / samples
    unused = {name: float(1 - mask.float().mean()) for name, mask in masks.items()}
    sparse = dense - sum(counter.flops[name] * share for name, share in unused.items()) / samples
    rows = [("operations of a sample", "dense", "sparse", "sparse / dense")]
    for word, one, other in (
        ("inference", dense, sparse),
        ("training step", 3 * dense, 3 * sparse),
        ("training step, growth by gradient", 3 * dense, (302 * sparse + dense) / 101),
    ):
        rows.append((word, f"{one:,.0f}", f"{other:,.0f}", f"{other / max(one, 1):.3f}"))
    uncounted = sorted(name for name in masks if not counter.flops[name])
    note = [f"No operations were seen of {', '.join(uncounted)}."] if uncounted else []
    return "\n".join([table(rows), *note])


class _WeightFlops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations, by the parameter that takes part in them; those of none under "".

    Attributes:
        flops: Operations by the parameter's name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()
        self._names = {weight.untyped_storage().data_ptr(): name for name, weight in model.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            tensors = (value for value in args if isinstance(value, Tensor) and value.dim() > 1)
            names = [self._names.get(value.untyped_storage().data_ptr(), "") for value in tensors]
            flops = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.flops[max(names, default="")] += flops
        return out


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Computes by single products: fused kernels of attention and recurrent layers hide theirs from a count."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # mkldnn.flags warns of Intel GPUs, which nothing asked for
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


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
