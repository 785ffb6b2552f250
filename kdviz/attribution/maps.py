"""Attribution maps of one batch: gradients, CAMs and occlusion, each named exactly.

Every map explains the *logit* of a class: the entry of the network's output ``(B, C)`` at the class, before
any softmax. Maps are given raw: not normalised, not resized, no ReLU after them, their sign kept where there
is one. A gradient over channels is a direction, so its maps are norms over channels, never negative; a
contribution to the logit adds up, so its maps are sums over channels, of either sign.

Symbols: ``B`` samples, ``C`` classes, ``H, W`` input size, ``K, h, w`` channels and size of the layer.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdviz.arguments import one_of
from kdviz.errors import LayerError, MissingExtraError
from kdviz.networks.features import (
    NO_TENSOR,
    Batch,
    answer,
    check_layers,
    frozen,
    list_shapes,
    main_of,
    map_batch,
    name_modules,
    noisy_part,
    read_layers,
    resolve_layers,
    rows_at,
    unwrap,
)
from kdviz.networks.layouts import FIRST, Layout, Turn, ask_for, find_layout, give_layout

LAYERED = ("layer_gradient", "activation", "cam", "grad_cam", "guided_grad_cam")
"""Those that look at a layer; the maps of all but the last have the layer's size, others the input's."""

STEPS = 50  # of the path of integrated gradients, captum's own number
WINDOWS = 8  # of occlusion along each side of the image, side by side; they move by half of themselves

OPTIONS: dict[str, dict[str, str | int | bool]] = {
    "input_gradient": {"captum": "Saliency", "abs": False, "channels": "norm"},
    "layer_gradient": {"channels": "norm"},
    "activation": {"channels": "sum"},
    "cam": {"channels": "sum with the class weights"},
    "grad_cam": {"channels": "sum with the gradient's spatial mean"},
    "integrated_gradients": {
        "captum": "IntegratedGradients",
        "baselines": 0,
        "n_steps": STEPS,
        "method": "gausslegendre",
        "channels": "sum",
    },
    "guided_grad_cam": {"captum": "GuidedBackprop", "interpolate_mode": "nearest", "channels": "norm"},
    "occlusion": {"captum": "Occlusion", "baselines": 0, "windows_along_a_side": WINDOWS, "overlap": "half"},
}
"""How every map is made, as stored with it."""

METHODS = tuple(OPTIONS)


@dataclass(frozen=True)
class Place:
    """Where the maps of a layer are taken: its name, and how its output becomes a map."""

    layer: str
    layout: Layout


def draw_map(
    network: nn.Module,
    inputs: Batch,
    classes: Tensor,
    *,
    method: str,
    layer: str | nn.Module | Place | None = None,
    layout: Turn | None = None,
) -> Tensor:
    """Draw the map of one attribution method for a batch.

    Parameters
    ----------
    network
        Maps images to logits ``(B, C)``, or to a structure that has them (:func:`kdviz.networks.answer`).
        Held in eval mode; left exactly as found.
    inputs
        Shape ``(B, channels, H, W)``, floating point, normalised as in training, on the network's device; or
        a mapping of such a tensor and others, passed by name, which stay as they are.
    classes
        Class to explain for every sample, ``(B,)``, int64.
    method
        One of `METHODS`. With y the class's logit, x the input and A the layer's output:

        - ``input_gradient``: norm over channels of dy/dx (captum ``Saliency``, ``abs=False``; [1]_ takes the
          largest magnitude instead of the norm);
        - ``layer_gradient``: norm over channels of dy/dA, position by position;
        - ``activation``: sum over channels of A, "CAM without the class weights"; looks at no class;
        - ``cam``: sum over channels of A times the class's weight [2]_. Defined only where the logits are one
          linear layer of the spatial mean of A, and refused elsewhere;
        - ``grad_cam``: sum over channels of A times the spatial mean of dy/dA [3]_, without the ReLU in
          which [3]_ ends. Of a network that has a ``cam`` it is that map divided by the number of positions;
        - ``integrated_gradients``: sum over channels of captum ``IntegratedGradients`` [4]_ from an input of
          zeros, the mean image where inputs are normalised, in 50 Gauss-Legendre steps;
        - ``guided_grad_cam``: norm over channels of the guided gradient (captum ``GuidedBackprop``) times the
          Grad-CAM after its ReLU, resized by nearest neighbour [3]_. Only ``nn.ReLU`` modules are guided, a
          functional relu is not; without any such module it is refused;
        - ``occlusion``: how much the logit falls when a window of an eighth of the height and width, moving
          by half of itself, is set to zero (captum ``Occlusion`` [5]_); a pixel takes the mean of windows.
    layer
        Name or module whose output is ``(B, K, h, w)``, ``(B, h, w, K)`` or tokens ``(B, k + h * w, K)``, for
        CAMs, ``activation`` and ``layer_gradient``; by default that of `find_map_layer`. Fully connected
        layers have no map. Tokens that stand for no position, such as class tokens, are left out.
    layout
        Turns the layer's output to ``(B, K, h, w)``; by default as :mod:`kdviz.networks.layouts` finds,
        which says so where it cannot.

    Returns
    -------
    Tensor
        Shape ``(B, H, W)``, of a layer ``(B, h, w)`` except ``guided_grad_cam``; float32, on the device of
        `inputs`.

    Raises
    ------
    ValueError
        For an unknown method, inputs that are no images, or classes that are not one for each.
    LayerError
        If the layer is unknown, unused, reused or has no map, its layout cannot be known, its positions reach
        the logit no more, or the network has no map of this method.
    MissingExtraError
        If the method is one that captum draws, which is not installed.

    References
    ----------
    .. [1] Simonyan et al., "Deep Inside Convolutional Networks", ICLR workshop 2014, section 3.
    .. [2] Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, Eq. (2).
    .. [3] Selvaraju et al., "Grad-CAM", ICCV 2017, Eqs. (1), (2) and section 3.2.
    .. [4] Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, Eq. (1).
    .. [5] Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
    """
    one_of("method", method, METHODS)
    need_captum([method])
    images = main_of(inputs, name_images(inputs))
    if classes.shape != images.shape[:1] or classes.dtype != torch.int64:
        raise ValueError(
            f"classes must be {len(images)} integers, int64; got {tuple(classes.shape)} of {classes.dtype}"
        )
    network = unwrap(network)
    with frozen(network):
        check_classes(network, inputs, classes)
        if method not in LAYERED:
            drawn = _draw_input(method, network, inputs, classes)
        else:
            if not isinstance(layer, Place):
                layer = check_layer(network, inputs, layer, layout, [method])
            drawn = _draw_layer(method, network, inputs, classes, layer)
    return drawn.detach().float()


def need_captum(methods: Iterable[str]) -> None:
    """Refuse methods that captum draws where it is not installed.

    Raises
    ------
    MissingExtraError
        If there are any.
    """
    theirs = [method for method in methods if "captum" in OPTIONS.get(method, {})]
    if theirs and find_spec("captum") is None:
        raise MissingExtraError(f"{', '.join(theirs)}: captum draws these, install kdviz[attribution]")


def find_map_layer(network: nn.Module, inputs: Batch) -> str:
    """Name the deepest layer with a map that the logits see: where CAM and Grad-CAM look by default.

    It is the last module to return, blocks of modules counted, that has weights, is no single ``nn.Linear``,
    is called once and gives a map of more than one position: ``layer4`` of a ResNet, ``features`` of a VGG,
    the final norm of a Swin, the last block's first norm of a ViT, whose class token alone goes on after the
    attention. Where that map has channels first, the module has a convolution in it.

    Raises
    ------
    LayerError
        If there is none.
    """
    network = unwrap(network)
    with frozen(network):
        return _find_place(network, rows_at(inputs, slice(1))).layer


def list_methods(network: nn.Module, inputs: Batch, place: Place | None) -> list[str]:
    """Name those of `METHODS` that this network has; `place` as checked, None for a network without maps."""
    possible = [method for method in METHODS if place or method not in LAYERED]
    with frozen(network):
        if place and _class_weights(network, rows_at(inputs, slice(1)), place) is None:
            possible.remove("cam")
        if place and not _contains(network, nn.ReLU):
            possible.remove("guided_grad_cam")
    return possible


def check_layer(
    network: nn.Module,
    inputs: Batch,
    layer: str | nn.Module | None,
    layout: Turn | None = None,
    methods: Collection[str] = LAYERED,
    argument: str = "layout",
) -> Place:
    """Return the place of the maps that `methods` want, after passes that show that it has some.

    `argument` names where `layout` came from, to be asked for in messages; empty where it cannot be given.
    """
    one = rows_at(inputs, slice(1))
    with frozen(network):
        if layer is None:
            place = _find_place(network, one)
            return place if layout is None else _give_layout(network, one, place.layer, layout)
        (name,) = resolve_layers(network, [layer])
        (shape,) = check_layers(network, one, [name]).values()
        if layout is not None:
            return _give_layout(network, one, name, layout)
        modules = name_modules(network)
        found = find_layout(name, list_shapes(network, one, modules), modules, _size_of(one), argument)
        if found is None:
            raise LayerError(
                f"layer {name!r} gives {shape or NO_TENSOR}; a map needs (B, channels, height, width), "
                "(B, height, width, channels) or (B, tokens, channels) with more than one position, such as "
                f"{_find_place(network, one).layer!r} gives"
                + (f"; where it has one, {ask_for(argument)}" if argument else "")
            )
        place = Place(name, found)
        if {*methods} - {"activation"} and not _is_seen(network, one, place):
            raise LayerError(
                f"the positions of layer {name!r} reach the logits no more, only tokens beside them do, so "
                f"that its map is zero; take an earlier layer, such as {_find_place(network, one).layer!r}"
            )
        return place


# -- below, the network is frozen


def _find_place(network: nn.Module, one: Batch) -> Place:
    """Find the place that `find_map_layer` describes, by one sample."""
    modules = name_modules(network)
    first_names = {module: name for name, module in reversed(modules.items())}
    shapes = list_shapes(network, one, modules)
    for name in reversed([name for name in shapes if name and first_names[modules[name]] == name]):
        part, layout = modules[name], None
        if len(shapes[name]) > 1 or type(part) is nn.Linear or not list(part.parameters()):
            continue
        with suppress(LayerError):  # what cannot be known is not chosen
            layout = find_layout(name, shapes, modules, _size_of(one))
        if layout is None or (layout is FIRST and not _contains(part, nn.Conv2d, nn.ConvTranspose2d)):
            continue
        if _is_seen(network, one, place := Place(name, layout)):
            return place
    raise LayerError(
        "no layer of this network gives a map (B, channels, height, width), (B, height, width, channels) or "
        "tokens, with more than one position; choose among the methods that need none: input_gradient, "
        "integrated_gradients, occlusion"
    )


def _give_layout(network: nn.Module, inputs: Batch, layer: str, turn: Turn) -> Place:
    """Return the place of a layer whose layout the user gives."""
    (output,) = read_layers(network, inputs, [layer]).values()
    return Place(layer, give_layout(layer, output, turn))


def _is_seen(network: nn.Module, inputs: Batch, place: Place) -> bool:
    """Tell whether the logits see the positions of a layer, where there are other tokens beside them."""
    if not place.layout.others:
        return True
    seeing = _draw_zero_weights(network)
    with frozen(seeing):
        classes = answer(seeing, inputs).argmax(1)
        _, gradient = read_gradient(seeing, inputs, classes, place.layer)
    return bool(place.layout.turn(gradient).any())


def _draw_zero_weights(network: nn.Module) -> nn.Module:
    """Give weights to what was initialised with zeros, such as a new head, through which nothing is seen."""
    generator = torch.Generator().manual_seed(0)
    zeros = [name for name, weight in network.named_parameters() if weight.ndim > 1 and not weight.any()]
    if not zeros:
        return network
    seeing = copy.deepcopy(network)
    with torch.no_grad():
        for name in zeros:
            weight = seeing.get_parameter(name)
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return seeing


def name_images(inputs: Batch) -> str | None:
    """Name the images of several inputs: the floating-point tensor, or of these the one with four axes."""
    return noisy_part(inputs, lambda tensor: tensor.ndim == 4)


def _size_of(inputs: Batch) -> tuple[int, ...]:
    """Return height and width of images."""
    return tuple(main_of(inputs, name_images(inputs)).shape[2:])


def check_classes(network: nn.Module, inputs: Batch, classes: Tensor) -> None:
    """Refuse classes that do not pick one logit of each sample; the network must be frozen."""
    images = main_of(inputs, name_images(inputs))
    if images.ndim != 4:
        raise ValueError(f"inputs must be images (B, channels, height, width), got {tuple(images.shape)}")
    with torch.no_grad():
        logits = answer(network, rows_at(inputs, slice(1)))
    if logits.ndim != 2:
        raise ValueError(
            f"the network must give logits (B, classes), got {tuple(logits.shape)}; wrap it in one that does"
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"classes run from {low} to {high}; this network has classes 0 to {logits.shape[1] - 1}"
        )


def read_gradient(
    network: nn.Module,
    inputs: Batch,
    classes: Tensor,
    layer: str,
    score_of: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> tuple[Tensor, Tensor]:
    """Read a layer's output and the gradient of the class's score with respect to it.

    The score is the logit, or what `score_of` makes of all logits; the network must be frozen.
    """
    output, logits = read_layers(network, _watched(inputs), [layer, ""]).values()
    score = score_of(logits).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, output, allow_unused=True, materialize_grads=True)
    return output, gradient


def _watched(inputs: Batch) -> Batch:
    """Copy inputs, the images such that gradients reach them."""
    watched = map_batch(inputs, lambda tensor: tensor.detach().clone())
    main_of(watched, name_images(watched)).requires_grad_(True)
    return watched


class _Answer(nn.Module):
    """A network as captum wants it: a function of images, and of what else it is given, to logits."""

    def __init__(self, network: nn.Module, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor, *others: Tensor) -> Tensor:
        given = dict(zip(self.names, (images, *others), strict=True)) if self.names else images
        return answer(self.network, given)


def _draw_input(method: str, network: nn.Module, inputs: Batch, classes: Tensor) -> Tensor:
    from captum import attr  # an extra that other maps, and rooms that read layers, do without

    captum, images, given = _for_captum(network, inputs, classes)
    if method == "input_gradient":
        return attr.Saliency(captum).attribute(images, abs=False, **given).norm(dim=1)
    if method == "integrated_gradients":
        options = {"n_steps": STEPS, "method": "gausslegendre", "internal_batch_size": max(len(images), 2)}
        return attr.IntegratedGradients(captum).attribute(images, 0, **options, **given).sum(1)
    channels, *size = images.shape[1:]
    window = [max(1, side // WINDOWS) for side in size]
    strides = [max(1, side // 2) for side in window]
    with torch.no_grad():
        falls = attr.Occlusion(captum).attribute(
            images, (channels, *window), strides=(channels, *strides), baselines=0, **given
        )
    return falls[:, 0]  # a window covers all channels, so they hold the same


def _for_captum(
    network: nn.Module, inputs: Batch, classes: Tensor
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return what captum calls, the images it looks at, and the arguments that go with them."""
    inputs = _watched(inputs)
    if isinstance(inputs, Tensor):
        return _Answer(network), inputs, {"target": classes}
    main = name_images(inputs)
    others = {name: tensor for name, tensor in inputs.items() if name != main}
    names = [str(main), *others]
    given = {"target": classes, "additional_forward_args": tuple(others.values())}
    return _Answer(network, names), main_of(inputs, main), given


