"""Planes through samples: linear networks whose regions are known, and planes that there are not."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import jaccard_score
from torch import nn

from kdviz import testing, transfer


def half_planes(*lines):
    """Classes by the largest of ``a * x + b * y + c``."""
    network = nn.Linear(2, len(lines))
    weights = torch.tensor(lines, dtype=torch.float32)
    with torch.no_grad():
        network.weight.copy_(weights[:, :2])
        network.bias.copy_(weights[:, 2])
    return network


def right_of(x):
    return half_planes((0, 0, 0), (1, 0, -x))


CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def ask(networks, inputs, **options):
    labels = np.zeros(len(inputs["points"] if isinstance(inputs, dict) else inputs), int)
    given = {"teacher": "teacher", "triplets": 1, "resolution": 5, "margin": 0.0, "progress": False} | options
    return transfer.boundary(networks, inputs, labels, **given)


def test_overlap__of_half_planes_is_counted_by_hand():
    networks = {"teacher": right_of(0.6), "near": right_of(0.4), "never": right_of(9.0)}
    ds = ask(networks, CORNERS)
    # columns at 0, 1/4, 1/2, 3/4 and 1: of the teacher's classes 3 and 2, of the others' 2 and 3, 5 and 0
    near, never = (2 / 3 + 2 / 3) / 2, (3 / 5 + 0) / 2
    np.testing.assert_allclose(ds["boundary_overlap"], [[1.0], [near], [never]], rtol=1e-12)
    np.testing.assert_allclose(ds["boundary_agreement"], [[1.0], [4 / 5], [3 / 5]], rtol=1e-12)
    assert ds["boundary_overlap"].sel(network="teacher").item() == 1


def test_label_map__holds_the_class_of_the_point_that_its_place_stands_for():
    networks = {
        "teacher": half_planes((3, 1, 0), (1, 4, 0), (0, 0, 2.03)),
        "other": half_planes((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    }
    ds = ask(networks, CORNERS, resolution=11, margin=0.25)
    rows, cols = ds["corner_row"][0].values, ds["corner_col"][0].values
    # 11 points from -1/4 to 5/4; positions of the corners lead back from places to points
    at = dict(zip(ds["corner_sample"][0].values, zip(rows, cols, strict=True), strict=True))
    spans = np.array([at["1"], at["2"]]) - at["0"]
    np.testing.assert_allclose(np.abs(spans), [[0, 10 / 1.5], [10 / 1.5, 0]], atol=1e-12)
    for row in range(11):
        for col in range(11):
            x, y = np.linalg.solve(spans.T, np.array([row, col]) - at["0"])
            expected = np.argmax([3 * x + y, x + 4 * y, 2.03])
            assert ds["label_map"].sel(network="teacher")[0, row, col] == expected


def test_fine_grid__gives_the_areas_of_the_regions():
    ds = ask(
        {"teacher": right_of(0.5), "student": half_planes((0, 0, 0), (1, 1, -1))}, CORNERS, resolution=200
    )
    # of the unit square a half each; both share 3/8 of it, and 5/8 are of either
    assert ds["boundary_overlap"][1, 0].item() == pytest.approx(
        3 / 5, abs=0.01
    )  # a row of points more or less


def test_overlap__is_the_jaccard_index_of_scikit_learn():
    networks = {str(seed): testing.small_cnn(seed=seed, classes=6) for seed in range(4)}
    ds = transfer.boundary(
        networks, testing.random_images(12), np.arange(12) % 6, teacher="0", triplets=5, resolution=9,
        progress=False,
    )  # fmt: skip
    for name in networks:
        for triplet in range(5):
            maps = [ds["label_map"].sel(network=one)[triplet].values.ravel() for one in ("0", name)]
            expected = jaccard_score(*maps, average="macro")
            assert ds["boundary_overlap"].sel(network=name)[triplet].item() == pytest.approx(expected)
            assert ds["boundary_agreement"].sel(network=name)[triplet] == np.mean(maps[0] == maps[1])
    assert "sample" not in ds.coords and ds["boundary_overlap"].dims == ("network", "triplet")


@pytest.mark.parametrize("max_batch", [1, 7])
def test_max_batch_and_further_triplets__change_nothing(max_batch):
    networks = {str(seed): testing.small_cnn(seed=seed) for seed in range(2)}
    given = networks, testing.random_images(9), np.arange(9) % 4
    options = {"teacher": "0", "resolution": 6, "progress": False}
    ds = transfer.boundary(*given, triplets=4, **options)
    other = transfer.boundary(*given, triplets=2, max_batch=max_batch, **options)
    np.testing.assert_array_equal(ds["label_map"][:, :2], other["label_map"])
    np.testing.assert_array_equal(ds["corner_sample"][:2], other["corner_sample"])
    assert len(np.unique(ds["corner_sample"], axis=0)) > 1
    again = transfer.boundary(*given, triplets=4, seed=1, **options)
    assert (ds["corner_sample"] != again["corner_sample"]).any()


def test_equal_and_collinear_samples__are_drawn_anew():
    line = torch.tensor([0.1, 0.2, 0.3, 0.7])[:, None] * torch.tensor([[3.0, 7.0]])
    inputs = torch.cat([line, line[:1], torch.tensor([[1.0, 0.0]])])
    ds = ask({"teacher": right_of(0.5), "student": right_of(0.6)}, inputs, triplets=9)
    for names in ds["corner_sample"].values:
        assert "5" in names and set(names) != {"0", "4", "5"}
    # one off the line and two of five on it, but for the pair of equal ones
    with pytest.raises(ValueError, match=r"span too few planes: of 6 samples 9 triplets were .*is 10"):
        ask({"teacher": right_of(0.5), "student": right_of(0.6)}, inputs, triplets=10)


def test_triplets__are_distinct_and_no_more_than_there_are():
    inputs = torch.cat([CORNERS, torch.tensor([[1.0, 1.1], [0.3, 0.8]])])
    networks = {"teacher": right_of(0.5), "student": right_of(0.6)}
    ds = ask(networks, inputs, triplets=10)
    assert len({frozenset(names) for names in ds["corner_sample"].values.tolist()}) == 10
    with pytest.raises(ValueError, match="triplets must be at most 10, those that 5 samples make, got 11"):
        ask(networks, inputs, triplets=11)


def test_samples_of_a_loader__are_read_once_for_all_triplets():
    read = []

    class Loader:
        def __iter__(self):
            for start in range(0, 40, 8):
                read.extend(range(start, start + 8))
                yield points[start : start + 8]

    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    networks = {"teacher": right_of(0.5), "student": right_of(0.6)}
    options = {"teacher": "teacher", "triplets": 50, "resolution": 2, "progress": False}
    ds = transfer.boundary(networks, Loader(), np.zeros(40, int), **options)
    # counted, looked at twice to see what they are, and read for the triplets
    assert len(read) <= 40 + 2 * 8 + 40
    xr.testing.assert_identical(ds, transfer.boundary(networks, points, np.zeros(40, int), **options))
    with pytest.raises(ValueError, match="labels are not those that inputs come with"):
        transfer.boundary(
            networks, [(points, torch.ones(40, dtype=torch.int64))], np.zeros(40, int), **options
        )


def test_clouds_and_named_tensors__are_moved_as_they_are():
    class Named(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, points):
            return torch.stack([self.scale * points.sum((1, 2)), points[:, 0, 0]], dim=1)

    clouds = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))
    ds = ask({"teacher": Named(1.0), "student": Named(2.0)}, {"points": clouds}, resolution=4)
    assert ds["label_map"].shape == (2, 1, 4, 4) and 0 < ds["label_map"].mean() < 1


def test_boundary__says_where_there_is_no_plane():
    networks = {"teacher": right_of(0.5), "student": right_of(0.6)}
    for inputs in (CORNERS[:1].repeat(5, 1), torch.arange(10.0).reshape(5, 2) * 0.3):
        with pytest.raises(ValueError, match=r"inputs span no plane: of 5 samples 0 triplets were found"):
            ask(networks, inputs)
    with pytest.raises(ValueError, match="triplets must be at most 0, those that 2 samples make, got 1"):
        ask(networks, CORNERS[:2])
    with pytest.raises(ValueError, match="resolution must be an integer of 2 or more, got 1"):
        ask(networks, CORNERS, resolution=1)
    words = {name: nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(8, 3)) for name in networks}
    with pytest.raises(ValueError, match=r"one floating-point tensor a sample.*got \(1, 4\) of torch.int64"):
        ask(words, torch.zeros(5, 4, dtype=torch.int64))


def test_boundary__of_few_samples_takes_all_their_planes():
    networks = {name: testing.small_cnn(seed=seed) for seed, name in enumerate(("teacher", "alone"))}
    ds = transfer.boundary(
        networks, testing.random_images(5), [0] * 5, teacher="teacher", resolution=3, progress=False
    )
    corners = {frozenset(one) for one in ds["corner_sample"].values.tolist()}
    assert len(corners) == ds.sizes["triplet"] == 10
