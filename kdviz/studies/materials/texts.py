"""Texts: the built-in movie reviews, or a file of labelled sentences."""

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from kdviz.errors import DataError, KdvizWarning
from kdviz.models import text
from kdviz.sources import Encoding, TextSet, encode, movie_reviews, read_sst2, review_tokenizer
from kdviz.studies.materials.base import Material, Prepared, divide
from kdviz.training import REVIEW_PLANS


class Texts(Material[TextSet]):
    """Sentences cut into words."""

    plans = REVIEW_PLANS
    teacher = "runs/teacher-reviews.safetensors"

    @property
    def built_in(self) -> bool:
        """Whether the plan names no file."""
        return self.plan.texts is None

    def load(self, part: str) -> TextSet:
        """Read sentences."""
        if self.plan.texts is None:
            return movie_reviews(part)
        chosen = divide(read_sst2(self.plan.texts), part)
        return replace(chosen, split=np.full(len(chosen), part))

    @cached_property
    def _tokenizer(self) -> Any:
        return review_tokenizer()

    def _encode(self, samples: TextSet) -> Encoding:
        return encode(samples, self._tokenizer, length=self.plan.length)

    def prepare(self, samples: TextSet) -> Prepared:
        """Cut sentences into word pieces."""
        encoding = self._encode(samples)
        return Prepared(torch.from_numpy(encoding.ids), encoding.units, encoding.texts.foreground_mask)

    def choose(self, samples: TextSet, count: int) -> TextSet:
        """Pick the first texts that have words of both kinds: without them there is nothing to compare."""
        masks = self._encode(samples).texts.foreground
        both = np.flatnonzero([bool(mask.any() and not mask.all()) for mask in masks])
        if not len(both):
            raise DataError(
                f"no text of {samples.source} has both words that the sentiment lexicon rates, the "
                "foreground, and others to compare them with; with masks of your own, use kdviz.measure"
            )
        if len(both) < count:
            warnings.warn(
                f"only {len(both)} texts have words of both kinds; these are measured, not {count}",
                KdvizWarning,
                stacklevel=2,
            )
        return samples.select(both[:count])

    def build(self, classes: int, seed: int) -> nn.Module:
        """Make a network of :mod:`kdviz.models.text`."""
        return text.build(
            self.plan.architecture,
            classes=classes,
            vocabulary=len(self._tokenizer),
            length=self.plan.length,
            seed=seed,
        )
