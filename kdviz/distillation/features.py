"""Match the feature of one layer: the protocol of the papers on knowledge points."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from kdviz.distillation.interface import Loss, Outputs


class Features(Loss):
    """Mean squared difference of one layer's raw features; what lies beyond the layer is not trained.

    Parameters
    ----------
    layer
        Matched layer of the student; its output as it is, before any activation, gives the feature.
    teacher_layer
        Name of the layer in the teacher, where it is another one.

    Notes
    -----
    The loss is the mean over samples and entries, not the sum over entries, so that gradients shrink with
    the size of the feature and learning rates are far larger than for classification. Entries that are 0 in
    both, as tokens of padding are in :class:`kdviz.models.TextNetwork`, add nothing and are counted: the same
    error is a smaller loss in a batch with more padding. No label is used [1]_.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1, and the authors' published code, ``distillation.py``.
    """

    teacher_layers: Sequence[str]
    needs_teacher = True

    def __init__(self, layer: str, teacher_layer: str | None = None) -> None:
        self.layers, self.teacher_layers = (layer,), (teacher_layer or layer,)
        self.up_to = layer

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Refuse features of different size."""
        ours, theirs = self._features(student, teacher)
        if ours.numel() != theirs.numel():
            raise ValueError(
                f"feature matching needs equal sizes: {self.layers[0]!r} of the student has {ours.numel()} "
                f"entries, {self.teacher_layers[0]!r} of the teacher {theirs.numel()}"
            )

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the mean over samples and entries."""
        return functional.mse_loss(*self._features(student, teacher))

    def _features(self, student: Outputs, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        assert teacher is not None
        return student[self.layers[0]].flatten(), teacher[self.teacher_layers[0]].flatten()
