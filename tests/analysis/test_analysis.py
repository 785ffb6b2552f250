"""Points, counts and learning of one network, by hand."""

import re

import numpy as np
import pytest
import xarray as xr
from made_networks import MAP, from_rows, make, random_network

import kdviz.analysis as analysis
from kdviz.entropy import solve
from kdviz.errors import DegenerateWarning, KdvizWarning, SchemaError

# find_points


def test_find_points__marks_units_below_the_background_mean_by_more_than_the_threshold():
    # background means per sample: -2.5 (two units) and -3.0 (one unit); their mean is -2.75, not the -2.667
    # of all units
    ds = make([[[-2.25, -2.75, -3.0, -2.5], [-3.0, -2.9, -3.25, -1.0]]], [[0, 0, 1, 1], [0, 1, 1, 1]])
    before = ds.copy(deep=True)
    found = analysis.find_points(ds, threshold=0.2)
    assert found["background_entropy"].values.tolist() == [-2.75]
    assert found["knowledge_point"].values.tolist() == [
        [[False, False, True, False], [True, False, True, False]]
    ]
    assert found["knowledge_point"].attrs["threshold"] == 0.2
    assert found["knowledge_point"].attrs["background"] == "checkpoint"
    assert not found["uncertain"].any() and found["uncertain"].attrs["known_error"] == 0.0
    xr.testing.assert_identical(ds, before)


def test_find_points__every_checkpoint_has_its_own_background():
    found = analysis.find_points(make([[[-2.5, -2.75]], [[-3.0, -2.75]], [[-2.5, -2.5]]], [[0, 1]]))
    assert found["background_entropy"].values.tolist() == [-2.5, -3.0, -2.5]
    assert found["background_entropy"].dtype == np.float32
    assert found["knowledge_point"].values[:, 0, 1].tolist() == [True, False, False]


def test_find_points__sample_baseline_compares_with_the_own_background():
    ds = make([[[-2.5, -2.75], [-3.0, -3.1]]], [[0, 1], [0, 1]])
    found = analysis.find_points(ds, threshold=0.2, background="sample")
    assert found["knowledge_point"].values.tolist() == [[[False, True], [False, False]]]
    assert found["sample_background_entropy"].values.tolist() == [[-2.5, -3.0]]
    again = analysis.find_points(found.drop_vars("knowledge_point"))
    assert "sample_background_entropy" not in again


def test_find_points__tie_in_decimals_is_no_point():
    ds = make([[[-2.8, -3.0, -3.0001]]], [[0, 1, 1]])
    assert analysis.find_points(ds)["knowledge_point"].values.ravel().tolist() == [False, False, True]


def test_find_points__one_unit_is_its_own_background():
    found = analysis.find_points(make([[[-3.0]]], [[0]]), threshold=0)
    assert found["knowledge_point"].values.ravel().tolist() == [False]


def test_find_points__padding_is_neither_background_nor_point():
    ds = make([[[-2.5, -3.0, np.nan]]], [[0, 1, 0]], valid=[[1, 1, 0]], error=0.5)
    found = analysis.find_points(ds)
    assert found["background_entropy"].item() == -2.5
    assert found["knowledge_point"].values.ravel().tolist() == [False, True, False]
    assert found["uncertain"].values.ravel().tolist() == [True, True, False]


def test_find_points__unknown_errors_are_counted():
    error = np.array([[[0.125, np.nan, 0.125, 0.125]]])
    found = analysis.find_points(make([[[-2.5, -2.75, -2.75, -9.0]]], [[0, 1, 1, 1]], error=error))
    assert found["uncertain"].values.ravel().tolist() == [True, False, True, False]
    assert found["uncertain"].attrs["known_error"] == 0.75


def test_find_points__sample_without_background_is_left_out_with_a_warning():
    ds = make([[[-2.5, -3.0], [-9.0, -3.0]]], [[0, 1], [1, 1]])
    with pytest.warns(
        DegenerateWarning, match="1 of 2 samples have no background units: s1; they are left out"
    ):
        found = analysis.find_points(ds)
    assert found["background_entropy"].item() == -2.5
    assert found["knowledge_point"].values.tolist() == [[[False, True], [True, True]]]
    with pytest.raises(ValueError, match="s1; leave them out, or use background='checkpoint'"):
        analysis.find_points(ds, background="sample")


def test_find_points__no_background_anywhere_raises():
    with pytest.raises(ValueError, match="no sample has background units"):
        analysis.find_points(make([[[-2.5, -3.0]]], [[1, 1]]))


