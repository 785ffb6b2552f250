"""Learn to tell the teacher's feature of the same sample from those of samples of other classes.

Symbols: ``B`` samples of a batch, ``M`` of the data, ``N`` negatives of each, ``D`` entries of a projection.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdviz.arguments import finite_number, positive_number, whole_number
from kdviz.distillation.interface import LOGITS, MixedLoss, Outputs

_MOST_NEGATIVES = 16384


class CRD(MixedLoss):
    """Contrastive representation distillation.

    Parameters
    ----------
    layer
        Of the student: the papers take the features below the logits.
    teacher_layer
        Name of the layer in the teacher, where it is another one.
    class_weight, weight
        Of the labels and of the contrast; by default those of large networks in [2]_, see below.
    negatives
        ``N``, drawn anew for every sample and step, each once; by default the papers' 16384, or as many as
        lie outside of the largest class, if these are less.
    temperature
        By which inner products are divided.
    size
        ``D``.
    momentum
        Of the memory, 0 to 1: the share that a projection keeps of the one before.
    scale
        ``Z``; 1 is the formula as it is printed. None: estimated from the first batch, see below.

    Raises
    ------
    ValueError
        If a number is out of range.

    Notes
    -----
    Linear heads project the features of both networks to unit vectors s(x) and t(x), and a memory holds both
    of every sample of the data, renewed where the sample was in the batch before it is compared. The loss, a
    mean over samples, is that of a classifier of pairs [1]_::

        -log h(s(x), t(x)) - sum_j log(1 - h(s(x), t(y_j))),    h(a, b) = e^(ab / T) / (e^(ab / T) + Z N / M)

    with t(y_j) from the memory, y_j of another class than x; and, as in the code of [1]_, the same with s and
    t exchanged. Without that, the teacher's head would be pulled only, and project all samples to one point.
    As printed, ``Z`` is 1: then every untrained pair counts as a match, and the loss is thousands of nats. By
    default it is, as in that code, ``M`` times the mean of ``e^(ab / T)`` over the first batch, for either
    side, so that h of a pair by chance is about ``1 / (N + 1)``.

    The loss starts near ``2 (1 + log(N))`` nats, some 20, and at the default weight its gradients are three
    times those of the labels. A small network without batch normalisation, at a rate of 0.03 and momentum of
    0.9, overshoots: its features grow a hundredfold within an epoch, and training diverges. At a rate of
    0.005, or a weight of 0.1, that of [2]_ for MNIST, it learns: studies take this weight by default.

    One step is kdviz's own, neither in [1]_ nor in [2]_: before projections get unit length, their mean over
    the batch is taken from them. Of networks without batch normalisation all samples else lie in nearly one
    direction, and pulling them over together spoils the student.

    References
    ----------
    .. [1] Tian et al., "Contrastive Representation Distillation", ICLR 2020, Eqs. 17-19.
    .. [2] Ojha et al., NeurIPS 2023, section 3.
    """

    teacher_layers: Sequence[str]
    parts: "_Bank"
    needs_teacher = True

    def __init__(
        self,
        layer: str,
        teacher_layer: str | None = None,
        class_weight: float = 1.0,
        weight: float = 0.8,
        negatives: int | None = None,
        temperature: float = 0.07,
        size: int = 128,
        momentum: float = 0.5,
        scale: float | None = None,
    ) -> None:
        super().__init__(class_weight, weight)
        self.layers = (layer, LOGITS)
        self.teacher_layers = (layer if teacher_layer is None else teacher_layer,)
        self.negatives = None if negatives is None else whole_number("negatives", negatives, least=1)
        self.temperature = positive_number("temperature", temperature)
        self.size = whole_number("size", size, least=1)
        self.momentum = finite_number("momentum", momentum, least=0)
        if self.momentum > 1:
            raise ValueError(f"momentum must lie in 0..1, got {momentum}")
        self.scale = None if scale is None else positive_number("scale", scale)

    def prepare(self, student: Outputs, teacher: Outputs | None, samples: int, labels: Tensor | None) -> None:
        """Make heads and memory; refuse more negatives than there are."""
        assert teacher is not None and labels is not None
        others = samples - int(labels.bincount().max())
        count = min(_MOST_NEGATIVES, others) if self.negatives is None else self.negatives
        if not 0 < count <= others:
            raise ValueError(
                f"crd draws {count or 'its'} negatives from other classes, and outside of the largest class "
                f"there are {others} samples"
            )
        features = student[self.layers[0]], teacher[self.teacher_layers[0]]
        self.parts = _Bank(*features, labels, count, self.size, self.scale or math.nan)

    def distil(self, student: Outputs, teacher: Outputs, labels: Tensor, rows: Tensor) -> Tensor:
        """Renew the memory of these samples; return the loss of the classifier of pairs."""
        parts, features = self.parts, (student[self.layers[0]], teacher[self.teacher_layers[0]])
        flat = [head(feature.flatten(1)) for head, feature in zip(parts.heads, features, strict=True)]
        views = torch.stack([functional.normalize(view - view.mean(0), eps=1e-5) for view in flat])
        with torch.no_grad():
            kept = self.momentum * parts.memory[:, rows] + (1 - self.momentum) * views
            parts.memory[:, rows] = functional.normalize(kept, dim=-1)
        others = draw_negatives(labels, parts.labels, parts.count).expand(2, -1, -1)
        same = (views[0] * views[1]).sum(1).expand(2, -1)
        apart = (views.flip(0) @ parts.memory.mT).gather(2, others)  # each with the memory of the other
        products = torch.cat([same[..., None], apart], 2) / self.temperature  # (2, B, 1 + N)
        if parts.log_scale.isnan().any():
            mean = products.detach().flatten(1).logsumexp(1) - math.log(products[0].numel())
            parts.log_scale = mean + math.log(len(parts.labels))
        chance = parts.log_scale + math.log(parts.count / len(parts.labels))
        odds = products - chance[:, None, None]  # log h / (1 - h)
        missed, taken = functional.softplus(-odds[..., 0]), functional.softplus(odds[..., 1:])
        return (missed + taken.sum(2)).mean(1).sum()


class _Bank(nn.Module):
    """Heads of student and teacher, and what is kept of the projections of both, ``(2, M, D)``."""

    memory: Tensor
    log_scale: Tensor
    labels: Tensor

    def __init__(
        self, ours: Tensor, theirs: Tensor, labels: Tensor, count: int, size: int, scale: float
    ) -> None:
        super().__init__()
        self.count = count
        self.heads = nn.ModuleList(
            nn.Linear(one.numel(), size, bias=False, dtype=one.dtype) for one in (ours, theirs)
        )
        memory = functional.normalize(torch.randn(2, len(labels), size, dtype=ours.dtype), dim=-1)
        self.register_buffer("memory", memory)
        self.register_buffer("log_scale", torch.full((2,), scale, dtype=ours.dtype).log())
        self.register_buffer("labels", labels, persistent=False)


def draw_negatives(wanted: Tensor, labels: Tensor, count: int) -> Tensor:
    """Draw ``(B, N)`` rows of `labels` ``(M,)``, each once, of classes other than `wanted` ``(B,)``."""
    return (wanted[:, None] != labels).float().multinomial(count)
