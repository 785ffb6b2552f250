"""What the point networks share: layers applied to every point alike, and pooling.

Points lie along the second axis and what is known of a point along the last, so that a layer for points is a
layer for vectors. No layer works in place.

Symbols: ``B`` clouds, ``n`` points, ``K`` numbers per point, ``C`` classes.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


class NormalisedLinear(nn.Linear):
    """A fully connected layer, without bias, whose output is batch-normalised over all axes but the last.

    One module rather than two, so that one layer name gives both the feature that meets the activation and
    the layer's ``weight``. In eval mode, both are one linear map and run as one, a quarter faster.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.norm = nn.BatchNorm1d(out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        if not self.norm.training and not isinstance(inputs, fx.Proxy):  # a trace serves both modes
            return functional.linear(inputs, *self.fold())
        outputs = super().forward(inputs)
        return self.norm(outputs.flatten(0, -2)).view_as(outputs)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the layer with its normalisation, as eval mode has it."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None  # what BatchNorm1d keeps unless told otherwise
        factor = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        return self.weight * factor.unsqueeze(1), self.norm.bias - mean * factor


class PointLayers(nn.Sequential):
    """`NormalisedLinear` layers with ReLUs between them, the same for every point.

    The last has no ReLU: whoever pools does it first and applies the ReLU to what is left, which gives the
    same and touches fewer numbers.
    """

    def __init__(self, in_features: int, *widths: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, width in enumerate(widths, start=1):
            if index > 1:
                layers[f"relu{index - 1}"] = nn.ReLU()
            layers[f"linear{index}"] = NormalisedLinear(in_features, width)
            in_features = width
        super().__init__(layers)


class CloudNetwork(nn.Module, ABC):
    """A network for clouds ``(B, n, 3)``: what `describe` says of a cloud goes to `head`.

    Attributes
    ----------
    fewest
        Points a cloud must have.
    head
        From the description to the logits.
    """

    fewest = 1
    head: nn.Module

    @abstractmethod
    def describe(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to one vector each, ``(B, K)``."""

    def forward(self, points: Tensor) -> Tensor:
        """Map clouds ``(B, n, 3)`` to logits ``(B, C)``.

        Raises
        ------
        ValueError
            If `points` has another shape, or fewer points than the network needs.
        """
        return self.head(self.describe(check_clouds(points, self.fewest)))


def pool(values: Tensor) -> Tensor:
    """Maximum over points, ``(..., n, K)`` to ``(..., K)``; of tied points, one gets the gradient."""
    return values.max(-2).values


def scale(width: float, *channels: int) -> tuple[int, ...]:
    """Multiply numbers of channels by a factor, rounded, at least 1 each."""
    return tuple(max(1, round(channel * width)) for channel in channels)


def check_clouds(points: Tensor, fewest: int) -> Tensor:
    """Return `points` if they are clouds ``(B, n, 3)`` with enough points."""
    shape = tuple(points.shape)
    if len(shape) != 3 or shape[2] != 3 or shape[1] < fewest:
        wanted = f"(clouds, points, 3), xyz last, with at least {fewest} points"
        raise ValueError(f"points must have shape {wanted}, got {shape}")
    return points


fx.wrap("check_clouds")  # looks at values of shapes, which a symbolic trace does not have