def test_find_points__warns_before_replacing_points(student):
    with pytest.warns(KdvizWarning, match="replaces the knowledge points"):
        found = analysis.find_points(student, threshold=0.3)
    assert found["knowledge_point"].attrs["threshold"] == 0.3
    assert found["knowledge_point"].sum() < student["knowledge_point"].sum()


@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.inf, True, "0.2"])
def test_find_points__bad_threshold_raises(threshold):
    said = f"threshold must be a finite number, 0 to 1e\\+30, got {re.escape(repr(threshold))}$"
    with pytest.raises(ValueError, match=said):
        analysis.find_points(random_network(0), threshold=threshold)


def test_find_points__bad_baseline_or_dataset_raises():
    with pytest.raises(ValueError, match="background is 'image'; allowed: checkpoint, sample"):
        analysis.find_points(random_network(0), background="image")
    with pytest.raises(SchemaError, match=r"'foreground' is missing.*measure with foreground="):
        analysis.find_points(random_network(0).drop_vars("foreground"))
    hole = random_network(0)
    hole["entropy"][1, 2, int(np.flatnonzero(hole["valid"][2])[0])] = np.nan
    with pytest.raises(SchemaError, match="'entropy' is NaN at 1 valid entries"):
        analysis.find_points(hole)


# count_points


def test_count_points__counted_by_hand():
    # points: s0 has 2 on the foreground and 1 on the background, s1 none at all
    entropy = [[[-3.0, -3.0, -2.0, -3.0, -2.0], [-2.5, -2.5, -2.5, -2.5, -2.5]]]
    ds = make(entropy, [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    counts = analysis.count_points(analysis.find_points(ds))
    assert counts["n_fg"].values.tolist() == [[2, 0]]
    assert counts["n_bg"].values.tolist() == [[1, 0]]
    np.testing.assert_array_equal(counts["fg_ratio"], [[2 / 3, np.nan]])
    assert counts["n_fg_mean"].item() == 1.0
    assert counts["n_bg_mean"].item() == 0.5
    assert counts["fg_ratio_mean"].item() == 2 / 3  # of the one sample that has points
    published = analysis.count_points(analysis.find_points(ds, no_points="published"))
    assert published["fg_ratio"].values.tolist() == [[2 / 3, 0.0]] and published["fg_ratio_mean"] == 1 / 3
    assert counts["n_without_points"].values.tolist() == [1]
    assert counts["n_uncertain"].values.tolist() == [[0, 0]]
    assert counts["label"].values.tolist() == [0, 1]
    assert counts.attrs["threshold"] == 0.2


def test_count_points__range_of_uncertain_units():
    # cutoff -2.7, two errors = 0.1 nat: fg certain, fg uncertain point, fg uncertain non-point; bg likewise
    # or far
    entropy = [[[-3.0, -2.75, -2.65, -2.75, -2.25]]]
    counts = analysis.count_points(analysis.find_points(make(entropy, [[1, 1, 1, 0, 0]], error=0.05)))
    ranges = {
        name: [counts[f"{name}{end}"].item() for end in ("_low", "", "_high")] for name in ("n_fg", "n_bg")
    }
    assert ranges == {"n_fg": [1, 2, 3], "n_bg": [0, 1, 1]}
    ratio = [counts[f"fg_ratio_mean{end}"].item() for end in ("_low", "", "_high")]
    assert ratio == [1 / 2, 2 / 3, 1.0]
    assert counts["n_uncertain"].item() == 3


def test_count_points__range_of_a_ratio_that_may_be_undefined():
    # cutoff -2.7, two errors = 0.1 nat: s0 has an uncertain point on the foreground, s1 on the background
    entropy = [[[-2.75, -2.5, -2.5, -2.5], [-2.0, -2.75, -2.5, -2.25]]]
    ds = make(entropy, [[1, 0, 0, 0], [1, 0, 0, 0]], error=0.05)
    for rule, lowest in (("undefined", 1.0), ("published", 0.0)):
        counts = analysis.count_points(analysis.find_points(ds, no_points=rule))
        assert counts["n_uncertain"].values.tolist() == [[1, 1]]
        ends = [counts[f"fg_ratio{end}"].values[0].tolist() for end in ("_low", "", "_high")]
        assert ends == [[lowest, 0], [1, 0], [1, 0]]


def test_count_points__larger_threshold_never_counts_more():
    ds = random_network(5)
    counts = [
        analysis.count_points(analysis.find_points(ds, threshold=b)) for b in (0.0, 0.1, 0.2, 0.25, 1.0)
    ]
    for name in ("n_fg", "n_bg"):
        steps = np.diff([c[name].values for c in counts], axis=0)
        assert (steps <= 0).all() and (steps < 0).any()


def test_count_points__without_points_raises():
    with pytest.raises(SchemaError, match="'knowledge_point' is missing"):
        analysis.count_points(random_network(0))


# measure_learning


def test_measure_learning__counted_by_hand():
    # s0: counts 3, 1, 2, 2: peak at epoch 5 (epoch 0 is no candidate, the first of equals wins); s1: 0, 1,
    # 1, 3
    rows = ["1110 0000", "1000 0001", "1100 0001", "1001 1101"]
    ds = from_rows(rows, epochs=[0, 2, 5, 10], distance=[0.0, 0.5, 1.0, 2.0])
    learning = analysis.measure_learning(analysis.find_points(ds))
    assert learning["peak_epoch"].values.tolist() == [5, 10]
    assert learning["distance"].values.tolist() == [1.0, 2.0]
    assert (learning["d_mean"].item(), learning["d_var"].item(), learning["d_std"].item()) == (1.5, 0.25, 0.5)
    assert learning["n_union"].values.tolist() == [4, 3]
    assert learning["rho"].values.tolist() == [0.5, 1.0]
    assert learning["rho_mean"].item() == 0.75
    assert learning["rho_mean_low"].item() == learning["rho_mean_high"].item() == 0.75
    dropped = learning["dropped"].values[:, 0, :4].astype(int).tolist()
    assert dropped == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0]]
    assert learning.attrs["epochs"] == "[0, 2, 5, 10]"


