"""Grad-CAM similarity: closed forms, ties, chance, and maps of several sizes."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from kdviz import testing, transfer


class Looks(nn.Module):
    """Grad-CAM of every class is the input times a mask: the layer gives it, the logits are its sum."""

    def __init__(self, mask, classes=2):
        super().__init__()
        self.layer, self.classes = nn.Conv2d(1, 1, 1, bias=False), classes
        nn.init.ones_(self.layer.weight)
        self.register_buffer("mask", torch.as_tensor(mask, dtype=torch.float32))
        self.masked = _Masked(self.layer, self.mask)

    def forward(self, images):
        return self.masked(images).sum((2, 3)).repeat(1, self.classes)


class _Masked(nn.Module):
    def __init__(self, layer, mask):
        super().__init__()
        self.layer, self.mask = layer, mask

    def forward(self, images):
        return self.layer(images) * self.mask


def ask(networks, images, independent=(), **options):
    labels = np.zeros(len(images), int)
    layers = {name: "masked" for name in networks}
    return transfer.localization(
        networks, images, labels, teacher="teacher", independent=independent, layers=layers, progress=False,
        **options,
    )  # fmt: skip


@pytest.fixture
def corners():
    """Networks that look at one, two and three of four corners, the last at another one than the teacher."""
    masks = {"teacher": [1, 0, 0, 0], "near": [1, 1, 0, 0], "far": [1, 1, 1, 0], "away": [0, 0, 0, 1]}
    return {name: Looks(np.reshape(mask, (2, 2))) for name, mask in masks.items()}


def test_similarity__is_the_cosine_worked_by_hand(corners):
    ds = ask(corners, torch.ones(1, 1, 2, 2), independent="far")
    # of [1, 0, 0, 0]: 1, 1 / sqrt 2, 1 / sqrt 3 and 0
    expected = [[1.0], [2**-0.5], [3**-0.5], [0.0]]
    np.testing.assert_allclose(ds["cam_similarity"], expected, atol=1e-12)
    np.testing.assert_array_equal(ds["closer_map"], [[1.0], [1.0], [np.nan], [0.0]])
    assert ds.attrs["headline"] == "closer_map" and ds.attrs["chance"] == 0.5


def test_several_independent_networks__give_the_share_beaten_and_are_checked_among_themselves(corners):
    ds = ask(corners, torch.ones(1, 1, 2, 2), independent=["far", "away"])
    np.testing.assert_array_equal(ds["closer_map"], [[1.0], [1.0], [1.0], [0.0]])
    ds = ask(corners, torch.ones(1, 1, 2, 2), independent=["near", "away"])
    np.testing.assert_array_equal(ds["closer_map"].sel(network="far"), [0.5])


def test_student_compared_with_itself__is_a_tie_and_counts_as_neither(corners):
    twice = {"teacher": corners["teacher"], "alone": corners["near"], "student": corners["near"]}
    ds = ask(twice, torch.ones(3, 1, 2, 2), independent="alone")
    np.testing.assert_array_equal(ds["closer_map"].sel(network="student"), np.full(3, np.nan))
    np.testing.assert_array_equal(ds["closer_map"].sel(network="teacher"), 1.0)


def test_map_of_zeros__has_no_similarity_and_beats_nobody(corners):
    images = torch.ones(2, 1, 2, 2)
    images[1, 0, 0] = 0  # what the teacher and those near it look at; the ReLU takes the rest
    images[1, 0, 1] = -1
    ds = ask(corners, images, independent="far")
    np.testing.assert_array_equal(np.isnan(ds["cam_similarity"]), [[False, True]] * 4)
    assert np.isnan(ds["closer_map"].isel(sample=1)).all()


def test_map_of_zeros__of_one_network_alone_is_neither_closer_nor_farther(corners):
    images = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])  # of what "away" looks at all speaks against
    ds = ask(corners, images, independent=["far", "away"])
    np.testing.assert_array_equal(ds["closer_map"][:, 0], [1.0, 1.0, np.nan, np.nan])
    comment = ds["closer_map"].attrs["comment"]
    assert comment.startswith("ties and maps that are zero count as neither; NaN where there is but that")


def test_layer_given_as_module__is_found_where_networks_are_copied_to_a_device(corners, copied):
    options = {"teacher": "teacher", "independent": "far", "progress": False}
    given = corners, torch.ones(1, 1, 2, 2), [0]
    named, held = (
        transfer.localization(
            *given, **options, layers={name: take(network) for name, network in corners.items()}
        )
        for take in (lambda _: "masked", lambda network: network.masked)
    )
    assert copied and not set(copied) & {id(network) for network in corners.values()}
    xr.testing.assert_identical(held, named)


def test_relu__takes_what_speaks_against_the_class(corners):
    images = torch.tensor([[[[1.0, -1.0], [0.0, 0.0]]]])
    ds = ask(corners, images, independent="far")
    assert ds["cam_similarity"].sel(network="near").item() == pytest.approx(1.0)  # 1 / sqrt 2 without it


def test_map_of_another_size__is_resized_to_that_of_the_teacher(corners):
    fine = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), Looks(np.kron([[1, 1], [0, 0]], np.ones((2, 2))))
    )
    networks = {"teacher": corners["teacher"], "near": corners["near"], "fine": fine}
    ds = transfer.localization(
        networks, torch.ones(1, 1, 2, 2), [0], teacher="teacher", progress=False,
        layers={"teacher": "masked", "near": "masked", "fine": "1.masked"},
    )  # fmt: skip
    # half-way between two cells of one value is that value
    np.testing.assert_allclose(ds["cam_similarity"][:, 0], [1.0, 2**-0.5, 2**-0.5], atol=1e-12)
    assert ds.attrs["note"] == "there is no independent network to compare with"
    assert np.isnan(ds["closer_map"]).all()


def test_networks_that_know_nothing_of_each_other__come_out_near_chance():
    networks = {str(seed): testing.small_cnn(seed=seed) for seed in range(41)}
    alone, students = [list(networks)[part] for part in (slice(1, 21), slice(21, 41))]
    labels = np.arange(40) % 4
    ds = transfer.localization(
        networks, testing.random_images(40), labels, teacher="0", independent=alone, progress=False
    )
    # of m students and n others in random order, the share of wins has variance (m + n + 1) / (12 m n); two
    # of its roots, 0.18, are twice what it can differ by even if all samples gave the same order
    deviation = (41 / (12 * 20 * 20)) ** 0.5
    assert ds["closer_map"].sel(network=students).mean().item() == pytest.approx(0.5, abs=2 * deviation)
    # among themselves every win is another's loss
    assert ds["closer_map"].sel(network=alone).mean().item() == pytest.approx(0.5, abs=0.01)  # but for ties


@pytest.mark.parametrize("max_batch", [1, 3])
def test_max_batch__changes_nothing_but_rounding(max_batch):
    networks = {str(seed): testing.small_cnn(seed=seed) for seed in range(3)}
    given = networks, testing.random_images(7), np.arange(7) % 4
    one, other = (
        transfer.localization(*given, teacher="0", independent="1", max_batch=size, progress=False)
        for size in (64, max_batch)
    )
    # float32 sums of another order: some units of 6e-8
    np.testing.assert_allclose(one["cam_similarity"], other["cam_similarity"], atol=1e-5)


def test_localization__says_what_it_cannot_do(corners, tables, numbered, labels):
    with pytest.raises(
        ValueError, match=r"localization is for images .* only, got \(1, 4\) of torch.float32"
    ):
        transfer.localization(tables, numbered, labels, teacher="teacher")
    with pytest.raises(ValueError, match="layers is 'nar'; did you mean 'near' or 'far'"):
        transfer.localization(
            corners, torch.ones(1, 1, 2, 2), [0], teacher="teacher", layers={"nar": "masked"}
        )
