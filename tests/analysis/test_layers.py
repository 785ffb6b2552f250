"""Tables of layers and of learning, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kdviz import analysis, schema
from kdviz.store import Run, create_run


def make_entropies(entropy: list, *, settings: dict | None = None) -> xr.Dataset:
    """One epoch; units 0 and 1 of every sample lie on the object, but none of sample c."""
    values = np.array([entropy], "float32")
    foreground = np.zeros(values.shape[1:], bool)
    foreground[:2, :2] = True
    return xr.Dataset(
        {
            "entropy": (("epoch", "sample", "unit"), values, settings or {}),
            "foreground": (("sample", "unit"), foreground),
            "converged": (("epoch", "sample"), [[True, True, False]]),
        },
        coords={"epoch": [7], "sample": ["a", "b", "c"], "unit": np.arange(4)},
    )


FIRST = [[-4, -3, -2, -1], [-3, -3, -4, -4], [-9, -9, -9, -9]]
SECOND = [[-4, -4, -2, -2], [-4, -4, 0, 0], [0, 0, 0, 0]]


def test_tabulate_layers__means_over_units_then_over_samples() -> None:
    table = analysis.tabulate_layers({"conv": make_entropies(FIRST), "fc1": make_entropies(SECOND)})
    assert table.index.tolist() == ["conv", "fc1"] and table.index.name == "layer"
    # conv: objects -3.5 and -3, backgrounds -1.5 and -4; sample c has no object and is left out
    assert table.loc["conv", ["foreground", "background", "difference"]].tolist() == [-3.25, -2.75, 0.5]
    assert table.loc["fc1", ["foreground", "background", "difference"]].tolist() == [-4, -1, 3]
    # standard error of two values: half their distance
    np.testing.assert_allclose(
        table.loc["conv", ["foreground_error", "background_error"]].tolist(), [0.25, 1.25]
    )
    np.testing.assert_allclose(table["difference_error"], [1.5, 1.0])  # of 2 and -1; of 2 and 4
    assert table["ahead"].tolist() == [0.5, 1.0] and table["met"].tolist() == [2 / 3, 2 / 3]


def test_tabulate_layers__one_sample_has_no_error() -> None:
    table = analysis.tabulate_layers({"conv": make_entropies(FIRST).isel(sample=[0, 2])})
    assert table.loc["conv", "difference"] == 2 and np.isnan(table.loc["conv", "difference_error"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "layers is empty"),
        (
            {
                "conv": make_entropies(FIRST, settings={"solver": "descent", "feature_loss": 1.5}),
                "fc1": make_entropies(FIRST, settings={"solver": "descent", "calibration": 0.386}),
            },
            "conv and fc1 do not match",
        ),
        ({"conv": make_entropies(FIRST).isel(sample=[2])}, "no sample has both foreground and background"),
        (
            {"conv": make_entropies(FIRST), "fc1": make_entropies(FIRST).isel(sample=[0, 1])},
            "samples differ",
        ),
    ],
)
def test_tabulate_layers__refuses_what_cannot_be_compared(layers: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analysis.tabulate_layers(layers)


# -- order_layers


def run_with(path: Path, names: dict[str, str]) -> Run:
    samples = xr.Dataset(coords={"sample": ["bird"], "unit": [0]})
    run = create_run(path, samples=samples, attrs=schema.make_attrs(config={"layer_names": names}))
    for layer in ("classifier.1", "features.0", "features.10"):
        run.create_group("teacher", layer, epochs=[1], attrs=schema.make_attrs(), block=1)
    return run


def test_order_layers__follows_the_run_or_what_is_asked(tmp_path: Path) -> None:
    named = run_with(tmp_path / "named", {"a-conv": "features.0", "b-conv": "features.10", "x": "other"})
    expected = {"a-conv": "features.0", "b-conv": "features.10", "classifier.1": "classifier.1"}
    assert list(analysis.order_layers(named, "teacher").items()) == list(expected.items())
    asked = ["features.10", "classifier.1"]
    assert analysis.order_layers(named, "teacher", asked) == {
        "b-conv": "features.10",
        "classifier.1": "classifier.1",
    }
    with pytest.raises(ValueError, match=r"not measured at fc9; measured: classifier\.1, features\.0"):
        analysis.order_layers(named, "teacher", ["fc9"])
    bare = run_with(tmp_path / "bare", {})
    assert list(analysis.order_layers(bare, "teacher")) == ["classifier.1", "features.0", "features.10"]


# -- tabulate_counts, tabulate_peaks


def make_learned() -> xr.Dataset:
    """Three epochs, two samples, units 0 to 2 on the object; entropies are -3 at points and -2 elsewhere."""
    points = np.zeros((3, 2, 5), bool)
    points[0, 0, [0, 1, 2]] = True  # epoch 0 is no peak, but counts as tried
    points[1, 0, [0, 1]] = True
    points[2, 0, [1]] = True
    points[2, 1, [0, 2]] = True
    foreground = np.zeros((2, 5), bool)
    foreground[:, :3] = True
    ds = xr.Dataset(
        {
            "entropy": (("epoch", "sample", "unit"), np.where(points, -3.0, -2.0)),
            "foreground": (("sample", "unit"), foreground),
            "weight_distance": ("epoch", [0.0, 0.5, 1.25]),
            "accuracy": ("epoch", [np.nan, 0.25, 0.75]),
        },
        coords={"epoch": [0, 1, 4], "sample": ["a", "b"], "unit": np.arange(5)},
    )
    return analysis.find_points(ds)


def test_tabulate_peaks__says_when_and_what_became_of_the_points() -> None:
    table = analysis.tabulate_peaks(make_learned())
    assert table.index.tolist() == ["a", "b"]
    assert table["peak_epoch"].tolist() == [1, 4] and table["distance"].tolist() == [0.5, 1.25]
    assert table["n_fg"].tolist() == [2, 2] and table["kept"].tolist() == [1, 2]
    assert table["dropped"].tolist() == [2, 0]
    np.testing.assert_allclose(table["rho"], [1 / 3, 1])


def test_tabulate_peaks__without_distances_and_without_points() -> None:
    ds = make_learned().drop_vars("weight_distance")
    assert analysis.tabulate_peaks(ds)["distance"].isna().all()
    ds["knowledge_point"][:, 1] = False
    table = analysis.tabulate_peaks(ds)
    assert table.loc["b", ["n_fg", "kept", "dropped"]].tolist() == [0, 0, 0]
    assert table.loc["b", ["peak_epoch", "rho"]].isna().all() and table["peak_epoch"].iloc[0] == 1


def test_tabulate_counts__sets_accuracy_and_distance_beside_the_counts() -> None:
    table = analysis.tabulate_counts(make_learned())
    assert table["n_fg"].tolist() == [1.5, 1.0, 1.5]
    assert table["weight_distance"].tolist() == [0.0, 0.5, 1.25]
    np.testing.assert_array_equal(table["accuracy"], [np.nan, 0.25, 0.75])
    bare = analysis.tabulate_counts(make_learned().drop_vars(["accuracy", "weight_distance"]))
    assert bare[["accuracy", "weight_distance"]].isna().all(axis=None)
