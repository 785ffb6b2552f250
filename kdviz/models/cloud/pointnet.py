"""PointNet: every point by itself, then the maximum over all points; and a small one for the built-in clouds.

Symbols: ``B`` clouds, ``n`` points, ``K`` numbers per point.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.models.building import make_head
from kdviz.models.cloud.layers import CloudNetwork, NormalisedLinear, PointLayers, pool, scale


class Alignment(nn.Module):
    """A small PointNet that gives each cloud a matrix and multiplies its points by it (the paper's T-net).

    Layers 64, 128, 1024 for points, 512, 256 for the cloud, then the matrix, which starts as the identity.
    """

    def __init__(self, size: int, width: float) -> None:
        super().__init__()
        narrow, middle, wide, *hidden = scale(width, 64, 128, 1024, 512, 256)
        self.points = PointLayers(size, narrow, middle, wide)
        self.hidden = PointLayers(wide, *hidden)
        self.matrix = nn.Linear(hidden[-1], size * size)
        self.size = size

    @torch.no_grad()
    def start_at_identity(self) -> None:
        """Let every cloud pass unchanged."""
        nn.init.zeros_(self.matrix.weight)
        self.matrix.bias.copy_(torch.eye(self.size).flatten())

    def forward(self, points: Tensor) -> Tensor:
        """Map ``(B, n, size)`` to the same shape."""
        cloud = functional.relu(pool(self.points(points)))
        cloud = functional.relu(self.hidden(cloud))
        return points @ self.matrix(cloud).unflatten(1, (self.size, self.size))


class PointNet(CloudNetwork):
    """PointNet for classification with both alignments [1]_.

    Points: alignment of coordinates, 64, 64, alignment of features, 64, 128, 1024. Then their maximum, 512,
    256, classes.

    Notes
    -----
    The paper also pulls the 64 x 64 matrix towards an orthogonal one by a term of the loss, weight 0.001. It
    belongs to training and is not part of the network.

    References
    ----------
    .. [1] Qi et al., "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation", CVPR
       2017, figure 2, section 4.2 and supplement C.
    """

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        narrow, middle, wide = scale(width, 64, 128, 1024)
        self.align_points = Alignment(3, width)
        self.points1 = PointLayers(3, narrow, narrow)
        self.align_features = Alignment(narrow, width)
        self.points2 = PointLayers(narrow, narrow, middle, wide)
        self.head = make_head(NormalisedLinear, wide, scale(width, 512, 256), classes, (0.0, 0.3))

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 1024 width)``."""
        features = functional.relu(self.points1(self.align_points(points)))
        return functional.relu(pool(self.points2(self.align_features(features))))


class SmallPointNet(CloudNetwork):
    """A PointNet without alignments: points 32, 32, 64, 256, then ``fc1`` 128 and ``fc2`` 64.

    Made for the built-in clouds: 65,000 weights, trained in minutes on a CPU.
    """

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        widths = scale(width, 32, 32, 64, 256)
        self.points = PointLayers(3, *widths)
        self.head = make_head(NormalisedLinear, widths[-1], scale(width, 128, 64), classes, (0.0, 0.0))

    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to vectors ``(B, 256 width)``."""
        return functional.relu(pool(self.points(points)))
