"""Learn a feature of the teacher through a regressor, where sizes differ."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdviz.distillation.interface import LOGITS, MixedLoss, Outputs


class Hint(MixedLoss):
    """Half the squared distance of the teacher's feature to what a regressor makes of the student's.

    Parameters
    ----------
    layer
        Layer of the student; its raw output is the feature.
    teacher_layer
        Name of the layer in the teacher, where it is another one.
    class_weight, weight
        Of the labels and of the hint.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    The regressor is a 1x1 convolution between maps ``(B, channels, H, W)`` and linear otherwise: on the last
    axis of as many tokens, or on all entries where one of both features is a vector. Between equal sizes
    there is none. Maps of the student are brought to the teacher's height and width by adaptive average
    pooling, of which a cell is the mean of those it covers. The distance is a mean over entries, not the sum
    of [1]_: only so do the published weights, up to 100, make sense for maps.

    References
    ----------
    .. [1] Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, Eq. 3.
    """

    teacher_layers: Sequence[str]
    parts: nn.Module
    needs_teacher = True

    def __init__(
        self, layer: str, teacher_layer: str | None = None, class_weight: float = 1.0, weight: float = 1.0
    ) -> None:
        super().__init__(class_weight, weight)
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
        ours, theirs = student[self.layers[0]], teacher[self.teacher_layers[0]]
        if ours.ndim == theirs.ndim == 4:
            ours = functional.adaptive_avg_pool2d(ours, (theirs.shape[2], theirs.shape[3]))
        return ours, theirs


def _make_regressor(ours: Tensor, theirs: Tensor) -> nn.Module:
    if ours.shape == theirs.shape:
        return nn.Identity()
    if ours.ndim == theirs.ndim == 4:
        return nn.Conv2d(ours.shape[1], theirs.shape[1], kernel_size=1, dtype=ours.dtype)
    if ours.shape[:-1] == theirs.shape[:-1]:
        return nn.Linear(ours.shape[-1], theirs.shape[-1], dtype=ours.dtype)
    if 2 not in (ours.ndim, theirs.ndim):
        raise ValueError(
            f"hint finds no regressor from features {tuple(ours.shape[1:])} of the student to "
            f"{tuple(theirs.shape[1:])} of the teacher: name layers of maps, of as many tokens, or a vector"
        )
    linear = nn.Linear(ours.numel(), theirs.numel(), dtype=ours.dtype)
    return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, theirs.shape[1:]))
