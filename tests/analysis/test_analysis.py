import re

import numpy as np
import pytest
import xarray as xr
from reference import slow_metrics

import kdviz.analysis as analysis
from kdviz.entropy import solve
from kdviz.errors import DegenerateWarning, KdvizWarning, SchemaError

MAP = ("epoch", "sample", "unit")


def make(entropy, foreground, *, epochs=None, valid=None, error=None, distance=None, **attrs):
    entropy = np.asarray(entropy, dtype=np.float32)
    ds = xr.Dataset(
        {"entropy": (MAP, entropy), "foreground": (("sample", "unit"), np.asarray(foreground, bool))},
        coords={
            "epoch": np.arange(len(entropy)) if epochs is None else epochs,
            "sample": [f"s{i}" for i in range(entropy.shape[1])],
            "unit": np.arange(entropy.shape[2]),
        },
        attrs=attrs,
    )
    ds = ds.assign_coords(label=("sample", np.arange(entropy.shape[1])))
    if valid is not None:
        ds["valid"] = (("sample", "unit"), np.asarray(valid, bool))
    if error is not None:
        ds["entropy_error"] = (MAP, np.broadcast_to(error, entropy.shape).astype(np.float32))
    if distance is not None:
        ds["weight_distance"] = ("epoch", np.asarray(distance, np.float32), {"definition": "per step"})
    return ds


def from_rows(rows, *, background=2, **options):
    """One text per checkpoint, one word per sample; "1" is a foreground point; background units never are.

    Entropy is -2.5 nat on the background, -3 at points and -2.5 at other foreground units.
    """
    foreground = np.array([[[c == "1" for c in text] for text in row.split()] for row in rows])
    entropy = np.concatenate(
        [np.where(foreground, -3.0, -2.5), np.full((*foreground.shape[:2], background), -2.5)], axis=-1
    )
    mask = np.zeros(entropy.shape[1:], bool)
    mask[:, : foreground.shape[2]] = True
    return make(entropy, mask, **options)


def random_network(seed, *, epochs=(0, 2, 5, 10), n_samples=8, n_units=16, drift=0.3, error=0.02, **attrs):
    masks = np.random.default_rng(99)
    valid = masks.random((n_samples, n_units)) < 0.9
    foreground = valid & (masks.random((n_samples, n_units)) < 0.5)
    shape = (len(epochs), n_samples, n_units)
    growth = np.linspace(0, drift, len(epochs))[:, None, None] * foreground
    entropy = -2.8 + 0.2 * np.random.default_rng(seed).standard_normal(shape) - growth
    return make(
        np.where(valid, entropy, np.nan),
        foreground,
        epochs=list(epochs),
        valid=valid,
        error=error,
        distance=np.linspace(0, 2, len(epochs)),
        **attrs,
    )


@pytest.fixture(scope="module")
def student():
    return analysis.find_points(random_network(1))


@pytest.fixture(scope="module")
def baseline():
    return analysis.find_points(random_network(2, drift=0.1))


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


@pytest.mark.parametrize("threshold", [-0.1, np.nan, np.inf, True, "0.2", None])
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


# compare


def test_compare__estimates_equal_the_single_analyses(student, baseline):
    result = analysis.compare(student=student, baseline=baseline, teacher=student, resamples=20)
    for role, ds in (("student", student), ("baseline", baseline), ("teacher", student)):
        counts, learning = analysis.count_points(ds).isel(epoch=-1), analysis.measure_learning(ds)
        expected = [counts[f"{name}_mean"].item() for name in ("n_fg", "n_bg", "fg_ratio")]
        path = [learning[name].item() for name in ("d_mean", "d_var", "d_std", "rho_mean")]
        expected += [np.nan] * 4 if role == "teacher" else path
        # 1e-12: the same counts, averaged in another order
        np.testing.assert_allclose(result[role].sel(seed=0), expected, rtol=0, atol=1e-12)
    xr.testing.assert_equal(result["difference"], result["student"] - result["baseline"])


