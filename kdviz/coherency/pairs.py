"""Find the neighbouring layers between which scale can be moved without changing what a network computes.

Scale moves from one weighted layer to the next if everything between them is positively homogeneous, ``g(c z)
= c g(z)`` for ``c > 0``, channel by channel, and if nothing else reads or writes what lies between. The graph
that ``torch.fx`` traces says what does; what is not known to be homogeneous is refused, with the reason.

Symbols: ``B`` samples, ``C`` channels of the first layer's output.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional as F

from kdviz.networks.features import frozen, same_random_state, unwrap
from kdviz.networks.preparing import is_out_of_memory

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# What acts on every entry alone; on the axes after the channels, with their number; and what flattens.
_ENTRYWISE: set[Any] = {nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.AlphaDropout}
_ENTRYWISE |= {nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout}
_ENTRYWISE |= {F.relu, torch.relu, torch.relu_, "relu", "relu_", F.leaky_relu, F.leaky_relu_, F.prelu}
_ENTRYWISE |= {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, "contiguous", "clone", "detach"}
_SPATIAL: dict[Any, int] = {
    getattr(home, name.format(dimensions)): dimensions
    for home, names in (
        (nn, ("MaxPool{}d", "AvgPool{}d", "AdaptiveMaxPool{}d", "AdaptiveAvgPool{}d", "ZeroPad{}d")),
        (F, ("max_pool{}d", "avg_pool{}d", "adaptive_max_pool{}d", "adaptive_avg_pool{}d")),
    )
    for name in names
    for dimensions in (1, 2, 3)
}
_FLATTENING: set[Any] = {nn.Flatten, torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_READS_NO_VALUE = {"size", "dim", "shape", "ndim", "dtype", "device"}


@dataclass(frozen=True)
class Pair:
    """Two neighbouring weighted layers between which scale can be moved.

    Attributes
    ----------
    first, second
        Their names in ``network.named_modules()``.
    channels
        ``C``: channels, or features, that `first` gives.
    cells
        Inputs of `second` that come from one channel: more than 1 where positions are flattened.
    between
        Names of the modules that lie between the two.
    """

    first: str
    second: str
    channels: int
    cells: int = 1
    between: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name both layers."""
        return f"{self.first} -> {self.second}"


@dataclass(frozen=True)
class Survey:
    """What :func:`find_pairs` found.

    Attributes
    ----------
    pairs
        In the order of the forward pass.
    refusals
        ``{layer: reason}``: the weighted layers whose scale cannot be moved to the next one.
    order
        Names of all modules that are called, in that order.
    """

    pairs: tuple[Pair, ...]
    refusals: dict[str, str]
    order: tuple[str, ...]

    def tabulate(self) -> pd.DataFrame:
        """Return a row for every weighted layer that another follows: ``layer``, ``next``, ``refused``."""
        rows = [(pair.first, pair.second, "") for pair in self.pairs]
        rows += [(layer, "", reason) for layer, reason in self.refusals.items()]
        return pd.DataFrame(rows, columns=["layer", "next", "refused"])


