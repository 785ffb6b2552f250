"""Image networks of the source papers, at any input size, class count and width, and one small VGG.

The large networks are torchvision's own classes, so that its pretrained weights fit at width 1; ResNets get
the two convolutions and two fully connected layers that the papers insert, so that all networks have a top
convolution and three fully connected layers. This module knows nothing of data or training.

Symbols: ``B`` samples, ``H, W`` input height and width, ``C`` classes.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kdviz.architectures import IMAGE_PRESETS as PRESETS
from kdviz.errors import MissingExtraError
from kdviz.models.building import check_arguments, draw_weights, make_head, set_dropout
from kdviz.models.torchvision_shim import prepare_torchvision

prepare_torchvision()
try:
    from torchvision import models as _torchvision
    from torchvision.models.resnet import Bottleneck, ResNet
except ModuleNotFoundError:  # the small VGG needs torch alone
    _torchvision = None
    ResNet = nn.Module


class NormalisedConv2d(nn.Conv2d):
    """A 3x3 convolution whose output is batch-normalised.

    One module rather than two, so that one layer name gives both the feature that meets the ReLU and the
    convolution's ``weight``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(B, in_channels, h, w)`` to ``(B, out_channels, h, w)``."""
        return self.norm(super().forward(inputs))


class DeepHeadResNet(ResNet):
    """Bottleneck ResNet with two more 3x3 convolutions and two more fully connected layers.

    They sit between the last residual stage and the last fully connected layer and are 2048 wide [1]_.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1 (ResNet-50, 101 and 152).
    """

    def __init__(self, blocks: list[int], classes: int) -> None:
        super().__init__(Bottleneck, blocks, num_classes=classes)
        features = self.fc.in_features
        del self.fc
        self.top = nn.Sequential(
            OrderedDict(
                conv1=NormalisedConv2d(features, features),
                relu1=nn.ReLU(),
                conv2=NormalisedConv2d(features, features),
                relu2=nn.ReLU(),
            )
        )
        self.head = make_head(nn.Linear, features, (features, features), classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to logits ``(B, C)``."""
        feature = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        feature = self.layer4(self.layer3(self.layer2(self.layer1(feature))))
        return self.head(self.avgpool(self.top(feature)).flatten(1))


class SmallVGG(nn.Module):
    """Blocks of 3x3 convolutions and max-pooling; fc1, fc2 (128) and fc3.

    Made for the built-in 48 x 48 images: a third of a million weights, trained in minutes on a CPU.

    Parameters
    ----------
    classes
        Width of the last layer.
    input_size
        Height and width of the images, at least 8; the width of ``fc1``'s input follows from it.
    blocks
        Channels of the convolutions of each block, of which there are three.
    """

    def __init__(
        self, classes: int, input_size: tuple[int, int], blocks: tuple[tuple[int, ...], ...]
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inside, at = 3, 0
        for pool, widths in enumerate(blocks, start=1):
            for channels in widths:
                at += 1
                self.features.add_module(f"conv{at}", nn.Conv2d(inside, channels, kernel_size=3, padding=1))
                self.features.add_module(f"relu{at}", nn.ReLU())
                inside = channels
            self.features.add_module(f"pool{pool}", nn.MaxPool2d(2))
        cells = (input_size[0] // 8) * (input_size[1] // 8)
        self.classifier = make_head(nn.Linear, inside * cells, (128, 128), classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images ``(B, 3, H, W)`` to logits ``(B, C)``."""
        return self.classifier(self.features(inputs).flatten(1))


_BLOCKS = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3], "resnet152": [3, 8, 36, 3]}
_SMALL = {  # channels of the convolutions, block by block
    "small_vgg": ((16,), (32,), (64, 64)),
    "small_vgg_deep": ((16, 16), (32, 32), (64, 64, 64)),
}
_LEAST = {
    "alexnet": 63,
    "vgg11": 32,
    "vgg16": 32,
    "vgg19": 32,
    **dict.fromkeys(_SMALL, 8),
}  # pixels, for pooling