@pytest.mark.parametrize("mode", ["checkpoint", "sample"])
def test_compare__intervals_equal_slow_replica_with_the_same_resamples(mode):
    networks = {
        role: analysis.find_points(random_network(seed, n_samples=6), background=mode)
        for role, seed in (("student", 1), ("baseline", 2))
    }
    result = analysis.compare(**networks, resamples=40, confidence=0.8, seed=11)
    weights = np.random.default_rng(11).multinomial(6, [1 / 6] * 6, size=40)
    slow = {
        role: [
            slow_metrics.of_samples(
                ds["entropy"].values,
                ds["foreground"].values,
                ds["valid"].values,
                np.repeat(np.arange(6), row),
                threshold=0.2,
                epochs=ds["epoch"].values,
                distance=ds["weight_distance"].values,
                per_sample=mode == "sample",
            )
            for row in weights
        ]
        for role, ds in networks.items()
    }
    pairs = [slow_metrics.pair(*both) for both in zip(*slow.values(), strict=True)]
    slow = {role: [slow_metrics.summarise(both[at]) for both in pairs] for at, role in enumerate(networks)}
    for name in analysis.METRICS:
        values = {role: np.array([case[name] for case in cases]) for role, cases in slow.items()}
        values["difference"] = values["student"] - values["baseline"]
        for role, resampled in values.items():
            limits = [result[f"{role}{end}"].sel(metric=name, seed=0).item() for end in ("_low", "_high")]
            # 1e-12: order of float64 additions
            np.testing.assert_allclose(limits, np.quantile(resampled, [0.1, 0.9]), rtol=0, atol=1e-12)


def test_compare__leaves_out_samples_that_are_undefined_in_either_network():
    # one text per checkpoint, one word per sample; background units are never points
    timing = {"epochs": [0, 1, 2], "distance": [0, 1, 3]}
    some = analysis.find_points(from_rows(["00 00 10", "10 00 10", "10 00 11"], **timing))
    other = analysis.find_points(from_rows(["10 00 10", "00 00 00", "11 10 00"], **timing))
    none = analysis.find_points(from_rows(["00 00 00"] * 3, **timing))
    result = analysis.compare(student=[some, some], baseline=[other, none], resamples=20)
    left_out = {name: result["left_out"].sel(metric=name).values.tolist() for name in analysis.METRICS}
    distances = {name: [2, 3] for name in analysis.DISTANCE_METRICS}
    assert left_out == {"n_fg": [0, 0], "n_bg": [0, 0], "fg_ratio": [2, 3], "rho": [1, 3]} | distances
    first = result.sel(seed=0)
    assert np.isnan(first["difference_low"].sel(metric=["fg_ratio", "d_mean"])).all()  # of one sample
    assert not np.isnan(first["difference_low"].sel(metric=["n_fg", "rho"])).any()
    assert first["student"].sel(metric=["fg_ratio", "rho", "d_mean"]).values.tolist() == [1, 1, 1]
    assert first["baseline"].sel(metric=["fg_ratio", "rho", "d_mean"]).values.tolist() == [1, 0.5, 3]
    for name in ("student", "baseline", "difference", "difference_low", "difference_high"):
        assert np.isnan(result[name].sel(metric=["fg_ratio", "rho", "d_mean", "d_std"], seed=1)).all()
    again = [
        analysis.find_points(one.drop_vars("knowledge_point"), no_points="published") for one in (some, none)
    ]
    published = analysis.compare(student=again[0], baseline=again[1], resamples=2)
    assert (published["left_out"] == 0).all() and published["baseline"].sel(metric="d_mean").item() == 1


def test_compare__differences_are_paired(student):
    result = analysis.compare(student=student, baseline=student, resamples=30)
    for name in ("difference", "difference_low", "difference_high"):
        assert (result[name] == 0).all()
    assert (result["student_low"].sel(metric="n_fg") < result["student_high"].sel(metric="n_fg")).all()


