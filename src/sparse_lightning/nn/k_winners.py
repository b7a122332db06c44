"""An activation that lets the k highest units of a layer through."""

from numbers import Integral, Real

import torch
from torch import Tensor, nn


def k_winners(input: Tensor, count: int, preference: Tensor) -> Tensor:  # noqa: A002
    """Keep each sample's `count` units of highest preference, and set the others to zero.

    Args:
        input: The activations, (..., features). What is kept is kept as it is, negative values included.
        count: How many units win, from 0 to the number of features.
        preference: What decides, shaped like `input`. Equal preferences are cut to the exact count.

    >>> k_winners(torch.tensor([[3., -1., 2., 4.]]), 2, torch.tensor([[3., 9., 2., 4.]]))
    tensor([[ 0., -1.,  0.,  4.]])
    """
    winners = preference.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(input).scatter(-1, winners, input.gather(-1, winners))


class KWinners(nn.Module):
    """Only the k highest units of a layer stay active in each sample; those active too often are held back.

    Ahmad & Scheinkman 2019, "How can we be so dense? The benefits of using highly sparse representations", section 3.
    In training k is ``round(percent_on * features)``, in evaluation ``int(k * k_inference_factor)``. Winners are the
    units of highest ``x * exp(-boost_strength * duty_cycle)``; the output is x where they are, negative values
    included, and zero elsewhere. In training, after each batch of B samples, ::

        duty_cycle = (duty_cycle * (period - B) + count of positive outputs) / period

    with ``period = min(duty_cycle_period, samples so far)``. This is how nupic.torch computes it: the paper boosts by
    the difference from the target density, which scales all units alike. Deliberate difference: a batch larger than
    `duty_cycle_period` is averaged over its own size, where the original gives earlier batches a negative weight.

    Args:
        features: Number of units, the last dimension of the input.
        percent_on: Share of the units that win in training, in (0, 1].
        k_inference_factor: Factor of k in evaluation, at least 0; never more than all units win.
        boost_strength: How strongly units that win often are held back, at least 0; 0 is no boosting.
        boost_strength_factor: What boost strength is multiplied by at each epoch's end, in [0, 1].
        duty_cycle_period: Number of samples that the duty cycle is averaged over, at least 1.

    Shape:
        Input and output (..., features); each vector of the leading dimensions is a sample.

    Attributes:
        duty_cycle: How often each unit was positive after the competition, in [0, 1] (features); a buffer, as are
        boost_strength: the current strength, and
        samples_seen: the number of training samples so far.

    Raises:
        ValueError: An argument is out of range, or no unit would win.

    A model calls :meth:`decay_boost` at the end of each training epoch.

    >>> layer = KWinners(4, percent_on=0.5, boost_strength=0.0)
    >>> layer(torch.tensor([[3., -1., 2., 4.]]))
    tensor([[3., 0., 0., 4.]])
    >>> layer.duty_cycle
    tensor([1., 0., 0., 1.])
    """

    duty_cycle: Tensor
    boost_strength: Tensor
    samples_seen: Tensor

    def __init__(
        self,
        features: int,
        percent_on: float,
        *,
        k_inference_factor: float = 1.0,
        boost_strength: float = 1.0,
        boost_strength_factor: float = 0.9,
        duty_cycle_period: int = 1000,
    ) -> None:
        super().__init__()
        _check("features", features, Integral, features >= 1, "at least 1")
        _check("percent_on", percent_on, Real, 0 < percent_on <= 1, "in (0, 1]")
        _check("k_inference_factor", k_inference_factor, Real, k_inference_factor >= 0, "at least 0")
        _check("boost_strength", boost_strength, Real, boost_strength >= 0, "at least 0")
        _check("boost_strength_factor", boost_strength_factor, Real, 0 <= boost_strength_factor <= 1, "in [0, 1]")
        _check("duty_cycle_period", duty_cycle_period, Integral, duty_cycle_period >= 1, "at least 1")
        self.features, self.percent_on = int(features), float(percent_on)
        self.k_inference_factor, self.boost_strength_factor = float(k_inference_factor), float(boost_strength_factor)
        self.duty_cycle_period = int(duty_cycle_period)
        self._initial_boost_strength = float(boost_strength)
        if not self.k:
            raise ValueError(f"Expected percent_on to let a unit of {features} win, got {percent_on}")
        self.register_buffer("duty_cycle", torch.zeros(self.features))
        self.register_buffer("boost_strength", torch.tensor(float(boost_strength)))
        self.register_buffer("samples_seen", torch.tensor(0))

    @property
    def k(self) -> int:
        """How many units win in a sample in training."""
        return round(self.features * self.percent_on)

    @property
    def k_inference(self) -> int:
        """How many units win in a sample in evaluation."""
        return min(int(self.k * self.k_inference_factor), self.features)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """The winners' values, (..., features), zero elsewhere."""
        if not input.dim() or input.shape[-1] != self.features:
            raise ValueError(f"Expected input of shape (..., {self.features}), got {tuple(input.shape)}")
        boost = torch.exp(-self.boost_strength * self.duty_cycle).to(input.dtype)
        output = k_winners(input, self.k if self.training else self.k_inference, input.detach() * boost)
        if self.training:
            self._update_duty_cycle(output.detach().reshape(-1, self.features))
        return output

    @torch.no_grad()
    def decay_boost(self) -> None:
        """Multiply boost strength by its factor; call it once at the end of each training epoch."""
        self.boost_strength.mul_(self.boost_strength_factor)

    @torch.no_grad()
    def _update_duty_cycle(self, outputs: Tensor) -> None:
        samples = len(outputs)
        if samples:
            self.samples_seen += samples
            period = self.samples_seen.clamp(max=max(self.duty_cycle_period, samples))
            self.duty_cycle.mul_(period - samples).add_((outputs > 0).sum(0)).div_(period)

    def extra_repr(self) -> str:
        """The arguments that build a layer like this one, as it was before training."""
        return (
            f"features={self.features}, percent_on={self.percent_on}, k_inference_factor={self.k_inference_factor}, "
            f"boost_strength={self._initial_boost_strength}, boost_strength_factor={self.boost_strength_factor}, "
            f"duty_cycle_period={self.duty_cycle_period}"
        )


def _check(name: str, value: object, kind: type, fits: bool, expected: str) -> None:
    if not isinstance(value, kind) or not fits:
        raise ValueError(f"Expected {name} {expected}, got {value}")
