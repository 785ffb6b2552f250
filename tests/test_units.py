import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdviz import units


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
    with pytest.raises(ValueError, match=r"rows must be a positive integer, got"):
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
    with pytest.raises(ValueError, match="'nearest' or 'area', got 'mode'"):
        units.grid(2).reduce_mask(np.ones((1, 4, 4), bool), "mode")
