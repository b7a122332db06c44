"""Which weights are trained sparse, and how many connections each of them has."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import accumulate
from types import MappingProxyType

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from sparse_lightning.functional.checks import expect, is_number, nearest, with_hint
from sparse_lightning.functional.densities import Distribution
from sparse_lightning.functional.masks import exact_fraction
from sparse_lightning.functional.schedules import DENSITY_SCHEDULES, Schedule, geometric_descent
from sparse_lightning.functional.structure import Structure
from sparse_lightning.nn.sparse_linear import named_weights, sparse_layers, weight_shapes

PerLayer = float | Mapping[str, float]
Patterns = str | Sequence[str]


@dataclass(frozen=True)
class Choice:
    """What a selection found in a model.

    Attributes:
        counts: The number of active connections of each weight that is trained sparse, by parameter name.
        dense: Why each other parameter of two or more dimensions stays dense, by parameter name.
        pending: Names of selected weights that are not there yet: lazy layers before their first batch.
        custom: Names of selected layers whose forward pass is their own, and which may compute another weight.
    """

    counts: Mapping[str, int]
    dense: Mapping[str, str]
    pending: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Chooses weights by globs over parameter or layer names.

    By default the weights of Linear layers, of convolutions and of Hugging Face's Conv1D, those that are trained. Never
    by default, only by a pattern that matches no layer of these: recurrent weights, attention's ``in_proj_weight``,
    embeddings, experts' three-dimensional weights. A weight that a layer shares with an embedding only by a pattern
    that matches the embedding and no layer. A parameter of one dimension, a bias, only by its whole name. A
    SparseLinear keeps its own number of connections.

    Attributes:
        density: Share of active connections, or shares by pattern.
        prune_fraction: Share that a rewiring replaces, or shares by pattern.
        include: Patterns to train sparse; None for the default.
        exclude: Patterns to leave dense.
        distribution: How a density spreads over the weights of one pattern.
        initial_density: Share of active connections at the start, of each pattern; None if the density is constant.
        density_schedule: How far the density is on its way from there, as a function of progress in [0, 1].
        structure: What the active connections of each weight keep, which rounds their number.
    """

    density: PerLayer
    prune_fraction: PerLayer
    include: tuple[str, ...] | None
    exclude: tuple[str, ...]
    distribution: Distribution = field(repr=False)
    initial_density: float | None = None
    density_schedule: Schedule = field(repr=False, default=DENSITY_SCHEDULES["cubic"])
    structure: Structure | None = None

    def __post_init__(self) -> None:
        for argument, value in (("density", self.density), ("prune_fraction", self.prune_fraction)):
            _check_per_layer(argument, value)
        if self.initial_density is not None:
            _check_per_layer("initial_density", self.initial_density)
        expect(callable(self.density_schedule), "density_schedule to be a name or a function of progress", self)
        expect(self.density != {}, "density by layer name", self.density)
        constant = self.structure is None or self.initial_density is None
        expect(constant, "initial_density=None with a structure, whose numbers stay", self.initial_density)
        expect(self.include != (), "include to be patterns or None", self.include)

    def choose(
        self,
        module: nn.Module,
        trained: Callable[[nn.Parameter], bool],
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> Choice:
        """Choose the weights of a model; a tied one under its first name.

        Args:
            module: The model.
            trained: Whether a parameter is trained.
            known: Numbers of connections that weights have already. The density spreads over the others alone, so that
                it holds for all together.

        Raises:
            ValueError: A pattern matches nothing, a layer computes its weight, a layer would have no connection, or
                nothing at all is chosen.
        """
        model = _Inventory(module)
        model.refuse_computed(self.include is None and not isinstance(self.density, Mapping), self.exclude)
        by_pattern = self.density if isinstance(self.density, Mapping) else {}
        included = self.include if self.include is not None else tuple(by_pattern)
        argument = "include" if self.include is not None else "density"
        selected = {name for pattern in included for name in model.match(argument, pattern)} or set(model.usual)
        excluded = {name for pattern in self.exclude for name in model.match("exclude", pattern, computed=True)}
        if isinstance(self.prune_fraction, Mapping):
            for pattern in self.prune_fraction:
                model.match("prune_fraction", pattern)
        names = [name for name in model.parameters if name in selected - excluded]
        real = [name for name in names if not model.parameters[name].is_complex()]
        chosen = [name for name in real if trained(model.parameters[name]) and name not in model.lazy]
        known = {**known, **model.connections}
        new = self._counts(model, [name for name in chosen if name not in known])
        counts = {name: new.get(name, known.get(name, 0)) for name in chosen if name in new or name in known}
        dense = dict.fromkeys(chosen, "no pattern of density") | {
            name: "excluded" if name in excluded else "not trained" if not trained(parameter) else model.reason(name)
            for name, parameter in model.parameters.items()
            if name not in chosen and name not in model.lazy and len(model.shapes[name]) > 1
        }
        custom = tuple(layer for layer in model.custom if any(name.startswith(f"{layer}.") for name in counts))
        return Choice(
            counts,
            {name: reason for name, reason in dense.items() if name not in counts},
            tuple(name for name in names if name in model.lazy),
            custom,
        )

    def fraction(self, name: str) -> Fraction:
        """Return the prune fraction of one weight, exact; 0 where no pattern matches it."""
        if not isinstance(self.prune_fraction, Mapping):
            return exact_fraction(self.prune_fraction)
        found = (value for pattern, value in self.prune_fraction.items() if matches(name, pattern))
        return exact_fraction(next(found, 0.0))

    def scheduled_counts(self, module: nn.Module, names: Collection[str], progress: Fraction) -> dict[str, int]:
        """Return how many connections these weights shall have at a progress in [0, 1]; none if that never changes.

        Raises:
            ValueError: The schedule gives a number that is not in [0, 1], or a layer would have no connection.
        """
        return {} if self.initial_density is None else self._counts(_Inventory(module), names, progress)

    def _density_at(self, final: float, progress: Fraction) -> float:
        if self.initial_density is None:
            return float(final)
        way = self.density_schedule(progress)
        if not 0 <= way <= 1:
            raise ValueError(f"Expected density_schedule to give a number in [0, 1], got {way!r} at {progress}")
        if self.density_schedule is geometric_descent:
            return float(self.initial_density ** (1 - way) * final**way)
        return float(
            exact_fraction(final)
            + (exact_fraction(self.initial_density) - exact_fraction(final)) * (1 - exact_fraction(way))
        )

    def _counts(self, model: "_Inventory", names: Collection[str], progress: Fraction = Fraction(0)) -> dict[str, int]:
        if isinstance(self.density, Mapping):
            by_pattern: dict[str, list[str]] = {}
            for name in names:
                owner = next((each for each in self.density if name in model.match("density", each)), None)
                if owner is not None:  # a weight that no pattern of density matches stays dense
                    by_pattern.setdefault(owner, []).append(name)
            pairs = [(self.density[pattern], group) for pattern, group in by_pattern.items()]
        else:
            pairs = [(self.density, list(names))] if names else []
        counts: dict[str, int] = {}
        for density, group in pairs:
            shapes = {name: model.shapes[name] for name in group}
            spread = self.distribution(shapes, self._density_at(density, progress))
            counts |= {name: self._structured(name, shapes[name], count) for name, count in spread.items()}
        for name, count in counts.items():
            if count == 0:
                raise ValueError(f"Expected a density that leaves {name!r} a connection, got {self.density}")
        return {name: counts[name] for name in names if name in counts}

    def _structured(self, name: str, shape: Sequence[int], count: int) -> int:
        if self.structure is None or count == 0:
            return count
        try:
            return self.structure.count(shape, count)
        except ValueError as error:
            raise ValueError(f"{error}, of {name!r}: exclude it, or choose another structure or density") from None


class _Inventory:
    """The parameters of a model by what they are."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters, self.shapes = named_weights(module), weight_shapes(module)
        sparse = sparse_layers(module)
        self.connections = {name: len(layer.values) for name, layer in sparse.items()}
        layers = {name: layer for name, layer in module.named_modules() if _is_layer(layer)}
        self.computed = [name for name, layer in layers.items() if not isinstance(layer.weight, nn.Parameter)]
        self.custom = [name for name, layer in layers.items() if _has_own_forward(layer)]
        own = {id(layer.weight) for layer in layers.values()} | {id(layer.values) for layer in sparse.values()}
        embedded = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)}
        self.tied = {name for name, weight in self.parameters.items() if id(weight) in own & embedded}
        self.usual = [name for name, weight in self.parameters.items() if id(weight) in own and name not in self.tied]
        self.aliases: dict[str, list[str]] = {name: [name] for name in self.parameters}
        first = {id(weight): name for name, weight in self.parameters.items()}
        for name, weight in module.named_parameters(remove_duplicate=False):
            if name not in self.aliases:
                self.aliases[first[id(weight)]].append(name)
        self.lazy = {name for name, weight in self.parameters.items() if isinstance(weight, UninitializedParameter)}

    def refuse_computed(self, by_default: bool, exclude: Sequence[str]) -> None:
        """Refuse layers that compute their weight, unless patterns choose or exclude them."""
        found = [name for name in self.computed if not any(matches(name, pattern) for pattern in exclude)]
        if by_default and found:
            raise ValueError(
                f"Expected the weight of {', '.join(map(repr, found))} to be a parameter, got one computed from "
                "others, as by weight_norm: exclude the layer, or name in include which parameters to train sparse"
            )

    def match(self, argument: str, pattern: str, computed: bool = False) -> list[str]:
        """Return the names of the parameters that a pattern matches."""
        names = [name for name in self.usual if any(matches(each, pattern) for each in self.aliases[name])]
        names = names or [
            name
            for name in self.parameters
            if matches(name, pattern) and (name == pattern or name in self.lazy or len(self.shapes[name]) > 1)
        ]
        if not names and not (computed and any(matches(name, pattern) for name in self.computed)):
            layers = [layer_name(name) for name in self.usual]
            found = f"Expected a layer to match {pattern!r} in {argument}, got only {', '.join(layers) or 'none'}"
            raise ValueError(with_hint(found, _meant(pattern, layers)))
        return names

    def reason(self, name: str) -> str:
        """Return why a parameter that is trained and not excluded was not selected."""
        if self.parameters[name].is_complex():
            return "complex numbers"
        if name in self.tied:
            return "shared with an embedding"
        return "not included" if name in self.usual else "not the weight of a Linear or a convolution"


def _meant(pattern: str, layers: Sequence[str]) -> str:
    """Return a hint that names a glob near to one that matches no layer, or an empty string.

    >>> layers = ["net.layer1.0", "net.layer1.1", "net.head"]
    >>> _meant("net.layr1.*", layers), _meant("net.layer1", layers), _meant("head", layers)
    ("did you mean 'net.layer1.*'?", "did you mean 'net.layer1.*'?", "did you mean '*head'?")
    """
    wider = (f"{pattern}.*", f"*{pattern}", f"*{pattern}.*") if pattern else ()
    if found := next((each for each in wider if any(matches(layer, each) for layer in layers)), ""):
        return f"did you mean {found!r}?"
    groups = [f"{group}.*" for layer in layers for group in accumulate(layer.split(".")[:-1], "{}.{}".format)]
    return nearest(pattern, [*layers, *groups])


def patterns(argument: str, value: Patterns) -> tuple[str, ...]:
    """Return one or several patterns as a tuple.

    Raises:
        ValueError: They are no strings.
    """
    several = [value] if isinstance(value, str) else value
    valid = isinstance(several, Sequence) and all(isinstance(pattern, str) for pattern in several)
    expect(valid, f"{argument} to be patterns", value)
    return tuple(several)


def layer_name(name: str) -> str:
    """Return the name of the layer that a weight belongs to.

    >>> layer_name("encoder.fc.weight")
    'encoder.fc'
    """
    return name.removesuffix(".weight")


def matches(name: str, pattern: str) -> bool:
    """Return whether a glob matches a parameter, or the layer that owns it.

    >>> matches("encoder.fc.weight", "encoder.*"), matches("encoder.fc.weight", "*.fc"), matches("head.weight", "fc")
    (True, True, False)
    """
    return any(fnmatchcase(each, pattern) for each in (name, layer_name(name), name.rpartition(".")[0]))


def _is_layer(module: nn.Module) -> bool:
    # Hugging Face's Conv1D is a Linear whose weight is (in, out); it is known by its name, not by an import.
    return isinstance(module, nn.Linear | _ConvNd) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def _has_own_forward(layer: nn.Module) -> bool:
    """Whether a subclass of a convolution or a Linear computes its output in its own way, as standardised ones do."""
    defined_in = next(kind for kind in type(layer).__mro__ if "forward" in vars(kind)).__module__
    return isinstance(layer, nn.Linear | _ConvNd) and not defined_in.startswith("torch.")


def _check_per_layer(argument: str, value: PerLayer) -> None:
    if isinstance(value, Mapping):
        keys = all(isinstance(pattern, str) for pattern in value)
        expect(keys, f"{argument} to be a number or numbers by layer name", value)
    for number in value.values() if isinstance(value, Mapping) else (value,):
        percent = is_number(number) and 2 <= number < 100
        hint = f"did you mean {number / 100:g}?" if percent else ""
        if argument != "prune_fraction":
            expect(is_number(number) and 0 < number <= 1, f"{argument} in (0, 1]", number, hint)
        else:
            expect(is_number(number) and 0 <= number < 1, f"{argument} in [0, 1)", number, hint)
