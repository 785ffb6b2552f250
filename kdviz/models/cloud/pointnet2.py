"""PointNet++: small PointNets on balls around far-apart centres, level after level.

Symbols: ``B`` clouds, ``n`` points, ``m`` centres, ``k`` points of a ball, ``K`` numbers per point.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.models.building import make_head
from kdviz.models.cloud.layers import (
    LEVELS,
    CloudNetwork,
    NormalisedLinear,
    PointLayers,
    pool,
    scale,
    surround,
)
from kdviz.models.cloud.neighbours import find_centres, find_nearest, gather


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
