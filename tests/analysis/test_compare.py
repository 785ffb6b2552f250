"""Students beside baselines: estimates, intervals against a slow replica, and what must match."""

import numpy as np
import pytest
import xarray as xr
from made_networks import derived, from_rows, make, random_network
from reference import slow_metrics

import kdviz.analysis as analysis
from kdviz.errors import DegenerateWarning, KdvizWarning


@pytest.fixture(scope="module")
def baseline():
    return analysis.find_points(random_network(2, drift=0.1))


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


@pytest.mark.parametrize("first", [[0], [0, 1], [3]])
def test_compare__one_checkpoint_after_the_start_leaves_path_metrics_undefined(student, baseline, first):
    with pytest.warns(KdvizWarning, match="fewer than two checkpoints after epoch 0"):
        result = analysis.compare(
            student=student.isel(epoch=first), baseline=baseline.isel(epoch=first), resamples=5
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
    with pytest.warns(KdvizWarning, match="fewer than two checkpoints"):
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
