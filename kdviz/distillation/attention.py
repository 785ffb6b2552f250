"""Look where the teacher looks: maps of activity over the picture."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdviz.distillation.interface import LOGITS, MapLoss, Outputs
from kdviz.networks.layouts import Turn, ask_for


class AttentionTransfer(MapLoss):
    """Squared distance of both networks' attention maps: sums over channels of squares, of unit length.

    Parameters
    ----------
    layer
        Layers of the student that give maps, one or several.
    teacher_layer
        Names of the layers in the teacher, in the same order, where they are others.
    class_weight, weight
        Of the labels and of the maps; by default those of the authors' code.
    layout, teacher_layout
        Turn what each layer of the student, and of the teacher, gives to maps ``(B, channels, H, W)``; by
        default as :mod:`kdviz.networks.layouts` finds: channels may come first or last, and tokens lie on a
        grid, beside others such as a class token, which are left out.

    Raises
    ------
    ValueError
        If a number is out of range, or there are not as many layers of both.
    TypeError
        If a layout is no function.

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
        layout: Turn | None = None,
        teacher_layout: Turn | None = None,
    ) -> None:
        super().__init__(class_weight, weight, layout, teacher_layout)
        theirs = layer if teacher_layer is None else teacher_layer
        ours, theirs = ((one,) if isinstance(one, str) else tuple(one) for one in (layer, theirs))
        if len(ours) != len(theirs) or not ours:
            raise ValueError(f"layer and teacher_layer must name as many layers, got {ours} and {theirs}")
        self.layers, self.teacher_layers = (*ours, LOGITS), theirs

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Refuse layers without maps."""
        assert teacher is not None
        arguments = "layout", "teacher_layout"
        for pair in zip(self.layers[:-1], self.teacher_layers, strict=True):
            maps = self.as_maps(student, teacher, *pair)
            for layer, outputs, one, argument in zip(pair, (student, teacher), maps, arguments, strict=True):
                if one is None or one.shape[2:].numel() == 1:
                    shape = tuple(outputs[layer].shape[1:])
                    raise ValueError(
                        "attention transfer compares maps (channels, height, width) of more than one cell, "
                        f"and {f'layer {layer!r} gives' if layer else 'the logits are'} {shape}"
                        + (f"; {ask_for(argument)}" if len(shape) == 2 else "")
                    )

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the mean over samples and cells, summed over layers."""
        total = []
        for pair in zip(self.layers[:-1], self.teacher_layers, strict=True):
            ours, theirs = self.as_maps(student, teacher, *pair)
            assert ours is not None and theirs is not None
            one, other = map_attention(ours, theirs)
            total.append(functional.mse_loss(one, other))
        return torch.stack(total).sum()


def map_attention(*features: Tensor) -> list[Tensor]:
    """Return attention maps ``(B, cells)`` of features ``(B, channels, H, W)``, all at the smallest size."""
    height, width = (min(feature.shape[axis] for feature in features) for axis in (2, 3))
    maps = (feature.square().sum(1) for feature in features)
    pooled = (functional.adaptive_avg_pool2d(one, (height, width)) for one in maps)
    return [functional.normalize(one.flatten(1)) for one in pooled]
