"""PointNet++ and PointConv: layers on neighbourhoods of far-apart centres, level after level.

PointNet++ describes each by a small PointNet on a ball; PointConv convolves it with a kernel that is a
function of the place, weighted by inverse density.

Symbols: ``B`` clouds, ``n`` points, ``m`` centres, ``k`` neighbours of a centre, ``K`` numbers per point.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.models.building import make_head
from kdviz.models.cloud.layers import CloudNetwork, NormalisedLinear, PointLayers, pool, scale
from kdviz.models.cloud.neighbours import estimate_density, find_centres, find_nearest, gather

LEVELS = ((64, 64, 128), (128, 128, 256), (256, 512, 1024))
"""Widths of the layers of PointNet++ and PointConv, level by level."""

_KERNEL = (8, 8, 16)  # layers from a relative place to the factors of the kernel
_DENSITY = (8, 8)  # hidden layers from an inverse density to its weight


def surround(points: Tensor, features: Tensor, near: Tensor, centres: Tensor) -> Tensor:
    """Put the place relative to its centre in front of the features of each neighbour, ``(B, m, k, 3 + K)``.

    Of points ``(B, n, 3)``, features ``(B, n, K)``, indices ``(B, m, k)`` and centres ``(B, m, 3)``.
    """
    offsets = gather(points, near) - centres.unsqueeze(2)
    return torch.cat([offsets, gather(features, near)], dim=-1)


class BallLevel(nn.Module):
    """Describe the ball around each of some far-apart centres by a PointNet on it.

    Parameters
    ----------
    centres
        How many.
    radius
        Of a ball, in units of the coordinates.
    neighbours
        Most points of a ball; of more, the nearest count.
    layers
        For points with their place relative to the centre in front of their features.
    """

    def __init__(self, centres: int, radius: float, neighbours: int, layers: PointLayers) -> None:
        super().__init__()
        self.centres, self.radius, self.neighbours = centres, radius, neighbours
        self.layers = layers

    def forward(self, points: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """From places ``(B, n, 3)`` and features ``(B, n, K)`` to those of the centres, ``(B, m, ...)``."""
        centres = gather(points, find_centres(points, self.centres))
        near = find_nearest(centres, points, self.neighbours, self.radius)
        balls = surround(points, features, near, centres)
        return centres, functional.relu(pool(self.layers(balls)))


class PointNet2(CloudNetwork):
    """PointNet++ for classification, single-scale grouping [1]_.

    512 centres, balls of radius 0.2 with 32 points, layers 64, 64, 128; 128 centres, 0.4, 64 points, layers
    128, 128, 256; all centres, layers 256, 512, 1024; then 512, 256, classes.

    Notes
    -----
    Two choices the paper leaves to chance or order are fixed here, so that the order of points does not
    matter: sampling starts at the point farthest from the mean, and an overfull ball keeps its nearest
    points. Centres and balls jump where points move past each other; the logits are not continuous there.

    References
    ----------
    .. [1] Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space",
       NeurIPS 2017, supplement B.1 (SSG).
    """

    fewest = 512

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        first, second, third = (scale(width, *widths) for widths in LEVELS)
        self.level1 = BallLevel(512, 0.2, 32, PointLayers(3, *first))
        self.level2 = BallLevel(128, 0.4, 64, PointLayers(3 + first[-1], *second))
        self.level3 = PointLayers(3 + second[-1], *third)
        self.head = make_head(NormalisedLinear, third[-1], scale(width, 512, 256), classes, (0.5, 0.5))

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 1024 width)``."""
        places, features = self.level2(*self.level1(points, points[..., :0]))
        return functional.relu(pool(self.level3(torch.cat([places, features], dim=-1))))


class PointConvolution(nn.Module):
    """Sum each neighbourhood's features, weighted by kernel and inverse density.

    Parameters
    ----------
    centres, neighbours
        How many, and how many nearest points each sums; None: one, at the mean, which sums all points.
    bandwidth
        Of the density estimate, in units of the coordinates.
    in_features, widths
        Numbers known of a point, and widths of the layers on them, with the place relative to the centre in
        front.
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
        in_features: int,
        widths: tuple[int, ...],
        width: float,
    ) -> None:
        super().__init__()
        self.centres, self.neighbours, self.bandwidth = centres, neighbours, bandwidth
        kernel = scale(width, *_KERNEL)
        self.layers = PointLayers(3 + in_features, *widths)
        self.kernel = PointLayers(3, *kernel)
        self.density = PointLayers(1, *scale(width, *_DENSITY), 1)
        self.mix = NormalisedLinear(widths[-1] * kernel[-1], widths[-1])

    def forward(self, points: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """From places ``(B, n, 3)`` and features ``(B, n, K)`` to those of the centres, ``(B, m, ...)``."""
        rarity = 1 / estimate_density(points, self.bandwidth).unsqueeze(-1)
        if self.centres is None or self.neighbours is None:
            centres = points.mean(1, keepdim=True)
            near = torch.arange(points.shape[1], device=points.device).expand(len(points), 1, -1)
        else:
            centres = gather(points, find_centres(points, self.centres))
            near = find_nearest(centres, points, self.neighbours)
        known = surround(points, features, near, centres)
        rarity = gather(rarity, near)
        weight = torch.sigmoid(self.density(rarity / rarity.amax(2, keepdim=True)))
        kernel = functional.relu(self.kernel(known[..., :3]))
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
        first, second, third = (scale(width, *widths) for widths in LEVELS)
        self.level1 = PointConvolution(512, 32, 0.1, 0, first, width)
        self.level2 = PointConvolution(128, 64, 0.2, first[-1], second, width)
        self.level3 = PointConvolution(None, None, 0.4, second[-1], third, width)
        self.head = make_head(NormalisedLinear, third[-1], scale(width, 512, 256), classes, (0.4, 0.4))

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 1024 width)``."""
        _, features = self.level3(*self.level2(*self.level1(points, points[..., :0])))
        return features.squeeze(1)
