"""Point clouds: the built-in furniture, or ModelNet40."""

import torch
from torch import nn

from kdviz import units
from kdviz.models import cloud
from kdviz.sources import CloudSet, furniture, read_modelnet40
from kdviz.studies.materials.base import Material, Prepared
from kdviz.training import FURNITURE_PLANS

_HELD_OUT = 440  # clouds, several views of every held-out model


class Clouds(Material[CloudSet]):
    """Objects and the clutter around them, point by point."""

    plans = FURNITURE_PLANS
    teacher = "runs/teacher-furniture.safetensors"

    @property
    def built_in(self) -> bool:
        """Whether the plan names no folder."""
        return self.plan.clouds is None

    def load(self, part: str) -> CloudSet:
        """Compose clouds of objects and pieces of others."""
        points, background = self.plan.points, self.plan.background
        if self.plan.clouds is None:
            count = self.plan.composed if part == "train" else _HELD_OUT
            return furniture(part, count=count, points=points, background=background)
        return read_modelnet40(self.plan.clouds, part, points=points, background=background)

    def prepare(self, samples: CloudSet) -> Prepared:
        """Take points as they are."""
        inputs = torch.from_numpy(samples.clouds)
        return Prepared(inputs, units.cloud(inputs.shape[1]), samples.masks)

    def build(self, classes: int, seed: int) -> nn.Module:
        """Make a network of :mod:`kdviz.models.cloud`."""
        return cloud.build(self.plan.architecture, classes=classes, seed=seed)