def test_compare__seeds_stay_apart(student, baseline):
    pair = analysis.compare(student=[student, baseline], baseline=[baseline, student], resamples=30)
    assert pair["seed"].values.tolist() == [0, 1]
    for position, (one, other) in enumerate([(student, baseline), (baseline, student)]):
        alone = analysis.compare(student=one, baseline=other, resamples=30)
        xr.testing.assert_identical(
            pair.isel(seed=[position]).drop_vars("seed").drop_attrs(),
            alone.drop_vars("seed").drop_attrs(),
        )
    assert pair.attrs["n_seeds"] == 2


def test_compare__one_teacher_serves_all_seeds(student, baseline):
    seeds = {"student": [student, baseline], "baseline": [baseline, student], "resamples": 5}
    shared = analysis.compare(**seeds, teacher=student)
    each = analysis.compare(**seeds, teacher=[student, student])
    xr.testing.assert_identical(shared, each)
    assert (shared["teacher"].sel(metric="n_fg") == shared["student"].sel(metric="n_fg", seed=0)).all()


def test_compare__states_direction_and_settings(student, baseline):
    result = analysis.compare(student=student, baseline=baseline, resamples=7, confidence=0.9)
    signs = dict(
        zip(result["metric"].values.tolist(), result["supporting_sign"].values.tolist(), strict=True)
    )
    assert signs == {"n_fg": 1, "n_bg": -1, "fg_ratio": 1, "d_mean": -1, "d_var": -1, "d_std": -1, "rho": 1}
    assert result["hypothesis"].values.tolist() == ["H1"] * 3 + ["H2"] * 3 + ["H3"]
    expected = {"threshold": 0.2, "background": "checkpoint", "n_samples": 8, "n_seeds": 1, "resamples": 7}
    assert {name: result.attrs[name] for name in expected} == expected
    assert result.attrs["confidence"] == 0.9 and result.attrs["epochs"] == "[[0, 2, 5, 10]]"


def test_compare__gives_a_tidy_table(student, baseline):
    table = analysis.compare(student=student, baseline=baseline, resamples=7).to_dataframe()
    assert table.index.names == ["metric", "seed"] and len(table) == 7
    assert {"hypothesis", "supporting_sign", "student", "difference_low", "difference_high"} <= set(table)
    assert table.loc[("n_fg", 0), "student"] == analysis.count_points(student)["n_fg_mean"].values[-1]


def test_compare__same_seed_same_intervals_and_another_seed_differs(student, baseline):
    results = [analysis.compare(student=student, baseline=baseline, resamples=50, seed=s) for s in (3, 3, 4)]
    xr.testing.assert_identical(results[0], results[1])
    assert not results[0]["difference_low"].equals(results[2]["difference_low"])
    xr.testing.assert_identical(results[0]["difference"], results[2]["difference"])


def test_compare__different_checkpoints_leave_path_metrics_undefined(student, baseline):
    with pytest.warns(KdvizWarning, match="checkpoints differ"):
        result = analysis.compare(student=student.isel(epoch=slice(1, None)), baseline=baseline, resamples=5)
    for name in ("student", "difference", "difference_low"):
        assert np.isnan(result[name].sel(metric=list(analysis.PATH_METRICS))).all()
        assert not np.isnan(result[name].sel(metric="n_fg")).any()
    assert "checkpoints differ" in result.attrs["note"]


def test_compare__only_the_start_leaves_path_metrics_undefined(student, baseline):
    with pytest.warns(KdvizWarning, match="no checkpoint after epoch 0"):
        result = analysis.compare(
            student=student.isel(epoch=[0]), baseline=baseline.isel(epoch=[0]), resamples=5
        )
    assert np.isnan(result["student"].sel(metric="rho")).all()


def test_compare__without_distance_leaves_d_undefined(student, baseline):
    result = analysis.compare(student=student.drop_vars("weight_distance"), baseline=baseline, resamples=5)
    assert np.isnan(result["baseline"].sel(metric=list(analysis.DISTANCE_METRICS))).all()
    assert not np.isnan(result["difference"].sel(metric="rho")).any()
    assert result.attrs["note"] == "seed 0: no weight_distance in student, baseline or both"


