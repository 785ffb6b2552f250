"""The losses by which a student learns from a teacher, and the interface of one's own.

A new loss is a module here and a line in `LOSSES`; :func:`kdviz.training.train` trains by any of them.
"""

from types import MappingProxyType

from kdviz.distillation.features import Features
from kdviz.distillation.interface import LOGITS, Loss, Outputs, as_loss

LOSSES: MappingProxyType[str, type[Loss]] = MappingProxyType({"features": Features})
"""Losses by the name that a run stores as its ``distillation_method``."""

__all__ = ["LOGITS", "LOSSES", "Features", "Loss", "Outputs", "as_loss"]
