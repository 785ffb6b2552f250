"""Merged units: gains add, as a measurement on the coarser grid finds them."""

import numpy as np
import pytest
import xarray as xr

import kdviz
from kdviz import analysis, testing, units
from kdviz.errors import SchemaError


def measure(problem: testing.LinearProblem, cells: int) -> xr.Dataset:
    mask = np.zeros((2, 8, 8), bool)
    mask[:, :4, :4] = True  # whole cells of every grid
    return kdviz.measure(
        problem.network,
        problem.inputs,
        layers=problem.layer,
        units=units.grid(cells),
        feature="identity",
        foreground=mask,
        progress=False,
    )


@pytest.fixture(scope="module")
def problem() -> testing.LinearProblem:
    return testing.linear_problem(features=6, cells=8, size=8)


@pytest.mark.parametrize("factor", [2, 4])
def test_coarsen_grid__equals_a_measurement_of_a_linear_layer_on_that_grid(
    problem: testing.LinearProblem, factor: int
) -> None:
    coarse = analysis.coarsen_grid(measure(problem, 8), factor)
    expected = measure(problem, 8 // factor)
    assert abs(coarse["gain"] / expected["gain"] - 1).max() < 1e-5  # gains of a linear layer are exact
    for name in ("foreground", "valid", "row", "col", "unit", "zero_gain"):
        assert np.array_equal(coarse[name].values, expected[name].values), name
    derived = kdviz.derive_entropy(coarse)
    assert abs(derived["entropy"] - expected["entropy"]).max() < 1e-3  # the feature variance is sampled anew
    assert derived.attrs["unit_kind"] == expected.attrs["unit_kind"]
    assert derived["entropy"].attrs["extrapolated"] == 1  # nothing was checked on this grid


def make_dataset(gain: np.ndarray, error: np.ndarray, foreground: np.ndarray) -> xr.Dataset:
    rows, cols = gain.shape
    row, col = np.divmod(np.arange(rows * cols), cols)
    return xr.Dataset(
        {
            "gain": (("epoch", "sample", "unit"), gain.reshape(1, 1, -1)),
            "gain_error": (("epoch", "sample", "unit"), error.reshape(1, 1, -1)),
            "entropy": (("epoch", "sample", "unit"), np.zeros((1, 1, rows * cols))),
            "foreground": (("sample", "unit"), foreground.reshape(1, -1)),
            "weight_distance": ("epoch", [0.5]),
        },
        coords={
            "epoch": [3],
            "sample": ["bird"],
            "unit": np.arange(rows * cols),
            "row": ("unit", row),
            "col": ("unit", col),
        },
    )


def test_coarsen_grid__by_hand_on_a_grid_that_is_not_square() -> None:
    gain = np.array([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]])
    error = np.array([[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    foreground = np.array([[True, True, True, False], [False, False, False, False]])
    coarse = analysis.coarsen_grid(make_dataset(gain, error, foreground), 2)
    assert coarse["gain"].values.tolist() == [[[10.0, 0.0]]]
    assert coarse["gain_error"].values.tolist() == [[[5.0, 1.0]]]
    assert coarse["foreground"].values.tolist() == [[True, False]]  # half of the cells, and a quarter
    assert coarse["row"].values.tolist() == [0, 0] and coarse["col"].values.tolist() == [0, 1]
    assert "entropy" not in coarse and coarse["weight_distance"].item() == 0.5


def test_coarsen_grid__twice_is_once_by_the_product() -> None:
    rng = np.random.default_rng(0)
    ds = make_dataset(rng.random((4, 8)), rng.random((4, 8)), np.ones((4, 8), bool))
    ds["sample_background_entropy"] = (("epoch", "sample"), [[-2.0]])
    twice, once = analysis.coarsen_grid(analysis.coarsen_grid(ds, 2), 2), analysis.coarsen_grid(ds, 4)
    xr.testing.assert_allclose(twice, once)
    assert twice.attrs["coarsened"] == once.attrs["coarsened"] == 4
    assert analysis.coarsen_grid(ds, 2).attrs["coarsened"] == 2
    assert "sample_background_entropy" not in once, "a mean over the finer units"


def test_coarsen_grid__of_one_changes_nothing() -> None:
    ds = make_dataset(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2), bool))
    assert analysis.coarsen_grid(ds, 1) is ds


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (3, "factor is 3, which does not divide the grid of 2 x 4 units"),
        (4, "does not divide"),
        (0, "factor must be an integer of 1 or more, got 0"),
        (2.0, "factor must .* 2.0"),
        (True, "factor must .* True"),
    ],
)
def test_coarsen_grid__refuses_other_factors(factor: object, message: str) -> None:
    ds = make_dataset(np.ones((2, 4)), np.ones((2, 4)), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=message):
        analysis.coarsen_grid(ds, factor)


def test_coarsen_grid__needs_a_grid() -> None:
    ds = make_dataset(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2), bool)).drop_vars(["row", "col"])
    with pytest.raises(SchemaError, match="'row' is missing"):
        analysis.coarsen_grid(ds, 2)
