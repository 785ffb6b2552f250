"""Learn from answers: those of a teacher, softened, or softened labels that no teacher gave."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdviz.arguments import finite_number, positive_number, whole_number
from kdviz.distillation.interface import MixedLoss, Outputs


class KL(MixedLoss):
    """Cross-entropy of the student's softened answers to the teacher's, mixed with that of the labels.

    Parameters
    ----------
    temperature
        By which the logits of both are divided.
    class_weight, weight
        Of the labels and of the teacher; by default those of ResNet-50 and ResNet-18 in [2]_.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    ``-T^2 sum_c softmax(z_t / T)_c log softmax(z_s / T)_c``, the mean over samples. It differs from the
    Kullback-Leibler divergence by the entropy of the teacher, which has no gradient; the square keeps the
    size of gradients whatever the temperature [1]_.

    References
    ----------
    .. [1] Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    .. [2] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 3.
    """

    needs_teacher = True

    def __init__(self, temperature: float = 4.0, class_weight: float = 0.5, weight: float = 0.5) -> None:
        super().__init__(class_weight, weight)
        self.temperature = positive_number("temperature", temperature)

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Refuse networks of different numbers of classes."""
        assert teacher is not None
        ours, theirs = (outputs.logits.shape[1:] for outputs in (student, teacher))
        if ours != theirs:
            raise ValueError(
                f"kl compares answers to the same classes: the student gives logits {tuple(ours)}, the "
                f"teacher {tuple(theirs)}"
            )

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the softened cross-entropy, times the temperature's square."""
        ours, theirs = (outputs.logits / self.temperature for outputs in (student, teacher))
        return self.temperature**2 * functional.cross_entropy(ours, theirs.softmax(1))


class SoftLabels(MixedLoss):
    """Cross-entropy to labels softened by chance: the control of `KL` that has no teacher.

    Parameters
    ----------
    variance, temperature
        Of the normal noise that is added to the label, one at its class and 0 at others; and of the softmax
        that follows [1]_.
    class_weight, weight
        Of the hard and the soft labels; by default as in `KL`, which they are to be compared with.
    seed
        Of the noise. Each sample has its own, so that its soft label is the same in every epoch, and for
        students of every training seed, as the answers of one teacher are.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    .. [1] Ojha et al., NeurIPS 2023, appendix 11.2.
    """

    teacher_layers: Sequence[str] = ()

    def __init__(
        self,
        variance: float = 0.2,
        temperature: float = 0.15,
        class_weight: float = 0.5,
        weight: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(class_weight, weight)
        self.variance = finite_number("variance", variance, least=0)
        self.temperature = positive_number("temperature", temperature)
        self.seed = whole_number("seed", seed)

    def soften(self, labels: Tensor, rows: Tensor, classes: int) -> Tensor:
        """Return the soft labels of the samples that lie at `rows`, ``(B, C)``, float64."""
        draws = [np.random.default_rng([self.seed, row]).standard_normal(classes) for row in rows.tolist()]
        noise = torch.from_numpy(np.stack(draws)).to(labels.device)
        hard = functional.one_hot(labels, classes)
        return ((hard + math.sqrt(self.variance) * noise) / self.temperature).softmax(1)

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-entropy to the soft labels."""
        logits = student.logits
        return functional.cross_entropy(logits, self.soften(labels, rows, logits.shape[1]).to(logits.dtype))