def find_pairs(network: nn.Module, inputs: Tensor) -> Survey:
    """List the pairs of neighbouring layers that can be rescaled, and why the others cannot.

    Parameters
    ----------
    network
        Any network that ``torch.fx`` can trace. Left as found.
    inputs
        Shape ``(B, ...)``: some inputs, from which the shapes inside the network follow.

    Returns
    -------
    Survey
        Pairs of convolutions and fully connected layers between which there are only ReLU, leaky or
        parametric ReLU, pooling, averages over positions, zero padding, flattening, dropout (in eval mode
        nothing) and identities.

    Raises
    ------
    ValueError
        If the network cannot be traced, or what was traced gives other outputs than the network; if its
        precision is not that of the inputs, float64.

    Notes
    -----
    Positive factors pass ReLU and pooling unchanged, negative ones and smooth activations do not [1]_.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 3.2.

    Examples
    --------
    >>> import kdviz
    >>> network = kdviz.testing.small_cnn(size=8)
    >>> [str(pair) for pair in find_pairs(network, kdviz.testing.random_images(2, size=8)).pairs]
    ['conv1 -> conv2', 'conv2 -> fc1', 'fc1 -> fc2']
    """
    network = unwrap(network)
    graph = trace(network, inputs)
    walker = _Walker(network, graph)
    pairs, refusals = [], {}
    for node in graph.nodes:
        if node.op == "call_module" and type(walker.module(node)) in WEIGHTED and node.target not in refusals:
            found = walker.follow(node)
            if isinstance(found, Pair):
                pairs.append(found)
            elif found:
                refusals[str(node.target)] = found
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for name, module in network.named_modules():
        if isinstance(module, WEIGHTED) and (name not in called or type(module) not in WEIGHTED):
            refusals[name] = f"it is a {type(module).__name__} that is not called as a plain layer"
    return Survey(tuple(pairs), refusals, tuple(called))


def list_disjoint(pairs: Sequence[Pair]) -> list[Pair]:
    """Take pairs from the front that share no layer: the 1st with the 2nd, the 3rd with the 4th, ...

    Only such pairs can be rescaled together by known factors: where pairs overlap, the factors of the layers
    inside meet.
    """
    chosen: list[Pair] = []
    for pair in pairs:
        if not {pair.first, pair.second} & {name for one in chosen for name in (one.first, one.second)}:
            chosen.append(pair)
    return chosen


def trace(network: nn.Module, inputs: Tensor) -> fx.Graph:
    """Trace a network in eval mode, with the shape of every tensor noted at its node.

    Raises
    ------
    ValueError
        As :func:`find_pairs`.
    """
    kind = type(network).__name__
    with same_random_state(network), frozen(network), torch.no_grad():
        expected = compute(network, inputs)
        if not isinstance(expected, Tensor):
            raise ValueError(
                f"this {kind} gives a {type(expected).__name__}; wrap it in a module that gives one tensor"
            )
        try:
            graph = fx.Tracer().trace(network)
            found = ShapeProp(fx.GraphModule(network, graph)).propagate(inputs.clone())
        except Exception as error:  # whatever a stand-in for a tensor runs into
            reason = textwrap.shorten(str(error), 120)
            raise ValueError(
                f"torch.fx cannot trace this {kind}, so what lies between its layers is unknown ({reason}); "
                "pass a part of it that has no control flow on values or shapes"
            ) from error
    if not torch.allclose(expected, found, rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"as traced by torch.fx, this {kind} gives other outputs than by itself: it is random, or what "
            "it does depends on the values; pass a part of it that is neither"
        )
    return graph


def compute(network: nn.Module, inputs: Tensor) -> Any:
    """Return what a network gives.

    Raises
    ------
    ValueError
        If it, in float64 like the inputs, computes in a precision of its own.
    """
    try:
        return network(inputs.clone())
    except RuntimeError as error:
        if inputs.dtype != torch.float64 or is_out_of_memory(error):
            raise
        reason, _, _ = str(error).partition("\n")
        raise ValueError(
            f"this {type(network).__name__} does not compute in float64, so that no output is proved "
            f"to stay ({reason})"
        ) from error


