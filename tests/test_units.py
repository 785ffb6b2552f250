import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kdviz
from kdviz import units
from kdviz.testing import linear_problem, random_images, small_cnn


def test_grid__cells_of_a_divisible_image():
    index = units.grid(2).index((2, 4, 4))
    np.testing.assert_array_equal(index[0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    np.testing.assert_array_equal(index[1], index[0])


def test_grid__cells_of_an_image_that_does_not_divide():
    # nearest-neighbour up-sampling of 2 x 3 cells to 3 x 5 pixels takes cell floor(pixel * cells / pixels)
    index = units.grid(2, 3).index((1, 3, 5))[0]
    np.testing.assert_array_equal(index, [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]])


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), more=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_grid__equals_torch_nearest_upsampling(rows, cols, more):
    height, width = rows + more[0], cols + more[1]
    cells = torch.arange(rows * cols, dtype=torch.float64).view(1, 1, rows, cols)
    expected = torch.nn.functional.interpolate(cells, (height, width), mode="nearest")[0, 0].numpy()
    index = units.grid(rows, cols).index((1, height, width))[0]
    np.testing.assert_array_equal(index, expected)
    assert set(index.ravel()) == set(range(rows * cols))


def test_grid__names_and_coordinates():
    grid = units.grid(2, 3)
    coordinates = grid.coordinates()
    assert grid.count == 6
    assert grid.describe() == "grid-2x3"
    np.testing.assert_array_equal(coordinates["row"][1], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(coordinates["col"][1], [0, 1, 2, 0, 1, 2])
    assert units.grid(4) == units.grid(4, 4)


@pytest.mark.parametrize("rows", [0, -1, 2.5, True, "4", None])
def test_grid__refuses_what_is_no_number_of_cells(rows):
    with pytest.raises(ValueError, match="rows must be an integer of 1 or more, got"):
        units.grid(rows)


def test_index__refuses_an_image_smaller_than_the_grid():
    with pytest.raises(ValueError, match=r"4 x 4 units does not fit inputs of 8 x 3 pixels.*coarser"):
        units.grid(4).index((3, 8, 3))


def test_index__refuses_samples_that_are_no_images():
    with pytest.raises(ValueError, match=r"\(channels, height, width\), got \(8, 8\)"):
        units.grid(4).index((8, 8))


def test_reduce_mask__nearest_takes_the_pixel_in_the_middle():
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 1, 1] = mask[0, 0, 2] = True  # the middle of a 2 x 2 cell is its lower right pixel
    np.testing.assert_array_equal(units.grid(2).reduce_mask(mask), [[True, False, False, False]])


def test_reduce_mask__area_needs_more_than_half():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, :2, :2] = [[True, True], [True, False]]  # 3 of 4
    mask[0, :2, 2:] = [[True, True], [False, False]]  # 2 of 4: not more than half
    mask[1] = True
    np.testing.assert_array_equal(
        units.grid(2).reduce_mask(mask, "area"), [[True, False, False, False], [True] * 4]
    )


def test_reduce_mask__keeps_a_mask_at_the_size_of_the_grid():
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    for rule in ("nearest", "area"):
        np.testing.assert_array_equal(units.grid(4, 5).reduce_mask(mask, rule), mask.reshape(3, 20))


def test_reduce_mask__refuses_a_wrong_rank_or_rule():
    with pytest.raises(ValueError, match=r"shape \(B, H, W\), got \(4, 4\)"):
        units.grid(2).reduce_mask(np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="rule is 'mode'; allowed: nearest, area"):
        units.grid(2).reduce_mask(np.ones((1, 4, 4), bool), "mode")


# -- any partition


def labels_of(grid: units.Grid, size: int) -> np.ndarray:
    """Return the partition that a grid makes of square images."""
    return grid.index((1, size, size))[0]


def same_bits(first, second, but=()):
    for name in {*first.data_vars, *second.data_vars} - set(but):
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=name)


@pytest.mark.parametrize("method", ["gain", "path"])
def test_mask__equal_to_a_grid_gives_its_numbers_to_the_bit(method):
    network, images, ids = small_cnn(), random_images(2), ["a", "b"]
    common = {"layers": "fc1", "sample_ids": ids, "method": method, "progress": False}
    flags = np.arange(32).reshape(2, 16) % 3 == 0
    grid = kdviz.measure(network, images, units=units.grid(4), foreground=flags, **common)
    mask = kdviz.measure(
        network, images, units=units.mask(labels_of(units.grid(4), 8)), foreground=flags, **common
    )
    same_bits(grid, mask)
    assert (grid.attrs["unit_kind"], mask.attrs["unit_kind"]) == ("grid-4x4", "mask-16")
    points = [kdviz.find_points(kdviz.derive_entropy(ds)) for ds in (grid, mask)]
    same_bits(*points)


def test_mask__that_merges_cells_has_the_gains_of_the_coarser_grid():
    problem = linear_problem(cells=4, size=8)
    common = {"layers": "linear", "feature": "identity", "progress": False}
    fine = kdviz.measure(problem.network, problem.inputs, units=problem.units, **common)
    merged = units.mask(labels_of(units.grid(2), 8))
    ds = kdviz.measure(problem.network, problem.inputs, units=merged, **common)
    np.testing.assert_allclose(ds["gain"], kdviz.analysis.coarsen_grid(fine, 2)["gain"], rtol=1e-5)
    exact = problem.gain.reshape(2, 2, 2, 2).sum((1, 3)).ravel()  # squared weights add
    np.testing.assert_allclose(ds["gain"].values[0], [exact, exact], rtol=1e-5)