def build(
    name: str,
    *,
    classes: int,
    input_size: int | tuple[int, int],
    width: float = 1.0,
    seed: int = 0,
    dropout: float | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Make an untrained image network.

    Parameters
    ----------
    name
        One of `PRESETS`.
    classes
        Number of logits ``C``, at least 1.
    input_size
        Height and width of the images in pixels, or one number for squares.
    width
        Factor on the number of channels and hidden units of every layer, rounded, at least 1 each.
    seed
        Same seed, same weights; no global random state is read or changed.
    dropout
        Probability for every dropout layer; ``None`` keeps the architecture's own: 0.5 for AlexNet and VGG,
        0 for the small VGGs and ResNets.
    device
        Where the weights live. ``"meta"`` gives shapes without values or cost.

    Returns
    -------
    nn.Module
        In train mode, float32, taking ``(B, 3, H, W)``, giving ``(B, C)``. No activation works in place, so
        that any layer can be read. ``PRESETS[name].layers`` names the papers' layers.

    Raises
    ------
    ValueError
        If `name` is unknown, a number is out of range, or `input_size` is too small for the network.
    MissingExtraError
        If torchvision is needed and not installed.

    Notes
    -----
    Initial values follow the authors' code [1]_: convolutions Kaiming-normal (fan-out), fully connected
    weights N(0, 0.01), biases 0. Small VGGs use Kaiming-normal (fan-in) for its fully connected layers
    too: after only 128 hidden units, a standard deviation of 0.01 shrinks signal and gradient by about a
    factor of 10 a layer, and the network would spend its few epochs growing them.

    References
    ----------
    .. [1] Cheng et al., "Explaining Knowledge Distillation by Quantifying the Knowledge", CVPR 2020,
       published code, ``model/models.py``.

    Examples
    --------
    >>> network = build("small_vgg", classes=10, input_size=48)
    >>> tuple(network(torch.zeros(2, 3, 48, 48)).shape)
    (2, 10)
    """
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    check_arguments(name, PRESETS, width=width, dropout=dropout, classes=classes)
    if name not in _SMALL and _torchvision is None:
        raise MissingExtraError(f"{name} needs torchvision: install kdviz[vision]")
    least = _LEAST.get(name, 1)
    if len(size) != 2 or min(size) < least:
        raise ValueError(f"input_size must be one or two numbers of {least} or more, got {input_size}")
    with torch.device("meta"):
        if name in _SMALL:
            network: nn.Module = SmallVGG(classes, size, _SMALL[name])
        elif name in _BLOCKS:
            network = DeepHeadResNet(_BLOCKS[name], classes)
        else:
            network = getattr(_torchvision, name)(num_classes=classes)
        if width != 1:
            _scale_width(network, width)
    set_dropout(network, dropout)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if torch.device(device).type != "meta":
        draw_weights(network, seed, std=None if name in _SMALL else 0.01)
    return network.to(device)


def _scale_width(network: nn.Module, width: float) -> None:
    """Multiply every number of channels and hidden units, keeping the image's 3 channels and the classes."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    channels = 3
    shape: tuple[int, ...]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels
            module.in_channels = 3 if module.in_channels == 3 else scaled(module.in_channels)
            module.out_channels = scaled(channels)
            shape = (module.out_channels, module.in_channels, *module.kernel_size)
        elif isinstance(module, nn.Linear):
            cells = module.in_features // channels  # positions flattened after the last convolution, else 1
            channels = module.out_features
            module.in_features = cells * scaled(module.in_features // cells)
            module.out_features = channels if module is last else scaled(channels)
            shape = (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = scaled(module.num_features)
            shape = (module.num_features,)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor.data = tensor.new_empty(shape[: tensor.ndim])  # a bias has the length of the first axis
