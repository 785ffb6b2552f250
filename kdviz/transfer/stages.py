"""Find a handful of stages of any network, from its input to its logits."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from kdviz.networks.features import Batch, list_shapes, name_modules, rows_of

LEAST = 6  # stages, before containers are no longer opened

LOGITS = ""  # the network itself, whose output they are


def find_stages(network: nn.Module, inputs: Batch) -> list[str]:
    """Name the stages of a network, the logits last, each the end of what happens at one resolution.

    Containers are opened, all at once, until there are at least six parts. Of single modules one after the
    other that give as many positions only the last counts: convolution, norm and activation are one stage, as
    are all of one resolution in a VGG. So a ResNet gives its stem, its four layers, the pooled features and
    its logits, whatever its depth; a transformer its blocks.

    Parameters
    ----------
    network
        Frozen.
    inputs
        Two samples or more.
    """
    modules, names = name_modules(network), [LOGITS]
    shapes = list_shapes(network, inputs, modules)
    parts = {name for name, calls in shapes.items() if len(calls) == 1 and calls[0][:1] == (rows_of(inputs),)}
    order, kept = list(shapes), names
    while len(kept) < LEAST:
        opened = [part for name in names for part in _open(name, modules, parts) or [name]]
        if opened == names:
            break
        names = sorted(opened, key=order.index)
        kept = _join(names, modules, {name: shapes[name][0] for name in (*names, LOGITS)})
    return kept


def thin(names: Sequence[str], count: int) -> list[str]:
    """Keep so many names, first and last among them, as evenly as they can be."""
    return [names[at] for at in np.linspace(0, len(names) - 1, count).round().astype(int)]


def _open(name: str, modules: Mapping[str, nn.Module], parts: set[str]) -> list[str]:
    """Return the parts right inside a module, those inside of what is no part itself included."""

    def look() -> Iterator[str]:
        for child, _ in modules[name].named_children():
            inside = f"{name}.{child}" if name else child
            if inside in parts:
                yield inside
            else:
                yield from _open(inside, modules, parts)

    return list(look())


def _join(
    names: Sequence[str], modules: Mapping[str, nn.Module], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Leave out single modules after which the stage goes on, and what gives the logits."""

    def goes_on(name: str, after: str) -> bool:
        one, other = shapes[name], shapes[after]
        if _is_single(modules[after]) and not any(p.ndim > 1 for p in modules[after].parameters()):
            return math.prod(one) == math.prod(other)  # an activation, a norm, dropout or flattening
        alike = len(one) == len(other) > 2 and _positions(one) == _positions(other)
        return alike and _is_single(modules[name])

    kept = [name for name, after in zip(names, [*names[1:], LOGITS], strict=True) if not goes_on(name, after)]
    return [name for name in kept if shapes[name] != shapes[LOGITS]] + [LOGITS]


def _is_single(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _positions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of a map, or the number of tokens."""
    return shape[2:] if len(shape) > 3 else shape[1:-1]