def test_measure_learning__unmoved_points_have_rho_one():
    ds = analysis.find_points(from_rows(["1100 0111"] * 4, distance=[0, 1, 2, 3]))
    learning = analysis.measure_learning(ds)
    assert learning["rho"].values.tolist() == [1.0, 1.0]
    assert learning["peak_epoch"].values.tolist() == [1, 1]
    assert learning["d_var"].item() == 0.0


def test_measure_learning__fewer_checkpoints_never_lower_rho(student):
    full = analysis.measure_learning(student)["rho"]
    fewer = analysis.measure_learning(student.isel(epoch=[0, 3]))["rho"]
    assert (fewer >= full).all() and (fewer > full).any()


def test_measure_learning__samples_without_points_are_left_out():
    # s0 keeps its points, s1 never has one, s2 drops its own at the first step
    ds = from_rows(["11 00 10", "11 00 00", "11 00 00"], distance=[0, 1, 3], epochs=[0, 1, 2])
    learning = analysis.measure_learning(analysis.find_points(ds))
    assert learning["n_union"].values.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(learning["rho"], [1.0, np.nan, 0.0])
    assert learning["rho_mean"] == 0.5 and learning["n_without_union"] == 1
    np.testing.assert_array_equal(learning["peak_epoch"], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(learning["distance"], [1.0, np.nan, np.nan])
    assert (learning["d_mean"], learning["d_var"], learning["n_without_peak"]) == (1, 0, 2)

    published = analysis.measure_learning(analysis.find_points(ds, no_points="published"))
    assert published["rho"].values.tolist() == [1.0, 0.0, 0.0] and published["rho_mean"] == 1 / 3
    assert published["peak_epoch"].values.tolist() == [1, 1, 1] and published["d_mean"] == 1


def test_measure_learning__background_points_do_not_count():
    entropy = np.full((2, 1, 4), -2.0)
    entropy[:, 0, 0] = -4.0  # a background point at both checkpoints
    entropy[1, 0, 3] = -4.0  # one foreground point at the last
    learning = analysis.measure_learning(analysis.find_points(make(entropy, [[0, 0, 0, 1]], distance=[0, 1])))
    assert learning["n_union"].item() == 1


def test_measure_learning__uncertain_units_widen_rho():
    # foreground units: certain at both; certain at first, uncertain point at last; uncertain non-point at
    # first only
    entropy = [[[-3.5, -3.5, -2.65, -2.5]], [[-3.5, -2.75, -2.0, -2.5]]]
    learning = analysis.measure_learning(
        analysis.find_points(make(entropy, [[1, 1, 1, 0]], error=0.05, distance=[0, 1]))
    )
    assert learning["rho"].item() == 1.0
    assert (learning["rho_low"].item(), learning["rho_high"].item()) == (1 / 3, 1.0)


def test_measure_learning__without_distance_says_so_and_keeps_rho(student):
    learning = analysis.measure_learning(student.drop_vars("weight_distance"))
    assert not {"distance", "d_mean", "d_var", "d_std"} & set(learning)
    assert learning.attrs["note"].startswith("no weight_distance")
    assert learning["rho_mean"].item() == analysis.measure_learning(student)["rho_mean"].item()


def test_measure_learning__decreasing_distance_raises(student):
    wrong = student.assign(weight_distance=student["weight_distance"][::-1].drop_vars("epoch"))
    with pytest.raises(ValueError, match="is cumulated and cannot decrease"):
        analysis.measure_learning(wrong)


def test_measure_learning__needs_a_checkpoint_after_the_start(student):
    with pytest.raises(ValueError, match=r"epochs are \[0\]"):
        analysis.measure_learning(student.isel(epoch=[0]))


# several layers


@pytest.fixture
def layered():
    """Two layers, as `kdviz.measure` returns them: what differs by layer leads with ``layer``."""
    apart = [random_network(seed)[["entropy", "entropy_error", "foreground", "valid"]] for seed in (1, 2)]
    shared = apart[0][["foreground", "valid"]]
    both = xr.concat([ds[["entropy", "entropy_error"]] for ds in apart], "layer", combine_attrs="override")
    return both.assign_coords(layer=["conv", "fc1"]).merge(shared)


@pytest.mark.parametrize("background", ["checkpoint", "sample"])
def test_find_points_and_count_points__each_layer_as_if_alone(layered, background):
    found = analysis.find_points(layered, background=background)
    counts = analysis.count_points(found)
    assert found["knowledge_point"].dims == (*counts["n_fg"].dims, "unit") == ("layer", *MAP)
    assert counts["n_fg_mean"].dims == ("layer", "epoch")
    for name in ("conv", "fc1"):
        alone = analysis.find_points(layered.sel(layer=name), background=background)
        xr.testing.assert_identical(found.sel(layer=name), alone)
        xr.testing.assert_identical(counts.sel(layer=name), analysis.count_points(alone))


def test_derive_entropy__each_layer_as_if_alone(layered):
    gains = np.random.default_rng(5).gamma(2.0, size=layered["entropy"].shape).astype(np.float32)
    dims = layered["entropy"].dims
    measured = (
        layered[["foreground"]]
        .assign_coords(layered.coords)
        .assign(
            gain=(dims, gains),
            gain_error=(dims, 0.01 * gains),
            feature_variance=(dims[:-1], gains.mean(-1)),
        )
    )
    measured.attrs["base_noise"] = 0.01
    derived = analysis.derive_entropy(measured)
    assert derived["entropy"].dims == dims and derived["converged"].dims == dims[:-1]
    for name in ("conv", "fc1"):
        alone = analysis.derive_entropy(measured.sel(layer=name))
        xr.testing.assert_identical(derived.sel(layer=name), alone)


def test_other_analyses_of_several_layers_say_which_to_take(layered):
    found = analysis.find_points(layered)
    for analyse in (analysis.measure_learning, lambda ds: analysis.compare(student=ds, baseline=ds)):
        with pytest.raises(ValueError, match=r"layers conv, fc1; take one with ds\.sel\(layer='conv'\)"):
            analyse(found)


# -- units of several parts


def test_settings__keep_the_unit_gain_of_the_measurement():
    """A run measured by the sum is shown by the sum, unless it is asked otherwise."""
    ds = xr.Dataset(
        {
            "gain": (("epoch", "sample", "unit"), np.array([[[2.0, 6.0]]])),
            "gain_error": (("epoch", "sample", "unit"), np.zeros((1, 1, 2))),
            "feature_variance": (("epoch", "sample"), [[8.0]]),
            "unit_size": (("sample", "unit"), np.array([[1, 3]], np.int32)),
        },
        coords={"epoch": [0], "sample": ["a"], "unit": [0, 1]},
        attrs={"base_noise": 1.0, "weight": 7.0, "unit_gain": "sum"},
    )
    kept = analysis.Settings().derive(ds)["entropy"].values
    np.testing.assert_array_equal(kept, analysis.derive_entropy(ds, unit_gain="sum")["entropy"])
    asked = analysis.Settings(unit_gain="mean").derive(ds)["entropy"].values[0, 0]
    assert asked[0] == pytest.approx(asked[1])
    one, three = solve([0.5, 1.5]).noise_ratio  # n tau0^2 G / sigma_f^2
    assert kept[0, 0, 0] - kept[0, 0, 1] == pytest.approx(np.log(one / three), abs=1e-6)
