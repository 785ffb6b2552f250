"""Look where the teacher looks: maps of activity over the picture."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdviz.distillation.interface import LOGITS, MixedLoss, Outputs


class AttentionTransfer(MixedLoss):
    """Squared distance of both networks' attention maps: sums over channels of squares, of unit length.

    Parameters
    ----------
    layer
        Layers of the student that give maps ``(B, channels, H, W)``, one or several.
    teacher_layer
        Names of the layers in the teacher, in the same order, where they are others.
    class_weight, weight
        Of the labels and of the maps; by default those of the authors' code.

    Raises
    ------
    ValueError
        If a number is out of range, or there are not as many layers of both.

    Notes
    -----
    The mean over samples and cells, summed over layers, as in the authors' code. Channels may differ; of
    unequal maps the larger is brought to the size of the smaller by adaptive average pooling. Of logits and
    other vectors each entry would be a map of one cell, which unit length makes 1: nothing would be learned,
    so they are refused.

    References
    ----------
    .. [1] Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1.
    """

    teacher_layers: Sequence[str]
    needs_teacher = True

    def __init__(
        self,
        layer: str | Sequence[str],
        teacher_layer: str | Sequence[str] | None = None,
        class_weight: float = 1.0,
        weight: float = 1000.0,
    ) -> None:
        super().__init__(class_weight, weight)
        theirs = layer if teacher_layer is None else teacher_layer
        ours, theirs = ((one,) if isinstance(one, str) else tuple(one) for one in (layer, theirs))
        if len(ours) != len(theirs) or not ours:
            raise ValueError(f"layer and teacher_layer must name as many layers, got {ours} and {theirs}")
        self.layers, self.teacher_layers = (*ours, LOGITS), theirs

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Refuse layers without maps."""
        assert teacher is not None
        for outputs, layers in ((student, self.layers[:-1]), (teacher, self.teacher_layers)):
            for layer in layers:
                shape = tuple(outputs[layer].shape[1:])
                if len(shape) != 3 or shape[1:] == (1, 1):
                    raise ValueError(
                        "attention transfer compares maps (channels, height, width) of more than one cell, "
                        f"and {f'layer {layer!r} gives' if layer else 'the logits are'} {shape}"
                    )

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean over samples and cells, summed over layers."""
        named = zip(self.layers[:-1], self.teacher_layers, strict=True)
        pairs = [map_attention(student[ours], teacher[theirs]) for ours, theirs in named]
        return torch.stack([functional.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()


def map_attention(*features: Tensor) -> list[Tensor]:
    """Return attention maps ``(B, cells)`` of features ``(B, channels, H, W)``, all at the smallest size."""
    height, width = (min(feature.shape[axis] for feature in features) for axis in (2, 3))
    maps = (feature.square().sum(1) for feature in features)
    pooled = (functional.adaptive_avg_pool2d(one, (height, width)) for one in maps)
    return [functional.normalize(one.flatten(1)) for one in pooled]
