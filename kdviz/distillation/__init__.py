"""The losses by which a student learns from a teacher, and the interface of one's own.

A new loss is a module here and a line in `LOSSES`; :func:`kdviz.training.train` trains by any of them.
"""

from types import MappingProxyType

from kdviz.distillation.attention import AttentionTransfer
from kdviz.distillation.contrast import CRD
from kdviz.distillation.features import Features
from kdviz.distillation.hint import Hint
from kdviz.distillation.interface import LOGITS, Loss, MapLoss, MixedLoss, Outputs, as_loss
from kdviz.distillation.labels import CrossEntropy as CrossEntropy
from kdviz.distillation.labels import FineTuning
from kdviz.distillation.logits import KL, SoftLabels
from kdviz.distillation.published import PAIRS, published

LOSSES: MappingProxyType[str, type[Loss]] = MappingProxyType(
    {
        "features": Features,
        "kl": KL,
        "hint": Hint,
        "crd": CRD,
        "attention": AttentionTransfer,
        "soft-labels": SoftLabels,
        "fine-tuning": FineTuning,
    }
)
"""Losses by the name that a run stores as its ``distillation_method``."""

__all__ = [
    "CRD",
    "KL",
    "LOGITS",
    "LOSSES",
    "PAIRS",
    "AttentionTransfer",
    "Features",
    "FineTuning",
    "Hint",
    "Loss",
    "MapLoss",
    "MixedLoss",
    "Outputs",
    "SoftLabels",
    "as_loss",
    "published",
]
