"""Pixels and what networks are fed, there and back."""

import numpy as np
import pytest
import torch

from kdviz.sources.image import normalise
from kdviz.transfer import Pixels


def test_pixels__are_those_that_sources_normalised():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    inputs = torch.from_numpy(normalise(images))
    pixels = Pixels().read(inputs)
    # float32: one step of rounding near 1 is 6e-8
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1) * 255, images, atol=1e-4)
    np.testing.assert_allclose(Pixels().write(pixels), inputs, atol=1e-5)


def test_pixels__of_another_normalisation_are_refused():
    inputs = torch.full((1, 3, 2, 2), 3.0)
    with pytest.raises(ValueError, match=r"inputs are pixels of 1\.08 to 1\.17 .* must be of 0 to 1"):
        Pixels().read(inputs)
    with pytest.raises(ValueError, match=r"images \(samples, 1, height, width\), got \(1, 3, 2, 2\)"):
        Pixels((0.5,), (0.5,)).read(inputs)
    with pytest.raises(ValueError, match="std must be a positive number"):
        Pixels((0.5,), (0.0,))