def test_compare__one_sample_has_no_interval(student, baseline):
    with pytest.warns(DegenerateWarning, match="fewer than 2 samples"):
        result = analysis.compare(student=student.isel(sample=[0]), baseline=baseline.isel(sample=[0]))
    assert not np.isnan(result["difference"]).any()
    assert np.isnan(result["difference_low"]).all() and np.isnan(result["difference_high"]).all()


def test_compare__resamples_without_background_are_left_out():
    entropy = np.array([[[-2.5, -3.0], [-3.0, -3.0]], [[-2.5, -3.0], [-3.0, -2.0]]])
    with pytest.warns(DegenerateWarning):
        ds = analysis.find_points(make(entropy, [[0, 1], [1, 1]], distance=[0, 1]))
    result = analysis.compare(student=ds, baseline=ds, resamples=40)
    # resamples {s0, s1} and {s0, s0} count 1 and 1 points; {s1, s1} has no background
    limits = result[["student_low", "student", "student_high"]].sel(metric="n_fg", seed=0).to_array().values
    assert limits.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.isel(sample=slice(None, None, -1)), "samples stand in another order"),
        (lambda ds: ds.isel(sample=slice(1, None)), r"samples differ \(8 and 7 of them\)"),
        (lambda ds: ds.isel(unit=slice(None, -1)), r"units differ \(16 and 15 of them\)"),
        (lambda ds: ds.assign(foreground=ds["foreground"] & (ds["unit"] > 3)), "foreground differs at"),
        (lambda ds: ds.assign_attrs(input_fingerprint="b"), "input_fingerprint is 'a' and 'b'"),
        (lambda ds: ds.assign_attrs(solver="optimum"), "solver of the entropies is None and 'optimum'"),
        (
            lambda ds: analysis.find_points(ds.drop_vars("knowledge_point"), threshold=0.3),
            "points were found with .*0.2.* and .*0.3",
        ),
    ],
)
@pytest.mark.parametrize("role", ["baseline", "teacher"])
def test_compare__mismatch_raises_and_names_the_pair(student, baseline, change, message, role):
    networks = {"student": student, "baseline": baseline, "teacher": baseline}
    networks = {name: ds.assign_attrs(input_fingerprint="a") for name, ds in networks.items()}
    networks[role] = change(networks[role])
    with pytest.raises(ValueError, match=rf"student\[0\] and {role}\[0\] do not match: .*{message}"):
        analysis.compare(**networks)


def test_compare__padding_must_agree(student, baseline):
    valid = baseline["valid"].copy()
    where = np.argwhere((~baseline["foreground"] & valid).values)[0]
    valid[tuple(where)] = False
    found = baseline["knowledge_point"] & valid
    shorter = baseline.assign(valid=valid, uncertain=baseline["uncertain"] & valid)
    shorter["knowledge_point"] = found.assign_attrs(baseline["knowledge_point"].attrs)
    with pytest.raises(ValueError, match="valid differs at 1 units"):
        analysis.compare(student=student, baseline=shorter)


def test_compare__entropy_weight_must_agree_except_with_the_teacher(student, baseline):
    heavy = baseline.assign_attrs(weight=6.0)
    with pytest.raises(ValueError, match=r"weight of the entropies is 7\.0 and 6\.0"):
        analysis.compare(student=student.assign_attrs(weight=7.0), baseline=heavy)
    same = analysis.compare(student=student, baseline=baseline, teacher=heavy, resamples=2)
    assert same["teacher"].sel(metric="n_fg", seed=0) == same["baseline"].sel(metric="n_fg", seed=0)


def derived(ds, **settings):
    """The dataset as if its entropies had been derived with `settings` from a measurement with others."""
    measured = {"solver": "descent", "weight": 6.0, "calibration": 0.386}
    ds = ds.assign_attrs(measured)
    return ds.assign(entropy=ds["entropy"].assign_attrs({"extrapolated": 1, **settings}))


