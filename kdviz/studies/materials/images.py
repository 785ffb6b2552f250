"""Images: the built-in fashion composites, or a folder with masks."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from kdviz import units
from kdviz.models import image
from kdviz.sources import ImageSet, fashion_composites, image_folder, normalise
from kdviz.studies.materials.base import Material, Prepared, divide
from kdviz.training import FASHION_PLANS


class Images(Material[ImageSet]):
    """Pictures cut into a grid."""

    plans = FASHION_PLANS
    teacher = "runs/teacher-fashion.safetensors"

    @property
    def built_in(self) -> bool:
        """Whether the plan names no folder."""
        return self.plan.images is None

    def load(self, part: str) -> ImageSet:
        """Compose or read pictures."""
        if self.built_in:
            return fashion_composites(part, canvas=self.plan.size)
        assert self.plan.images is not None and self.plan.masks is not None
        everything = image_folder(self.plan.images, masks=self.plan.masks, size=self.plan.size)
        chosen = divide(everything, part)
        return replace(chosen, split=np.full(len(chosen), part))

    def prepare(self, samples: ImageSet) -> Prepared:
        """Normalise pictures."""
        inputs = torch.from_numpy(normalise(samples.images))
        return Prepared(inputs, units.grid(self.plan.grid), samples.masks, samples.images)

    def build(self, classes: int, seed: int) -> nn.Module:
        """Make a network of :mod:`kdviz.models.image`."""
        size = self.plan.size
        return image.build(self.plan.architecture, classes=classes, input_size=size, seed=seed)
