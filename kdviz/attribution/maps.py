"""Attribution maps of one batch: gradients, CAMs and occlusion, each named exactly.

Every map explains the *logit* of a class: the entry of the network's output ``(B, C)`` at the class, before
any softmax. Maps are given raw: not normalised, not resized, no ReLU after them, their sign kept where there
is one. A gradient over channels is a direction, so its maps are norms over channels, never negative; a
contribution to the logit adds up, so its maps are sums over channels, of either sign.

Symbols: ``B`` samples, ``C`` classes, ``H, W`` input size, ``K, h, w`` channels and size of the layer.
"""

import warnings

import torch
from captum import attr
from torch import Tensor, nn

from kdviz.arguments import one_of
from kdviz.errors import LayerError
from kdviz.networks.features import (
    check_layers,
    frozen,
    list_shapes,
    name_modules,
    read_layers,
    resolve_layers,
    unwrap,
)

LAYERED = ("layer_gradient", "activation", "cam", "grad_cam", "guided_grad_cam")
"""Those that look at a layer; the maps of all but the last have the layer's size, others the input's."""

STEPS = 50  # of the path of integrated gradients, captum's own number
WINDOWS = 8  # of occlusion along each side of the image, side by side; they move by half of themselves

OPTIONS: dict[str, dict[str, str | int | bool]] = {
    "input_gradient": {"captum": "Saliency", "abs": False, "channels": "norm"},
    "layer_gradient": {"channels": "norm"},
    "activation": {"captum": "LayerActivation", "channels": "sum"},
    "cam": {"channels": "sum with the class weights"},
    "grad_cam": {"captum": "LayerGradCam", "relu_attributions": False, "channels": "sum"},
    "integrated_gradients": {
        "captum": "IntegratedGradients",
        "baselines": 0,
        "n_steps": STEPS,
        "method": "gausslegendre",
        "channels": "sum",
    },
    "guided_grad_cam": {"captum": "GuidedGradCam", "interpolate_mode": "nearest", "channels": "norm"},
    "occlusion": {"captum": "Occlusion", "baselines": 0, "windows_along_a_side": WINDOWS, "overlap": "half"},
}
"""How every map is made, as stored with it."""

METHODS = tuple(OPTIONS)


def draw_map(
    network: nn.Module,
    inputs: Tensor,
    classes: Tensor,
    *,
    method: str,
    layer: str | nn.Module | None = None,
) -> Tensor:
    """Draw the map of one attribution method for a batch.

    Parameters
    ----------
    network
        Maps images to logits ``(B, C)``. Held in eval mode; left exactly as found.
    inputs
        Shape ``(B, channels, H, W)``, floating point, normalised as in training, on the network's device.
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
        - ``grad_cam``: sum over channels of A times the spatial mean of dy/dA [3]_ (captum ``LayerGradCam``,
          ``relu_attributions=False``, while [3]_ ends in a ReLU). Of a network that has a ``cam`` it is that
          map divided by the number of positions;
        - ``integrated_gradients``: sum over channels of captum ``IntegratedGradients`` [4]_ from an input of
          zeros, the mean image where inputs are normalised, in 50 Gauss-Legendre steps;
        - ``guided_grad_cam``: norm over channels of captum ``GuidedGradCam`` [3]_: the guided gradient times
          the Grad-CAM after its ReLU, resized by nearest neighbour. Only ``nn.ReLU`` modules are guided, a
          functional relu is not; without any such module it is refused;
        - ``occlusion``: how much the logit falls when a window of an eighth of the height and width, moving
          by half of itself, is set to zero (captum ``Occlusion`` [5]_); a pixel takes the mean of windows.
    layer
        Name or module whose output is ``(B, K, h, w)``, for CAMs, ``activation`` and ``layer_gradient``; by
        default that of `find_map_layer`. Fully connected layers have no map.

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
        If the layer is unknown, unused, reused or has no map, or the network has no map of this method.

    References
    ----------
    .. [1] Simonyan et al., "Deep Inside Convolutional Networks", ICLR workshop 2014, section 3.
    .. [2] Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, Eq. (2).
    .. [3] Selvaraju et al., "Grad-CAM", ICCV 2017, Eqs. (1), (2) and section 3.2.
    .. [4] Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, Eq. (1).
    .. [5] Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
    """
    one_of("method", method, METHODS)
    if classes.shape != inputs.shape[:1] or classes.dtype != torch.int64:
        raise ValueError(
            f"classes must be {len(inputs)} integers, int64; got {tuple(classes.shape)} of {classes.dtype}"
        )
    network = unwrap(network)
    with frozen(network):
        check_classes(network, inputs, classes)
        place = check_layer(network, inputs, layer) if method in LAYERED else ""
        watched = inputs.detach().clone().requires_grad_(True)
        drawn = _draw(method, network, watched, classes, place)
    return drawn.detach().float()


def find_map_layer(network: nn.Module, inputs: Tensor) -> str:
    """Name the deepest layer with a map: where CAM and Grad-CAM look by default.

    It is the last module to return, blocks of modules counted, that is called once, has a convolution in it
    and gives ``(B, K, h, w)`` with more than one position: ``layer4`` of a ResNet, ``features`` of a VGG.

    Raises
    ------
    LayerError
        If there is none.
    """
    network = unwrap(network)
    first_names = {module: name for name, module in reversed(name_modules(network).items())}
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    candidates = [name for part, name in first_names.items() if name and _contains(part, *convolutions)]
    with frozen(network):
        calls = list_shapes(network, inputs[:1], candidates)
    found = [name for name, shapes in calls.items() if len(shapes) == 1 and _is_map(shapes[0])]
    if not found:
        raise LayerError(
            "no layer of this network gives a map (B, channels, height, width) with more than one position; "
            "choose among the methods that need none: input_gradient, integrated_gradients, occlusion"
        )
    return found[-1]


