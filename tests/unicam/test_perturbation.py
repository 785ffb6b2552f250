"""Imputed images: a dense solve, the harmonic property, ramps, and which pixels are kept."""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import testing
from kdviz.attribution.maps import check_layer
from kdviz.networks import frozen
from kdviz.unicam.perturbation import NOISE, impute, perturb


def neighbours(row, col, height, width):
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if (down or right) and 0 <= row + down < height and 0 <= col + right < width:
                yield row + down, col + right, 1 / 12 if down and right else 1 / 6


def slow_impute(image, removed):
    """One equation a pixel, solved densely."""
    height, width = removed.shape
    system, told = np.eye(height * width), np.array(image, float).reshape(len(image), -1).T
    for row, col in zip(*np.nonzero(removed), strict=True):
        near = list(neighbours(row, col, height, width))
        whole = sum(weight for _, _, weight in near)
        at = row * width + col
        told[at] = 0
        for other_row, other_col, weight in near:
            system[at, other_row * width + other_col] -= weight / whole
    return np.linalg.solve(system, told).T.reshape(image.shape)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_imputed__is_the_dense_solution_and_harmonic(share):
    rng = np.random.default_rng(0)
    image, removed = rng.normal(size=(2, 7, 9)), rng.random((7, 9)) < share
    found = impute(image, removed)
    np.testing.assert_allclose(found, slow_impute(image, removed), atol=1e-12)
    np.testing.assert_array_equal(found[:, ~removed], image[:, ~removed])
    for row, col in zip(*np.nonzero(removed), strict=True):
        near = list(neighbours(row, col, 7, 9))
        mean = sum(weight * found[:, r, c] for r, c, weight in near) / sum(weight for *_, weight in near)
        np.testing.assert_allclose(found[:, row, col], mean, atol=1e-12)
    assert found.min() >= image.min() and found.max() <= image.max()


def test_ramp__is_imputed_to_itself_inside():
    rows, cols = np.mgrid[:10, :12]
    ramp = (2.0 * rows - 3.0 * cols)[None]
    removed = np.zeros((10, 12), bool)
    removed[1:-1, 1:-1] = np.random.default_rng(1).random((8, 10)) < 0.9
    np.testing.assert_allclose(impute(ramp, removed), ramp, atol=1e-11)


def test_image_of_which_all_is_kept_or_one_pixel__is_as_it_was_or_constant():
    image = np.random.default_rng(2).normal(size=(1, 4, 4))
    np.testing.assert_array_equal(impute(image, np.zeros((4, 4), bool)), image)
    removed = np.ones((4, 4), bool)
    removed[1, 2] = False
    np.testing.assert_allclose(impute(image, removed), np.full((1, 4, 4), image[0, 1, 2]), atol=1e-12)


class Sums(nn.Module):
    """Logit 0 is the sum of the left half, logit 1 that of the right one."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.seen, self.scale = nn.Conv2d(1, 1, 1), scale
        nn.init.ones_(self.seen.weight)
        nn.init.zeros_(self.seen.bias)

    def forward(self, images):
        seen = self.scale * self.seen(images)
        return torch.stack([seen[..., :4].sum((1, 2, 3)), seen[..., 4:].sum((1, 2, 3))], 1)


def kept_of(network, images, labels, **options):
    place = check_layer(network, images, "seen", methods=["grad_cam"])
    with frozen(network):
        found = perturb(
            network,
            images,
            labels,
            place,
            images=None,
            **({"kept": 0.5, "seed": 0, "rows": [*range(len(images))]} | options),
        )
    return found, found == images


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_perturbed__keeps_what_speaks_for_the_labelled_class_also_where_the_network_is_sure(scale):
    images = 0.1 + torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    _, kept = kept_of(Sums(scale), images, torch.tensor([0, 1]))
    assert kept[0, 0, :, :4].all() and not kept[0, 0, :, 4:].any()
    assert kept[1, 0, :, 4:].all() and not kept[1, 0, :, :4].any()
    _, kept = kept_of(Sums(scale), images, torch.tensor([0, 1]), kept=0.25)
    # of the half that speaks for the class, what is largest counts most
    assert images[0][kept[0]].min() > images[0][:, :, :4][~kept[0][:, :, :4]].max()
    assert kept.sum() == 32


def test_noise__is_that_of_the_sample_and_lies_on_what_is_imputed():
    network = testing.small_cnn()
    images, labels = testing.random_images(8), torch.arange(8) % 4
    place = check_layer(network, images, "conv2", methods=["grad_cam"])
    with frozen(network):

        def draw(rows, seed=0):
            return perturb(
                network, images[rows], labels[rows], place, images=None, kept=0.5, seed=seed, rows=rows
            )

        whole, again, other = draw([*range(8)]), draw([3, 5]), draw([*range(8)], seed=1)
    torch.testing.assert_close(whole[[3, 5]], again)
    removed = whole != images
    assert removed.sum() == 8 * 3 * 32
    noise = [
        (changed - torch.from_numpy(impute(image.double().numpy(), gone[0].numpy())))[gone]
        for drawn in (whole, other)
        for changed, image, gone in zip(drawn, images, drawn != images, strict=True)
    ]
    assert torch.cat(noise).std().item() == pytest.approx(NOISE, rel=0.1)
    assert not np.intersect1d(noise[0], noise[1]).size and not np.intersect1d(noise[0], noise[8]).size
