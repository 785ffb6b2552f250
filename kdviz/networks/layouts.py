"""Where positions and channels lie in what a layer gives: in its shape, the input's, and the modules around.

Three layouts are known: channels first ``(B, K, h, w)``, channels last ``(B, h, w, K)``, and tokens
``(B, k + h * w, K)`` after ``k`` others, such as a class token, a distillation token and registers.

Symbols: ``B`` samples, ``H, W`` input size, ``K, h, w`` channels and positions of a layer, ``T`` tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor, nn

from kdviz.errors import LayerError
from kdviz.networks.features import frozen, list_shapes, name_modules
from kdviz.networks.preparing import device_of

Turn = Callable[[Tensor], Tensor]
"""Turns what a layer gives to ``(B, K, h, w)``."""

FindLayout = Callable[[str, str], "Layout | None"]
"""From a layer, and the argument that a user can give instead, to what :func:`find_layout` finds."""

Shape = tuple[int, ...]

_MOST_OTHERS = 16  # tokens before the positions: a class token, and the registers of any published network
_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)


def ask_for(argument: str) -> str:
    """Say how the argument that turns an output to a map is given, or, without its name, what else to do."""
    if not argument:
        return "take another layer, such as the one around it"
    return (
        f"pass {argument}=, a function that turns this to (B, channels, height, width), such as lambda "
        "output: output for channels that come first, lambda output: output.movedim(-1, 1) for channels that "
        "come last, lambda output: output[:, 1:].unflatten(1, (14, 14)).movedim(-1, 1) for 14 x 14 tokens "
        "after another one"
    )


@dataclass(frozen=True)
class Layout:
    """How a layer's output becomes a map.

    Attributes
    ----------
    name
        As stored with a map.
    turn
        From the layer's output to ``(B, K, h, w)``.
    others
        Tokens before the positions.
    """

    name: str
    turn: Turn
    others: int = 0


FIRST = Layout("channels first", lambda output: output)
LAST = Layout("channels last", lambda output: output.movedim(-1, 1))


def tokens(others: int, size: Shape) -> Layout:
    """Return the layout of tokens on a grid of `size`, row by row, after some others."""

    def turn(output: Tensor) -> Tensor:
        return output[:, others:].unflatten(1, size).movedim(-1, 1)

    return Layout(f"tokens {size[0]} x {size[1]} after {others} others", turn, others)


def give_layout(layer: str, output: Tensor, turn: Turn, argument: str = "layout") -> Layout:
    """Return the layout that a user gives, once it is seen to turn what a layer gives to a map.

    Raises
    ------
    LayerError
        If it makes no map with more than one position of `output`.
    """
    turned = turn(output)
    if turned.ndim != 4 or len(turned) != len(output) or turned.shape[2:].numel() < 2:
        raise LayerError(
            f"{argument} turns what layer {layer!r} gives, {tuple(output.shape)}, to {tuple(turned.shape)}; "
            "a map needs (B, channels, height, width) with more than one position"
        )
    return Layout("given", turn)


def find_layout(
    layer: str,
    shapes: Mapping[str, list[Shape]],
    modules: Mapping[str, nn.Module],
    size: Shape,
    argument: str = "layout",
) -> Layout | None:
    """Find how a layer's output becomes a map with more than one position; None if it has none.

    Parameters
    ----------
    layer
        One that is called once.
    shapes
        Of the outputs of all layers for one sample, from :func:`kdviz.networks.list_shapes`.
    modules
        Of the network, by name.
    size
        ``(H, W)``.
    argument
        Name of the one that a user can give instead.

    Raises
    ------
    LayerError
        If neither the output's shape nor the modules that give it say which axis is that of the channels.

    Notes
    -----
    Of four axes, what the layer itself does with them decides: convolutions, batch norms and pooling have
    channels first, ``nn.Linear`` and ``nn.LayerNorm`` last. Where it does nothing of the kind, or both, the
    two axes in the input's proportions are the positions; where both pairs are, or none, what the network
    does elsewhere with tensors of this shape. Tokens lie on the grid of a convolution of this network, such
    as its patch embedding, or on one of the input's proportions, after as few others as possible.
    """
    (shape,) = shapes[layer]
    everywhere = {name: _tell(modules[name]) for name in shapes if shape in shapes[name]}
    if len(shape) == 3 and shape[0] == 1:
        grid, other = (_find_grid(count, shapes, modules, size) for count in shape[1:])
        if LAST in everywhere.values() or grid is None or other is None or other.others:
            return grid
    elif len(shape) != 4 or shape[0] != 1:
        return None
    else:
        places = {FIRST: shape[2:], LAST: shape[1:3]}
        fits = {layout for layout, positions in places.items() if _in_proportion(positions, size)}
        inside = {told for name, told in everywhere.items() if f"{name}.".startswith(f"{layer}.")}
        for told in (inside, fits, {*everywhere.values()}):
            found = [layout for layout in told if layout is FIRST or layout in fits]
            if len(found) == 1:
                return found[0] if math.prod(places[found[0]]) > 1 else None
    raise LayerError(
        f"layer {layer!r} gives {shape}, of which axes are the channels cannot be known; {ask_for(argument)}"
    )


def finder(network: nn.Module, image: Tensor) -> FindLayout:
    """Return what finds the layouts of a network's layers, each once and when it is asked for.

    Parameters
    ----------
    network
        Left as found.
    image
        ``(1, channels, H, W)``, on any device.
    """

    @cache
    def survey() -> tuple[dict[str, list[Shape]], dict[str, nn.Module]]:
        modules = name_modules(network)
        with frozen(network):
            return list_shapes(network, image.to(device_of(network)), modules), modules

    @cache
    def find(layer: str, argument: str) -> Layout | None:
        return find_layout(layer, *survey(), tuple(image.shape[2:]), argument)

    return find


def _find_grid(
    count: int, shapes: Mapping[str, list[Shape]], modules: Mapping[str, nn.Module], size: Shape
) -> Layout | None:
    """Find the grid on which so many tokens lie, some leading ones apart."""
    known = {shape[2:] for name in shapes if _tell(modules[name]) is FIRST for shape in shapes[name]}
    for grids in ({grid for grid in known if len(grid) == 2}, _proportional_grids(count, size)):
        fitting = [
            (count - h * w, (h, w)) for h, w in grids if 0 <= count - h * w <= _MOST_OTHERS and h * w > 1
        ]
        if fitting:
            return tokens(*min(fitting))
    return None


def _proportional_grids(count: int, size: Shape) -> Iterator[Shape]:
    """List the grids of the input's exact proportions with up to so many positions."""
    height, width = size
    for rows in range(1, count + 1):
        if rows * width % height == 0 and 0 < rows * (cols := rows * width // height) <= count:
            yield rows, cols


def _tell(module: nn.Module) -> Layout | None:
    """Say on which layout a module works; subclasses of the last two may turn their input."""
    if isinstance(module, _CHANNELS_FIRST):
        return FIRST
    is_last = type(module) is nn.Linear or (
        type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    )
    return LAST if is_last else None


def _in_proportion(positions: Shape, size: Shape) -> bool:
    """Tell whether a grid divides the input into cells as high as wide, but for rounding."""
    (rows, cols), (height, width) = positions, size
    return abs(rows * width - cols * height) < max(height, width)
