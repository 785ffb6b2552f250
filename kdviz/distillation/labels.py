"""Learn from labels: from scratch, beyond a frozen layer, or from where the teacher stopped."""

from torch import Tensor
from torch.nn import functional

from kdviz.distillation.interface import Loss, Outputs


class CrossEntropy(Loss):
    """Cross-entropy of a network's own answers: no teacher.

    Parameters
    ----------
    beyond
        Last frozen layer: only what lies beyond it is trained; up to it, weights and running statistics keep
        every bit. None: the whole network is trained.

    Notes
    -----
    A frozen part runs in eval mode. In the authors' code its batch normalisation keeps adapting [1]_, so that
    the distilled feature moves; here it does not. If nothing is augmented and the network can be cut at the
    layer, the frozen features are computed once.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1, and the authors' published code, ``distillation.py``.
    """

    needs_labels = True

    def __init__(self, beyond: str | None = None) -> None:
        self.beyond = beyond

    def __call__(
        self, student: Outputs, teacher: Outputs | None, labels: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the mean over samples."""
        assert labels is not None
        return functional.cross_entropy(student.logits, labels)


class FineTuning(CrossEntropy):
    """Cross-entropy of a network that begins with the teacher's weights: nothing else of it is learned from.

    A study gives such a student all weights of the teacher, but those of layers of another shape and, of a
    teacher of other data or classes, those of the last one. Zhang et al., TPAMI 2022, Fig. 7, compare it with
    training from scratch.
    """

    begins_as_teacher = True

    def __init__(self) -> None:
        super().__init__()
