"""PointConv: convolutions whose kernel is a function of the place, weighted by inverse density.

Symbols: ``B`` clouds, ``n`` points, ``m`` centres, ``k`` neighbours, ``K`` numbers per point.
"""

from itertools import starmap

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.models.cloud.layers import CloudNetwork, Head, NormalisedLinear, PointLayers, scale
from kdviz.models.cloud.neighbours import estimate_density, find_centres, find_nearest, gather

_KERNEL = (8, 8, 16)  # layers from a relative place to the factors of the kernel
_DENSITY = (8, 8)  # hidden layers from an inverse density to its weight


class PointConvolution(nn.Module):
    """Sum each neighbourhood's features, weighted by kernel and inverse density.

    Parameters
    ----------
    centres, neighbours
        How many, and how many nearest points each sums; None: one, at the mean, which sums all points.
    bandwidth
        Of the density estimate, in units of the coordinates.
    layers
        For points with their place relative to the centre in front of their features.
    features
        Numbers that `layers` gives.
    width
        Factor on the widths of the kernel and density layers.

    Notes
    -----
    The paper's efficient form: the kernel is the product of 16 functions of the place with one matrix.
    """

    def __init__(
        self,
        centres: int | None,
        neighbours: int | None,
        bandwidth: float,
        layers: PointLayers,
        features: int,
        width: float,
    ) -> None:
        super().__init__()
        self.centres, self.neighbours, self.bandwidth = centres, neighbours, bandwidth
        kernel = scale(width, *_KERNEL)
        self.layers = layers
        self.kernel = PointLayers(3, *kernel)
        self.density = PointLayers(1, *scale(width, *_DENSITY), 1)
        self.mix = NormalisedLinear(features * kernel[-1], features)

    def forward(self, points: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """From places ``(B, n, 3)`` and features ``(B, n, K)`` to those of the centres, ``(B, m, ...)``."""
        rarity = 1 / estimate_density(points, self.bandwidth).unsqueeze(-1)
        if self.centres is None or self.neighbours is None:
            centres = points.mean(1, keepdim=True)
            near = torch.arange(points.shape[1], device=points.device).expand(len(points), 1, -1)
        else:
            centres = gather(points, find_centres(points, self.centres))
            near = find_nearest(centres, points, self.neighbours)
        offsets = gather(points, near) - centres.unsqueeze(2)
        known = offsets if features is None else torch.cat([offsets, gather(features, near)], dim=-1)

        rarity = gather(rarity, near)
        weight = torch.sigmoid(self.density(rarity / rarity.amax(2, keepdim=True)))
        kernel = functional.relu(self.kernel(offsets))
        sums = (functional.relu(self.layers(known)) * weight).transpose(2, 3) @ kernel
        return centres, functional.relu(self.mix(sums.flatten(2)))


class PointConv(CloudNetwork):
    """PointConv for classification [1]_.

    512 centres of 32 neighbours, layers 64, 64, 128, bandwidth 0.1; 128 centres of 64, layers 128, 128, 256,
    bandwidth 0.2; all centres, layers 256, 512, 1024, bandwidth 0.4; then 512, 256, classes.

    Notes
    -----
    Sampling starts at the point farthest from the mean, so that the order of points does not matter. An
    inverse density counts relative to the largest of its neighbourhood. Sizes of kernel (8, 8, 16) and
    density layers (8, 8, 1) are those of the authors' published code.

    References
    ----------
    .. [1] Wu et al., "PointConv: Deep Convolutional Networks on 3D Point Clouds", CVPR 2019, sections 3 and
       4, and the authors' published code.
    """

    fewest = 512

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        first, second, third = starmap(
            scale, [(width, 64, 64, 128), (width, 128, 128, 256), (width, 256, 512, 1024)]
        )
        layers1, layers2, layers3 = (
            PointLayers(3, *first),
            PointLayers(3 + first[-1], *second),
            PointLayers(3 + second[-1], *third),
        )
        self.level1 = PointConvolution(512, 32, 0.1, layers1, first[-1], width)
        self.level2 = PointConvolution(128, 64, 0.2, layers2, second[-1], width)
        self.level3 = PointConvolution(None, None, 0.4, layers3, third[-1], width)
        self.head = Head(third[-1], scale(width, 512, 256), classes, dropout=(0.4, 0.4))

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 1024 width)``."""
        _, features = self.level3(*self.level2(*self.level1(points, None)))
        return features.squeeze(1)