class _Walker:
    """Follows what a weighted layer gives to the weighted layer that reads it."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        self._network = network
        calls = (id(self.module(node)) for node in graph.nodes if node.op == "call_module")
        self._calls = Counter(calls)
        modules = network.named_modules()
        own = [(name, p) for name, module in modules for p in module.parameters(recurse=False)]
        self._holders: dict[int, list[str]] = {}
        for name, parameter in own:
            self._holders.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)
        self._read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}

    def module(self, node: fx.Node) -> Any:
        return self._network.get_submodule(str(node.target))

    def follow(self, first: fx.Node) -> Pair | str | None:
        """Return the pair that begins with `first`, why there is none, or None if no layer follows."""
        layer = self.module(first)
        channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        axis = len(shape_of(first)) - 1 if isinstance(layer, nn.Linear) else 1
        cells, between, node = 1, [], first
        while True:
            readers = [user for user in node.users if not _reads_no_value(user)]
            if len(readers) > 1:
                names = sorted({self._name(reader) for reader in readers})
                return f"its output branches, to {', '.join(names)}: no single layer reads it"
            if not readers or readers[0].op == "output":
                return None
            before, node = node, readers[0]
            if node.op == "call_module" and type(self.module(node)) in WEIGHTED:
                break
            if len([one for one in node.all_input_nodes if "tensor_meta" in one.meta]) > 1:
                return f"{self._name(node)} joins it with another branch, which keeps its scale"
            passed = self._pass(before, node, axis, cells)
            if isinstance(passed, str):
                return passed
            cells = passed
            between += [str(node.target)] if node.op == "call_module" else []
        second = self.module(node)
        reads = len(shape_of(before)) - 1 if isinstance(second, nn.Linear) else 1
        if reads != axis:
            return f"{self._name(node)} reads another axis than that of its channels"
        return (
            self._refuse(first)
            or self._refuse(node)
            or Pair(str(first.target), str(node.target), channels, cells, tuple(between))
        )

    def _refuse(self, node: fx.Node) -> str | None:
        """Say why the weights of a layer cannot be changed for one use alone."""
        layer, name = self.module(node), self._name(node)
        if (count := self._calls[id(layer)]) > 1:
            return f"{name} is used {count} times in a pass"
        if not isinstance(layer._parameters.get("weight"), Tensor):
            return f"the weight of {name} is computed from other parameters; remove the parametrization"
        for kind, parameter in layer.named_parameters():
            holders = set(self._holders[parameter.untyped_storage().data_ptr()]) - {str(node.target)}
            if holders or f"{node.target}.{kind}" in self._read:
                return f"the {kind} of {name} is shared with {', '.join(sorted(holders)) or 'a function'}"
        return None

    def _pass(self, before: fx.Node, node: fx.Node, axis: int, cells: int) -> int | str:
        """Count the inputs that one channel has become after `node`, or why a factor does not pass it."""
        module = self.module(node) if node.op == "call_module" else None
        kind: Any = type(module) if module is not None else node.target
        given, got = shape_of(before), shape_of(node)
        if kind in _ENTRYWISE:
            return cells
        if kind in _SPATIAL and axis == 1 and len(given) == _SPATIAL[kind] + 2:
            return cells
        if kind in _FLATTENING and axis == 1 and got == (given[0], math.prod(given[1:])):
            return cells * math.prod(given[2:])
        if kind in ("mean", torch.mean) and axis == 1 and _is_mean_of_positions(node, len(given)):
            return cells
        if kind in NORMS:
            return f"{self._name(node)} has a scale of its own; fold it first (coherency.fold_batch_norm)"
        return f"{self._name(node)} is not known to be positively homogeneous in every channel"

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.module(node)).__name__})"
        return "the output" if node.op == "output" else getattr(node.target, "__name__", str(node.target))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that :func:`trace` noted at a node; empty if it gives no tensor."""
    noted = node.meta.get("tensor_meta")
    return tuple(noted.shape) if isinstance(noted, TensorMetadata) else ()


def _reads_no_value(node: fx.Node) -> bool:
    """Tell whether a node asks a tensor for its shape only."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _READS_NO_VALUE
    return node.op == "call_method" and node.target in _READS_NO_VALUE


def _is_mean_of_positions(node: fx.Node, dimensions: int) -> bool:
    axes: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    over = [axes] if isinstance(axes, int) else axes or range(dimensions)
    return {0, 1}.isdisjoint(axis % dimensions for axis in over)
