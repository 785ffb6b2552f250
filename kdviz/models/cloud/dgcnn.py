"""DGCNN: convolutions on the edges of a graph of nearest neighbours that is built anew in every layer.

Symbols: ``B`` clouds, ``n`` points, ``k`` neighbours, ``K`` numbers per point.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.models.building import make_head
from kdviz.models.cloud.layers import CloudNetwork, NormalisedLinear, pool, scale
from kdviz.models.cloud.neighbours import find_nearest, gather

_SLOPE = 0.2  # of the activation below 0


class EdgeLayer(NormalisedLinear):
    """Largest response of a point's edges: a layer on the point and its differences to its neighbours.

    The weight ``(out_features, 2 in_features)`` is applied to every point once, and the results are put
    together on the edges, which is the same and costs ``k`` times less.
    """

    def __init__(self, in_features: int, out_features: int, neighbours: int) -> None:
        super().__init__(2 * in_features, out_features)
        self.neighbours = neighbours

    def forward(self, points: Tensor) -> Tensor:
        """Map ``(B, n, in_features)`` to ``(B, n, out_features)``."""
        weight, bias = (self.weight, None) if self.norm.training else self.fold()
        of_point, of_difference = weight.chunk(2, dim=1)
        near = find_nearest(points, points, self.neighbours)
        others = gather(functional.linear(points, of_difference), near)
        own = functional.linear(points, of_point - of_difference, bias)
        if not self.norm.training:
            return functional.leaky_relu(own + pool(others), _SLOPE)
        edges = own.unsqueeze(2) + others
        return functional.leaky_relu(pool(self.norm(edges.flatten(0, -2)).view_as(edges)), _SLOPE)


class DGCNN(CloudNetwork):
    """Dynamic graph CNN for classification, 20 neighbours [1]_.

    Edge layers 64, 64, 128, 256, whose outputs together feed a layer of 1024; maximum and mean over points;
    512, 256, classes. Leaky ReLUs of slope 0.2.

    Notes
    -----
    A point is among its own neighbours; in a cloud of fewer than 20 points, all are. The head's hidden layers
    meet leaky ReLUs, so a feature read with ``feature="relu"`` leaves out the fifth of its negative part that
    reaches the next layer.

    References
    ----------
    .. [1] Wang et al., "Dynamic Graph CNN for Learning on Point Clouds", ACM Transactions on Graphics 2019,
       section 5.1 and figure 3.
    """

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        *widths, wide = scale(width, 64, 64, 128, 256, 1024)
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        self.edges = nn.ModuleList(EdgeLayer(before, after, neighbours=20) for before, after in pairs)
        self.points = NormalisedLinear(sum(widths), wide)
        self.head = make_head(
            NormalisedLinear, 2 * wide, scale(width, 512, 256), classes, (0.5, 0.5), slope=_SLOPE
        )

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 2048 width)``: maxima, then means."""
        features = [points]
        for layer in self.edges:
            features.append(layer(features[-1]))
        responses = functional.leaky_relu(self.points(torch.cat(features[1:], dim=-1)), _SLOPE)
        return torch.cat([pool(responses), responses.mean(1)], dim=-1)