def test_mask__pixels_of_no_unit_get_no_noise():
    problem = linear_problem(cells=4, size=8)
    labels = labels_of(units.grid(4), 8) - 1  # the first cell belongs to none
    ds = kdviz.measure(
        problem.network,
        problem.inputs,
        layers="linear",
        units=units.mask(labels),
        feature="identity",
        progress=False,
    )
    np.testing.assert_allclose(ds["gain"].values[0, 0], problem.gain[1:], rtol=1e-5)
    variance = problem.gain[1:].sum() * 0.01**2
    np.testing.assert_allclose(ds["feature_variance"], variance, rtol=1e-4)


def test_mask__each_sample_cut_in_its_own_way():
    problem = linear_problem(cells=4, size=8)
    labels = np.stack([labels_of(units.grid(4), 8), labels_of(units.grid(2), 8)])
    own = units.mask(labels)
    foreground = np.zeros((2, 8, 8), bool)
    foreground[:, :4, :4] = True
    ds = kdviz.measure(
        problem.network,
        problem.inputs,
        layers="linear",
        units=own,
        foreground=foreground,
        feature="identity",
        progress=False,
    )
    np.testing.assert_allclose(ds["gain"].values[0, 0], problem.gain, rtol=1e-5)
    exact = problem.gain.reshape(2, 2, 2, 2).sum((1, 3)).ravel()
    np.testing.assert_allclose(ds["gain"].values[0, 1, :4], exact, rtol=1e-5)
    assert np.isnan(ds["gain"].values[0, 1, 4:]).all()
    np.testing.assert_array_equal(ds["valid"].values, [[True] * 16, [True] * 4 + [False] * 12])
    np.testing.assert_array_equal(np.flatnonzero(ds["foreground"].values[0]), [0, 1, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(ds["foreground"].values[1]), [0])
    counted = kdviz.count_points(kdviz.find_points(kdviz.derive_entropy(ds)))
    assert np.isfinite(counted["n_fg"]).all()


def test_mask__names_samples_by_picture_and_partition():
    network, images = small_cnn(), random_images(2)
    left = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, axis=0)
    ids = [
        set(
            kdviz.measure(network, images, layers="fc1", units=units.mask(one), progress=False)[
                "sample"
            ].values
        )
        for one in (left, left.T, [left, left.T])
    ]
    assert not ids[0] & ids[1]
    assert len(ids[2] & ids[0]) == len(ids[2] & ids[1]) == 1


def test_mask__keeps_its_own_copy():
    labels = np.zeros((2, 2), int)
    mask = units.mask(labels)
    labels[0, 0] = 7
    assert mask.count == 1


def test_reduce_mask__of_a_partition_needs_more_than_half_of_a_unit():
    mask = units.mask([[0, 0, 1], [-1, 2, 1]])
    object_ = np.array([[[1, 0, 1], [1, 1, 1]]], bool)
    np.testing.assert_array_equal(mask.reduce_mask(object_), [[False, True, True]])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), cols=st.integers(1, 5), more=st.integers(0, 5), seed=st.integers(0, 9))
def test_reduce_mask__of_a_grid_by_area_is_that_of_its_partition(rows, cols, more, seed):
    grid = units.grid(rows, cols)
    shape = (rows + more, cols + more)
    object_ = np.random.default_rng(seed).random((3, *shape)) < 0.5
    partition = units.mask(grid.index((1, *shape))[0])
    np.testing.assert_array_equal(grid.reduce_mask(object_, "area"), partition.reduce_mask(object_))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "must be integers, got float64"),
        (np.zeros((2, 2), bool), TypeError, "must be integers, got bool"),
        (np.zeros(4, int), ValueError, r"shape \(H, W\) or \(B, H, W\), got \(4,\)"),
        (np.zeros((1, 1, 4, 4), int), ValueError, r"got \(1, 1, 4, 4\)"),
        (np.zeros((0, 4), int), ValueError, r"got \(0, 4\)"),
        ([[0, 2]], ValueError, r"without gaps.* got \[0, 2\] in sample 0"),
        ([[1, 2]], ValueError, "without gaps"),
        ([[-2, 0]], ValueError, "without gaps"),
        ([[[0, 1]], [[-1, -1]]], ValueError, r"got \[-1\] in sample 1"),
    ],
)
def test_mask__refuses_what_is_no_partition(labels, error, message):
    with pytest.raises(error, match=message):
        units.mask(labels)


def test_mask__refuses_images_it_does_not_divide():
    measure = kdviz.measure
    network, images = small_cnn(), random_images(2)
    with pytest.raises(ValueError, match="divides images of 4 x 8 pixels, inputs are 8 x 8"):
        measure(network, images, layers="fc1", units=units.mask(np.zeros((4, 8), int)), progress=False)
    with pytest.raises(ValueError, match="partitions of 3 samples, inputs are 2"):
        measure(network, images, layers="fc1", units=units.mask(np.zeros((3, 8, 8), int)), progress=False)
    with pytest.raises(ValueError, match="partitions of 1 samples, inputs are 2"):
        measure(network, images, layers="fc1", units=units.mask(np.zeros((1, 8, 8), int)), progress=False)
    with pytest.raises(ValueError, match=r"\(channels, height, width\), got \(8, 8\)"):
        units.mask(np.zeros((8, 8), int)).index((8, 8))
    with pytest.raises(TypeError, match=r"units are mask-1; this works with units\.grid only"):
        kdviz.attribute(
            network, images, units=units.mask(np.zeros((8, 8), int)), labels=[0, 1], progress=False
        )
