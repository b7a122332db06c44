"""Coactivation of every connection, counted while a model trains."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.criteria.counting import Counting
from sparse_lightning.criteria.layer_calls import LayerCall, LayerCalls, is_transposed_linear
from sparse_lightning.criteria.ranks import is_distributed
from sparse_lightning.functional.coactivation import add_coactivation_, exact_counts, sample_count
from sparse_lightning.nn.sparse_linear import named_weights, weight_shapes


class CoactivationTracker:
    """Counts the coactivation of every connection of some layers while their model trains.

    An input unit's value is what the layer receives; an output unit's value is read after the normalisation and the
    activation function that follow the layer, see :class:`~sparse_lightning.criteria.layer_calls.LayerCalls`. Counted
    are Linear, convolutions, Embedding, Hugging Face's Conv1D and the input projections of MultiheadAttention, wherever
    they are called as modules; :meth:`uncounted` lists the others.

    The callback drives it: `attach` before training, `count` after each batch, `reset` after a rewiring, `detach` at
    the end.

    Counts take 4 bytes a connection, 8 from 2^31 samples on.

    Args:
        count_validation: Count the validation samples too.
        read_at: Modules to read the activity of a layer's output units from, {layer name: module name}.
        threshold: What the value of an active unit is above.
        winners: Share of a layer's units that can be active in a sample.
        every_n_batches: Count one of so many batches; see :class:`~sparse_lightning.criteria.counting.Counting` for all
            of these.

    Attributes:
        counting: The arguments.
        samples: For each weight, how many samples of this rank were counted, an upper bound of each of its counts:
            positions of a convolution; of attention between sequences, query, key and value positions together.
    """

    def __init__(
        self,
        *,
        count_validation: bool = False,
        read_at: Mapping[str, str] | None = None,
        threshold: float = 0.0,
        winners: float | None = None,
        every_n_batches: int | None = 1,
    ) -> None:
        self.counting = Counting(count_validation, dict(read_at or {}), threshold, winners, every_n_batches)
        self.samples: dict[str, int] = {}
        self._counts: dict[str, Tensor] = {}
        self._read_at: dict[str, str] = {}
        self._module: nn.Module | None = None
        self._names: tuple[str, ...] = ()
        self._calls: LayerCalls | None = None
        self._wait = 0

    def __repr__(self) -> str:
        return f"CoactivationTracker({', '.join(self.counting.options())})"

    @property
    def counts(self) -> dict[str, Tensor]:
        """For each weight, how many samples of this rank had both units active: integers, shaped like the weight."""
        return {name: _integers(counts) for name, counts in self._counts.items()}

    @property
    def read_at(self) -> dict[str, str]:
        """For each weight, the name of the module whose output tells which output units are active."""
        return self._read_at | (self._calls.read_at if self._calls else {})

    @property
    def uncountable(self) -> list[str]:
        """The attached parameters whose coactivation can not be counted, known before training."""
        return list(self._calls.uncountable) if self._calls else []

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Start counting.

        Args:
            module: The model.
            names: Parameter names of the weights. Those that can not be counted are in `uncountable` from then on.
            optimizers: Not used.

        Raises:
            ValueError: `read_at` names a layer that is not among the names or a module that does not exist.
        """
        self.detach()
        self._calls = LayerCalls(module, names, self.counting, self._wait)
        self._module, self._names = module, tuple(names)
        weights, shapes = named_weights(module), weight_shapes(module)
        for name in names:
            if name not in self._calls.uncountable:
                counts = self._counts.get(name)
                if counts is None or counts.shape != shapes[name]:
                    counts, self.samples[name] = torch.zeros(shapes[name]), 0
                self._counts[name] = counts.to(weights[name].device)

    def detach(self) -> None:
        """Stop counting; the counts stay."""
        if self._calls is not None:
            self._read_at = self.read_at
            self._calls.close()
        self._module, self._names, self._calls = None, (), None

    def count(self) -> None:
        """Add the forward passes since the last call to the counts."""
        if self._calls is not None and self._module is not None:
            for call in self._calls.take():
                self._add(call)
            if self._module.training:  # a resumed run may leave out the validation before it
                self._wait = self._calls.advance()

    def reset(self) -> None:
        """Start again from zero, with the layers that the model has now if some were replaced."""
        for name, counts in self._counts.items():
            self._counts[name] = torch.zeros_like(counts, dtype=torch.float32)
            self.samples[name] = 0
        self._wait = 0
        if self._calls is not None:
            self._calls.wait = 0
        if self._module is not None and self._calls and not self._calls.is_current(self._module, self._names):
            self.attach(self._module, self._names)

    def uncounted(self, names: Collection[str]) -> list[str]:
        """Those of these weights without a sample since the last reset on any rank.

        Either their coactivation can not be counted, or their layers were not called as modules in training mode. A
        collective operation when training is distributed: every rank calls it with the same names.
        """
        names, device = list(names), next(iter(self._counts.values()), torch.empty(0)).device
        samples = _sum_over_ranks(torch.tensor([self.samples.get(name, 0) for name in names], device=device))
        return [name for name, count in zip(names, samples.tolist(), strict=True) if not count]

    def total(self, name: str) -> Tensor:
        """The counts of one weight over all ranks; a collective operation when training is distributed.

        Raises:
            RuntimeError: The weight has no sample since the last reset, see :meth:`uncounted`.
        """
        if self.uncounted([name]):
            raise RuntimeError(
                f"Expected the layer of {name!r} to have been called in training as a module whose coactivation can be "
                "counted, got no call since the last reset; exclude it, or choose criteria that are not Hebbian"
            )
        return _sum_over_ranks(self._counts[name])

    def state_dict(self) -> dict[str, Any]:
        """Counts and samples by parameter name; a collective operation when training is distributed."""
        totals = {name: _sum_over_ranks(counts) for name, counts in self._counts.items()}
        samples = {name: int(_sum_over_ranks(totals[name].new_tensor(self.samples[name]))) for name in totals}
        return {"counts": totals, "samples": samples, "wait": self._wait}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved counts, which are those of all ranks: the first rank takes them, others start at 0."""
        first = not is_distributed() or torch.distributed.get_rank() == 0
        self._counts = {
            name: counts.clone() if first else torch.zeros_like(counts) for name, counts in state["counts"].items()
        }
        self.samples = {name: count if first else 0 for name, count in state["samples"].items()}
        self._wait = state.get("wait", 0)

    def __eq__(self, other: object) -> bool:
        """Whether another tracker counts the same way."""
        return isinstance(other, CoactivationTracker) and self.counting == other.counting

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have the counts, not the hooks on one model's modules."""
        return self.__dict__ | {"_read_at": self.read_at, "_module": None, "_names": (), "_calls": None}

    def _add(self, call: LayerCall) -> None:
        name, inputs, outputs = call.name, call.inputs, cast(Tensor, call.outputs)
        if is_transposed_linear(call.layer):
            inputs, outputs = outputs, inputs  # coactivation is symmetric, and the weight is (in, out)
        self.samples[name] += sample_count(inputs, outputs, call.layer)
        counts = self._counts[name] = exact_counts(self._counts[name].to(outputs.device), self.samples[name])
        add_coactivation_(counts if call.rows is None else counts[call.rows], inputs, outputs, call.layer)


def _integers(counts: Tensor) -> Tensor:
    return counts.int() if counts.is_floating_point() else counts


def _sum_over_ranks(counts: Tensor) -> Tensor:
    """Integers summed over all ranks."""
    counts = _integers(counts)
    if is_distributed():
        counts = counts.to(torch.int64, copy=True)  # one type on all ranks, whatever each has counted
        torch.distributed.all_reduce(counts)
    return counts