SETTINGS = {"solver": "optimum", "weight": 3.0, "calibration": 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SETTINGS | {"solver": "descent"}, "solver of the entropies is 'optimum' and 'descent'"),
        (SETTINGS | {"weight": 6.0}, r"weight of the entropies is 3\.0 and 6\.0"),
        (SETTINGS | {"calibration": 0.386}, r"calibration of the entropies is 0\.1 and 0\.386"),
        ({"solver": "optimum", "weight": 3.0}, r"calibration of the entropies is 0\.1 and None"),
        (
            {"solver": "optimum", "weight": 3.0, "calibration": 0.1, "feature_loss": 1.5},
            r"feature_loss of the entropies is None and 1\.5",
        ),
        ({}, "solver of the entropies is 'optimum' and 'descent'"),  # those of the measurement
    ],
)
def test_compare__settings_of_the_derived_entropies_must_agree(student, baseline, settings, message):
    ours, theirs = derived(student, **SETTINGS), derived(baseline, **settings)
    with pytest.raises(ValueError, match=message):
        analysis.compare(student=ours, baseline=theirs, resamples=2)


def test_results__state_the_settings_of_the_derived_entropies(student, baseline):
    for settings in (SETTINGS, {"solver": "optimum", "weight": 3.0, "feature_loss": 1.5}):
        ours, theirs = derived(student, **settings), derived(baseline, **settings)
        comparison = analysis.compare(student=ours, baseline=theirs, resamples=2)
        for result in (analysis.count_points(ours), analysis.measure_learning(ours), comparison):
            names = {*SETTINGS, "feature_loss"} & set(result.attrs)
            assert {name: result.attrs[name] for name in names} == settings, (
                "and no calibration of the measurement beside a feature loss"
            )


def test_compare__states_the_definition_of_the_weight_distance(student, baseline):
    result = analysis.compare(student=student, baseline=baseline, resamples=2)
    assert result.attrs["weight_distance"] == "per step"
    without = [ds.drop_vars("weight_distance") for ds in (student, baseline)]
    assert (
        "weight_distance" not in analysis.compare(student=without[0], baseline=without[1], resamples=2).attrs
    )


def test_compare__seeds_are_those_of_the_training(student, baseline):
    trained = [student.assign_attrs(training_seed=seed) for seed in (7, 3)]
    without = baseline.drop_vars("weight_distance")
    result = analysis.compare(student=trained, baseline=[without, baseline], resamples=2)
    assert result["seed"].values.tolist() == [7, 3]
    assert result.attrs["note"] == "seed 7: no weight_distance in student, baseline or both"
    twice = analysis.compare(student=[trained[0]] * 2, baseline=[baseline] * 2, resamples=2)
    assert twice["seed"].values.tolist() == [0, 1]


def test_compare__definition_of_distance_must_agree(student, baseline):
    other = baseline.assign(weight_distance=baseline["weight_distance"].assign_attrs(definition="per epoch"))
    with pytest.raises(ValueError, match="definition 'per step' in student, 'per epoch' in baseline"):
        analysis.compare(student=student, baseline=other)


def test_compare__points_made_elsewhere_raise(student, baseline):
    bare = student.assign(knowledge_point=student["knowledge_point"].drop_attrs())
    with pytest.raises(ValueError, match="knowledge_point has no attribute threshold, background"):
        analysis.compare(student=bare, baseline=baseline)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"student": []}, ValueError, "student has 0 datasets"),
        ({"student": "run.nc"}, TypeError, "student is str; allowed: a Dataset or a list"),
        ({"teacher": 3}, TypeError, "teacher is int"),
        ({"resamples": 0}, ValueError, "resamples must"),
        ({"resamples": 10.0}, ValueError, r"resamples must"),
        ({"confidence": 95}, ValueError, "confidence is 95"),
    ],
)
def test_compare__bad_option_raises(student, baseline, options, error, message):
    with pytest.raises(error, match=message):
        analysis.compare(**({"student": student, "baseline": baseline} | options))


def test_compare__numbers_of_networks_must_fit(student, baseline):
    with pytest.raises(ValueError, match="baseline has 2 datasets; allowed: 1, or one for each student"):
        analysis.compare(student=[student] * 3, baseline=[baseline] * 2)
    with pytest.raises(ValueError, match="teacher has 2 datasets"):
        analysis.compare(student=[student] * 3, baseline=[baseline] * 3, teacher=[student] * 2)


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