def list_methods(network: nn.Module, inputs: Tensor, *, layer: str | None) -> list[str]:
    """Name those of `METHODS` that this network has; `layer` as checked, None for a network without maps."""
    possible = [method for method in METHODS if layer or method not in LAYERED]
    with frozen(network):
        if layer and _class_weights(network, inputs[:1], layer) is None:
            possible.remove("cam")
        if layer and not _contains(network, nn.ReLU):
            possible.remove("guided_grad_cam")
    return possible


def check_layer(network: nn.Module, inputs: Tensor, layer: str | nn.Module | None) -> str:
    """Name the layer whose maps are asked for, after one pass that shows that it has some."""
    if layer is None:
        return find_map_layer(network, inputs)
    (name,) = resolve_layers(network, [layer])
    (shape,) = check_layers(network, inputs[:1], [name]).values()
    if not _is_map(shape):
        raise LayerError(
            f"layer {name!r} gives {shape}; a map needs (B, channels, height, width) with more than one "
            f"position, such as {find_map_layer(network, inputs)!r} gives"
        )
    return name


def check_classes(network: nn.Module, inputs: Tensor, classes: Tensor) -> None:
    """Refuse classes that do not pick one logit of each sample; the network must be frozen."""
    if inputs.ndim != 4:
        raise ValueError(f"inputs must be images (B, channels, height, width), got {tuple(inputs.shape)}")
    with torch.no_grad():
        logits = network(inputs[:1].clone())
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network must give logits (B, classes), got {got}; wrap it in one that does")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"classes run from {low} to {high}; this network has classes 0 to {logits.shape[1] - 1}"
        )


def read_gradient(network: nn.Module, inputs: Tensor, classes: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Read a layer's output and the gradient of the logit with respect to it; the network must be frozen."""
    output, logits = read_layers(network, inputs, [layer, ""]).values()
    score = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, output, allow_unused=True, materialize_grads=True)
    return output, gradient


def _draw(method: str, network: nn.Module, inputs: Tensor, classes: Tensor, layer: str) -> Tensor:
    module = name_modules(network)[layer]
    if method == "input_gradient":
        return attr.Saliency(network).attribute(inputs, classes, abs=False).norm(dim=1)
    if method == "layer_gradient":
        return read_gradient(network, inputs, classes, layer)[1].norm(dim=1)
    if method == "activation":
        return attr.LayerActivation(network, module).attribute(inputs).sum(1)
    if method == "cam":
        return _cam(network, inputs, classes, layer)
    if method == "grad_cam":
        explainer = attr.LayerGradCam(network, module)
        return explainer.attribute(inputs, classes, relu_attributions=False, attr_dim_summation=True)[:, 0]
    if method == "integrated_gradients":
        options = {"n_steps": STEPS, "method": "gausslegendre", "internal_batch_size": max(len(inputs), 2)}
        return attr.IntegratedGradients(network).attribute(inputs, 0, classes, **options).sum(1)
    if method == "guided_grad_cam":
        return _guided_grad_cam(network, inputs, classes, module)
    return _occlusion(network, inputs, classes)


def _cam(network: nn.Module, inputs: Tensor, classes: Tensor, layer: str) -> Tensor:
    weights = _class_weights(network, inputs, layer)
    if weights is None:
        raise LayerError(
            "cam needs logits that are one linear layer of the layer's spatial mean, as in a ResNet after "
            "its last block; for this network and layer take grad_cam, which needs no such head"
        )
    (output,) = read_layers(network, inputs, [layer]).values()
    return torch.einsum("bk,bkhw->bhw", weights[classes], output)


def _class_weights(network: nn.Module, inputs: Tensor, layer: str) -> Tensor | None:
    """Return the weights ``(C, K)`` of logits that are linear in the layer's spatial mean, else None."""
    heads = [part for part in network.modules() if isinstance(part, nn.Linear)]
    output, logits = read_layers(network, inputs, [layer, ""]).values()
    if not heads or heads[-1].weight.shape != (logits.shape[1], output.shape[1]):
        return None
    is_cam = torch.allclose(heads[-1](output.mean((2, 3))), logits, rtol=1e-4, atol=1e-5)
    return heads[-1].weight if is_cam else None


def _guided_grad_cam(network: nn.Module, inputs: Tensor, classes: Tensor, layer: nn.Module) -> Tensor:
    if not _contains(network, nn.ReLU):
        raise LayerError(
            "guided_grad_cam changes the gradient of nn.ReLU modules and this network has none; write its "
            "activations as modules, or take grad_cam"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks on ReLU")  # they come off again
        explainer = attr.GuidedGradCam(network, layer)
        return explainer.attribute(inputs, classes, interpolate_mode="nearest").norm(dim=1)


def _occlusion(network: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    channels, *size = inputs.shape[1:]
    window = [max(1, side // WINDOWS) for side in size]
    strides = [max(1, side // 2) for side in window]
    with torch.no_grad():
        falls = attr.Occlusion(network).attribute(
            inputs, (channels, *window), strides=(channels, *strides), baselines=0, target=classes
        )
    return falls[:, 0]  # a window covers all channels, so they hold the same


def _contains(network: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(module, kinds) for module in network.modules())


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1
