"""Learn a feature of the teacher through a regressor, where sizes differ."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdviz.distillation.interface import LOGITS, MapLoss, Outputs
from kdviz.networks.layouts import Turn, ask_for


class Hint(MapLoss):
    """Half the squared distance of the teacher's feature to what a regressor makes of the student's.

    Parameters
    ----------
    layer
        Layer of the student; its raw output is the feature.
    teacher_layer
        Name of the layer in the teacher, where it is another one.
    class_weight, weight
        Of the labels and of the hint.
    layout, teacher_layout
        Turn what the layer of the student, and of the teacher, gives to maps ``(B, channels, H, W)``; by
        default as :mod:`kdviz.networks.layouts` finds: channels may come first or last, and tokens on a grid,
        but for those beside it, such as a class token, are maps where the other network's are no tokens or
        not as many.

    Raises
    ------
    ValueError
        If a number is out of range.
    TypeError
        If a layout is no function.

    Notes
    -----
    The regressor is a 1x1 convolution between maps and linear otherwise: on the last axis of as many tokens,
    or on all entries where one of both features is a vector. Between equal sizes there is none. Maps of the
    student are brought to the teacher's height and width by adaptive average pooling, of which a cell is the
    mean of those it covers. The distance is a mean over entries, not the sum of [1]_: only so do the
    published weights, up to 100, make sense for maps.

    References
    ----------
    .. [1] Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, Eq. 3.
    """

    teacher_layers: Sequence[str]
    parts: nn.Module
    needs_teacher = True

    def __init__(
        self,
        layer: str,
        teacher_layer: str | None = None,
        class_weight: float = 1.0,
        weight: float = 1.0,
        layout: Turn | None = None,
        teacher_layout: Turn | None = None,
    ) -> None:
        super().__init__(class_weight, weight, layout, teacher_layout)
        self.layers = (layer, LOGITS)
        self.teacher_layers = (layer if teacher_layer is None else teacher_layer,)

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Make the regressor."""
        assert teacher is not None
        self.parts = _make_regressor(*self._features(student, teacher))

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return half the mean over samples and entries."""
        ours, theirs = self._features(student, teacher)
        return functional.mse_loss(self.parts(ours), theirs) / 2

    def _features(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        (ours_at, _), (theirs_at,) = self.layers, self.teacher_layers
        ours, theirs = student[ours_at], teacher[theirs_at]
        is_given = self.layout is not None or self.teacher_layout is not None
        if not is_given and (2 in (ours.ndim, theirs.ndim) or _are_like_tokens(ours, theirs)):
            return ours, theirs
        one, other = self.as_maps(student, teacher, ours_at, theirs_at)
        if one is None or other is None:
            raise ValueError(
                f"hint finds no regressor from features {tuple(ours.shape[1:])} of the student to "
                f"{tuple(theirs.shape[1:])} of the teacher: name layers of maps, of as many tokens, or a "
                f"vector, or {ask_for('layout' if one is None else 'teacher_layout')}"
            )
        return functional.adaptive_avg_pool2d(one, (other.shape[2], other.shape[3])), other


def _are_like_tokens(ours: Tensor, theirs: Tensor) -> bool:
    return ours.ndim == theirs.ndim == 3 and ours.shape[1] == theirs.shape[1]


def _make_regressor(ours: Tensor, theirs: Tensor) -> nn.Module:
    if ours.shape == theirs.shape:
        return nn.Identity()
    if ours.ndim == theirs.ndim == 4:
        return nn.Conv2d(ours.shape[1], theirs.shape[1], kernel_size=1, dtype=ours.dtype)
    if ours.shape[:-1] == theirs.shape[:-1]:
        return nn.Linear(ours.shape[-1], theirs.shape[-1], dtype=ours.dtype)
    linear = nn.Linear(ours.numel(), theirs.numel(), dtype=ours.dtype)
    return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, theirs.shape[1:]))