def _draw_layer(method: str, network: nn.Module, inputs: Batch, classes: Tensor, place: Place) -> Tensor:
    both = read_gradient(network, inputs, classes, place.layer)
    output, gradient = (place.layout.turn(tensor) for tensor in both)
    if method == "layer_gradient":
        return gradient.norm(dim=1)
    if method == "activation":
        return output.sum(1)
    if method == "cam":
        if (weights := _class_weights(network, inputs, place)) is None:
            raise LayerError(
                "cam needs logits that are one linear layer of the layer's spatial mean, as in a ResNet "
                "after its last block; for this network and layer take grad_cam, which needs no such head"
            )
        return torch.einsum("bk,bkhw->bhw", weights[classes], output)
    cam = (output * gradient.mean((2, 3), keepdim=True)).sum(1)
    return cam if method == "grad_cam" else _guide(network, inputs, classes, cam)


def _class_weights(network: nn.Module, inputs: Batch, place: Place) -> Tensor | None:
    """Return the weights ``(C, K)`` of logits that are linear in the layer's spatial mean, else None."""
    heads = [part for part in network.modules() if isinstance(part, nn.Linear)]
    output, logits = read_layers(network, inputs, [place.layer, ""]).values()
    means = place.layout.turn(output).mean((2, 3))
    if not heads or heads[-1].weight.shape != (logits.shape[1], means.shape[1]):
        return None
    is_cam = torch.allclose(heads[-1](means), logits, rtol=1e-4, atol=1e-5)
    return heads[-1].weight if is_cam else None


def _guide(network: nn.Module, inputs: Batch, classes: Tensor, cam: Tensor) -> Tensor:
    """Multiply the guided gradient by a Grad-CAM, resized to the images."""
    if not _contains(network, nn.ReLU):
        raise LayerError(
            "guided_grad_cam changes the gradient of nn.ReLU modules and this network has none; write its "
            "activations as modules, or take grad_cam"
        )
    from captum import attr

    captum, images, given = _for_captum(network, inputs, classes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")  # they come off again
        guided = attr.GuidedBackprop(captum).attribute(images, **given)
    resized = interpolate(cam.relu().detach()[:, None], size=images.shape[2:], mode="nearest")
    return (guided * resized).norm(dim=1)


def _contains(network: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(module, kinds) for module in network.modules())
