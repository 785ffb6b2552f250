"""Which network of a stored run is compared with which, and what the tables say of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import kdviz
from kdviz import analysis, schema, sources
from kdviz.errors import KdvizWarning, StoreError
from kdviz.store import Run, create_run

SAMPLES, UNITS = 6, 16
EPOCHS = (0, 2, 5)
MODULES = {"conv": "features.conv4", "fc1": "classifier.fc1"}
FC1, CONV = MODULES["fc1"], MODULES["conv"]


def make_samples() -> xr.Dataset:
    foreground = np.random.default_rng(0).random((SAMPLES, UNITS)) < 0.4
    foreground[:, 0], foreground[:, 1] = True, False
    return xr.Dataset(
        {"foreground": (("sample", "unit"), foreground)},
        coords={"sample": [f"s{index}" for index in range(SAMPLES)], "unit": np.arange(UNITS)},
    )


def make_run(
    path: Path, *, layer_names: dict[str, str] | None = MODULES, threshold: float | None = None
) -> Run:
    config: dict[str, object] = {} if layer_names is None else {"layer_names": layer_names}
    if threshold is not None:
        config["threshold"] = threshold
    return create_run(path, samples=make_samples(), attrs=schema.make_attrs(dataset_id="s", config=config))


def write_network(
    run: Run,
    name: str,
    role: str,
    layer: str,
    *,
    training_seed: int = 0,
    seed: int = 0,
    epochs: tuple[int, ...] = EPOCHS,
    clarity: float = 1.0,
    path_share: int = 0,
    distance: bool = True,
    **details: object,
) -> None:
    """Gains drawn around 1, on the object larger by `clarity` nat at the last epoch.

    The draw depends on layer, role and training seed; a measurement seed adds a little noise of its own.
    """
    attrs = schema.make_attrs(
        network_role=role, training_seed=training_seed, seed=seed, base_noise=0.01, weight=7.0, **details
    )
    run.create_group(name, layer, epochs=epochs, attrs=attrs, block=SAMPLES, variables=VARIABLES)
    key = (len(layer), len(role), training_seed)
    base = 0.5 * np.random.default_rng(key).standard_normal((SAMPLES, UNITS))
    noise = 0.15 * np.random.default_rng((*key, seed)).standard_normal((SAMPLES, UNITS))
    for index, epoch in enumerate(epochs):
        growth = clarity * epoch / EPOCHS[-1] * run.samples["foreground"].values
        gain = np.exp(base + noise + growth)[None]
        method = (np.arange(SAMPLES) < path_share).astype(np.int8)[None]
        block = xr.Dataset(
            {
                "gain": (("epoch", "sample", "unit"), gain.astype(np.float32)),
                "gain_error": (("epoch", "sample", "unit"), (0.02 * gain).astype(np.float32)),
                "feature_variance": (("epoch", "sample"), (1e-4 * gain.sum(axis=-1)).astype(np.float32)),
                "method": (("epoch", "sample"), method),
                "valid": (("sample", "unit"), np.ones((SAMPLES, UNITS), bool)),
            },
            coords={"epoch": [epoch], "sample": run.samples["sample"].values, "unit": np.arange(UNITS)},
        )
        run.write_block(name, layer, index, 0, block)
    if distance:
        moved = xr.DataArray(
            np.array(epochs, np.float32) / 5,
            dims="epoch",
            coords={"epoch": list(epochs)},
            name="weight_distance",
            attrs={"definition": "per step"},
        )
        run.write_variable(name, layer, moved)


VARIABLES = ("gain", "gain_error", "feature_variance", "method")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Teacher, two layers, two training seeds at fc1 and one at conv, repeats of seed 0 at fc1."""
    run = make_run(tmp_path_factory.mktemp("pairs") / "run.zarr")
    for layer in (FC1, CONV):
        write_network(run, "teacher", "teacher", layer, epochs=(5,), clarity=1.5, distance=False)
        for seed in (1, 0):  # written in another order than that of seeds
            name = f"baseline-s{seed}"
            write_network(
                run, name, "baseline", layer, training_seed=seed, clarity=0.8, path_share=3, accuracy=0.75
            )
    for seed in (1, 0):
        for measured_at in (FC1, CONV):
            write_network(
                run,
                f"student-fc1-s{seed}",
                "student",
                measured_at,
                training_seed=seed,
                clarity=1.2,
                distilled_layer=FC1,
                accuracy=0.5 + seed / 4,
            )
    write_network(run, "student-conv-s0", "student", CONV, clarity=1.0, distilled_layer=CONV)
    for name, role in (("student-fc1-s0", "student"), ("baseline-s0", "baseline")):
        about = {"distilled_layer": FC1} if role == "student" else {}
        clarity = 1.2 if role == "student" else 0.8
        write_network(
            run, f"{name}-repeat", role, FC1, seed=1, epochs=(5,), clarity=clarity, distance=False, **about
        )
    return run


@pytest.fixture(scope="module")
def pairs(run: Run) -> dict[str, analysis.NetworkPair]:
    return analysis.pair_networks(run)


def by_hand(run: Run, network: str, layer: str, *, threshold: float = 0.2, **settings: object) -> xr.Dataset:
    return kdviz.find_points(
        kdviz.derive_entropy(run.dataset(network, layer), **settings), threshold=threshold
    )


def named(networks: dict[int, xr.Dataset]) -> dict[int, str]:
    return {seed: ds.attrs["network"] for seed, ds in networks.items()}


# -- pair_networks


def test_pair_networks__sorts_networks_by_layer_role_and_seed(pairs: dict) -> None:
    assert list(pairs) == ["conv", "fc1"]  # the papers' names, in the order of the run's config
    fc1, conv = pairs["fc1"], pairs["conv"]
    assert (fc1.layer, conv.layer) == ("fc1", "conv")
    assert list(named(fc1.students).items()) == [(0, "student-fc1-s0"), (1, "student-fc1-s1")]
    assert list(named(fc1.baselines).items()) == [(0, "baseline-s0"), (1, "baseline-s1")]
    assert named(fc1.student_repeats) == {0: "student-fc1-s0-repeat"}
    assert named(fc1.baseline_repeats) == {0: "baseline-s0-repeat"}
    assert fc1.teacher.attrs["network"] == "teacher" and fc1.teacher.attrs["layer"] == FC1


def test_pair_networks__student_distilled_elsewhere_is_left_out(pairs: dict) -> None:
    assert named(pairs["conv"].students) == {0: "student-conv-s0"}
    assert named(pairs["conv"].baselines) == {0: "baseline-s0", 1: "baseline-s1"}
    assert pairs["conv"].student_repeats == pairs["conv"].baseline_repeats == {}


def test_pair_networks__gives_the_points_found_by_hand(run: Run, pairs: dict) -> None:
    expected = by_hand(run, "student-fc1-s1", FC1)
    xr.testing.assert_identical(pairs["fc1"].students[1], expected)
    assert expected["knowledge_point"].sum() > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.4},
        {"solver": "optimum"},
        {"calibration": 0.6},
        {"calibration": None},
        {"feature_loss": 1.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_pair_networks__settings_reach_the_entropies_and_points(
    run: Run, pairs: dict, settings: dict
) -> None:
    moved = analysis.pair_networks(run, analysis.Settings(**settings))["fc1"].students[0]
    xr.testing.assert_identical(moved, by_hand(run, "student-fc1-s0", FC1, **settings))
    before = pairs["fc1"].students[0]
    changed = "knowledge_point" if "threshold" in settings else "entropy"
    assert not moved[changed].equals(before[changed])


def test_pair_networks__larger_threshold_never_counts_more(run: Run, pairs: dict) -> None:
    strict = analysis.pair_networks(run, analysis.Settings(threshold=0.4))
    more, fewer = (analysis.compare_layers(found)[["student", "baseline"]][:3] for found in (pairs, strict))
    assert (fewer[:2] <= more[:2]).all(axis=None) and (fewer[:2] < more[:2]).any(axis=None)


def test_pair_networks__background_of_every_sample_can_be_the_baseline(run: Run) -> None:
    found = analysis.pair_networks(run, analysis.Settings(background="sample"))["fc1"].baselines[0]
    assert found["knowledge_point"].attrs["background"] == "sample"
    entropies = kdviz.derive_entropy(run.dataset("baseline-s0", FC1))
    xr.testing.assert_identical(found, kdviz.find_points(entropies, background="sample"))


def test_pair_networks__weight_is_that_of_the_measurement(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "b", "baseline", FC1)
    write_network(run, "s", "student", FC1)
    attrs = analysis.pair_networks(run)["fc1"].students[0]["entropy"].attrs
    assert attrs["weight"] == run.catalogue()["s", FC1]["weight"] == 7.0


def test_pair_networks__run_without_papers_names_is_keyed_by_module(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", layer_names=None)
    write_network(run, "b", "baseline", FC1)
    write_network(run, "s", "student", FC1)  # no distilled_layer recorded: counts wherever it was measured
    write_network(run, "s", "student", CONV)
    found = analysis.pair_networks(run)
    assert {label: named(pair.students) for label, pair in found.items()} == {FC1: {0: "s"}, CONV: {0: "s"}}
    assert found[CONV].baselines == {} and found[FC1].teacher is None


def test_pair_networks__order_is_that_of_seeds_not_of_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "a", "baseline", FC1, training_seed=1)
    write_network(run, "b", "baseline", FC1, training_seed=0)
    baselines = analysis.pair_networks(run)["fc1"].baselines
    assert list(named(baselines).items()) == [(0, "b"), (1, "a")]


def test_pair_networks__takes_any_number_of_networks_of_one_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "big", "teacher", FC1)
    write_network(run, "b", "baseline", FC1, architecture="vgg")
    write_network(run, "a", "baseline", FC1, architecture="resnet")
    write_network(run, "hint-s0", "student", FC1, distillation_method="hint", architecture="vgg")
    for name in ("kl-t2-s0", "kl-t4-s0"):
        write_network(run, name, "student", FC1, distillation_method="kl", architecture="vgg")
    write_network(run, "pruned", "copy", FC1)
    networks = analysis.list_networks(run)
    assert list(networks) == ["a", "b", "big", "hint-s0", "kl-t2-s0", "kl-t4-s0", "pruned"]
    assert networks["kl-t4-s0"] == analysis.Network(
        "kl-t4-s0", "student", "kl", "", {"fc1": FC1}, seed=0, architecture="vgg", teacher="", repeat_of=""
    )
    assert networks["pruned"].role == "copy"
    pairs = analysis.pair_networks(run)
    assert {label: named(pair.students) for label, pair in pairs.items()} == {
        "hint at fc1": {0: "hint-s0"},
        "kl at fc1": {0: "kl-t2-s0"},
        "kl-t4 at fc1": {0: "kl-t4-s0"},
    }
    assert {tuple(named(pair.baselines).items()) for pair in pairs.values()} == {((0, "b"),)}
    table = analysis.compare_layers(pairs)
    assert table.groupby("layer")["student_name"].first().to_dict() == {
        label: named(pair.students)[0] for label, pair in pairs.items()
    }


@pytest.mark.parametrize(
    ("students", "expected"),
    [
        ({"only-s0": {}}, {"fc1": {0: "only-s0"}}),
        ({"fitnet-s0": {}, "fitnet-s1": {"training_seed": 1}}, {"fc1": {0: "fitnet-s0", 1: "fitnet-s1"}}),
        ({"alpha": {}, "beta": {}}, {"alpha at fc1": {0: "alpha"}, "beta at fc1": {0: "beta"}}),
        (
            {"alpha": {}, "beta": {"training_seed": 1}},
            {"alpha at fc1": {0: "alpha"}, "beta at fc1": {1: "beta"}},
        ),
        (
            {"fitnet-s0": {}, "fitnet-s1": {"training_seed": 1}, "kd_seed0": {}},
            {"fitnet at fc1": {0: "fitnet-s0", 1: "fitnet-s1"}, "kd at fc1": {0: "kd_seed0"}},
        ),
        (
            {"alpha-s0": {}, "f": {"distillation_method": "features"}, "h": {"distillation_method": "hint"}},
            {"alpha at fc1": {0: "alpha-s0"}, "features at fc1": {0: "f"}, "hint at fc1": {0: "h"}},
        ),
        (
            {"kd": {}, "kd-s0": {}, "s0": {}},
            {"kd at fc1": {0: "kd"}, "kd-s0 at fc1": {0: "kd-s0"}, "student at fc1": {0: "s0"}},
        ),
    ],
    ids=lambda value: "-".join(value),
)
def test_pair_networks__students_of_unknown_method_go_by_their_names(
    students: dict, expected: dict, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "scratch", "baseline", FC1)
    for name, about in students.items():
        write_network(run, name, "student", FC1, **about)
    pairs = analysis.pair_networks(run)
    assert {label: named(pair.students) for label, pair in pairs.items()} == expected
    assert {tuple(named(pair.baselines).items()) for pair in pairs.values()} == {((0, "scratch"),)}


def test_pair_networks__students_are_named_wherever_some_layer_has_several(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for name, layers in (("scratch", (CONV, FC1)), ("alpha", (CONV, FC1)), ("beta", (FC1,))):
        for layer in layers:
            write_network(run, name, "baseline" if name == "scratch" else "student", layer)
    assert [*analysis.pair_networks(run)] == ["alpha at conv", "alpha at fc1", "beta at fc1"]


def test_pair_networks__name_of_a_layer_stands_for_all_labels_at_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for layer in (CONV, FC1):
        write_network(run, "scratch", "baseline", layer)
    for name, clarity in (("alpha", 1.0), ("beta", 2.0)):
        write_network(run, name, "student", FC1, clarity=clarity)

    def asked(*layers: str) -> list[str]:
        return list(analysis.pair_networks(run, layers=layers))

    assert asked("fc1") == asked(FC1) == ["alpha at fc1", "beta at fc1"]
    assert asked("beta at fc1") == ["beta at fc1"] and asked() == []
    assert asked("fc1", "conv", "alpha at fc1") == ["alpha at fc1", "beta at fc1", "conv"]
    with pytest.raises(ValueError, match="layer 'alfa at fc1'; did you mean 'alpha at fc1' or 'beta at fc1'"):
        asked("alfa at fc1")
    with pytest.raises(ValueError, match=r"layer 'x'; allowed: conv, fc1, alpha at fc1, beta at fc1$"):
        asked("x")
    table = analysis.compare_settings(run, {"as is": analysis.Settings()}, layer="fc1")
    both = analysis.compare_layers(analysis.pair_networks(run, layers=["alpha at fc1", "beta at fc1"]))
    pd.testing.assert_frame_equal(table.drop(columns="setting"), both)
    points = table[table["metric"] == "n_fg"].set_index("layer")["student"]
    assert points["alpha at fc1"] != points["beta at fc1"]


def test_compare__two_students_of_one_seed_by_different_methods(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for name, method, clarity in (("kl", "kl", 1.0), ("hint", "hint", 2.0)):
        write_network(run, name, "student", FC1, distillation_method=method, clarity=clarity)
    write_network(run, "scratch", "baseline", FC1, clarity=0.5)
    kl, hint, scratch = (
        analysis.apply_settings(run.dataset(name, FC1), analysis.Settings())
        for name in ("kl", "hint", "scratch")
    )
    both = analysis.compare(student=kl, baseline=hint, resamples=20)
    assert (both["student_name"].item(), both["baseline_name"].item()) == ("kl", "hint")
    together = analysis.compare(student=[kl, hint], baseline=scratch, resamples=20)
    assert together["seed"].values.tolist() == [0, 1]
    assert together["student_name"].values.tolist() == ["kl", "hint"]
    assert together["baseline_name"].values.tolist() == ["scratch", "scratch"]
    alone = analysis.compare(student=hint, baseline=scratch, resamples=20)
    for name in ("difference", "difference_low", "student_high"):
        np.testing.assert_array_equal(together[name].sel(seed=1), alone[name].sel(seed=0))


def test_pair_networks__layer_of_a_student_may_be_given_by_either_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for layer in (FC1, CONV):
        write_network(run, "b", "baseline", layer)
        write_network(run, "s", "student", layer, distilled_layer="fc1")
    found = analysis.pair_networks(run)
    assert (named(found["fc1"].students), named(found["conv"].students)) == ({0: "s"}, {})
    write_network(run, "again", "student", FC1, seed=1, distilled_layer=FC1)
    again = analysis.pair_networks(run)["fc1"].student_repeats
    assert named(again) == {0: "again"}, "of the same student"


@pytest.mark.parametrize("layer", ["fc_1", "conv", CONV])
def test_pair_networks__student_not_measured_where_it_was_distilled_counts_where_it_was(
    tmp_path: Path, layer: str
) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "s", "student", FC1, distilled_layer=layer)
    assert named(analysis.pair_networks(run)["fc1"].students) == {0: "s"}
    assert analysis.list_networks(run)["s"].distilled_layer == (layer if layer == "fc_1" else "conv")


def test_pair_networks__lone_measurement_is_no_repeat_whatever_its_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    write_network(run, "b", "baseline", FC1, seed=0)
    write_network(run, "s", "student", FC1, seed=1, distilled_layer=FC1)
    pair = analysis.pair_networks(run)["fc1"]
    assert (named(pair.students), named(pair.baselines)) == ({0: "s"}, {0: "b"})
    assert pair.student_repeats == pair.baseline_repeats == {}


def test_pair_networks__repeat_is_the_measurement_with_the_larger_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for name, seed in (("again", 5), ("first", 2)):
        write_network(run, f"s-{name}", "student", FC1, seed=seed, distilled_layer=FC1)
        write_network(run, f"b-{name}", "baseline", FC1, seed=seed)
    write_network(run, "s-first-s1", "student", FC1, training_seed=1, seed=5, distilled_layer=FC1)
    pair = analysis.pair_networks(run)["fc1"]
    assert named(pair.students) == {0: "s-first", 1: "s-first-s1"}
    assert named(pair.student_repeats) == {0: "s-again"}
    assert named(pair.baselines) == {0: "b-first"} and named(pair.baseline_repeats) == {0: "b-again"}
    write_network(run, "s-third", "student", FC1, seed=7, distilled_layer=FC1)
    assert named(analysis.pair_networks(run)["fc1"].student_repeats) == {0: "s-again"}, "of several, one"
    assert analysis.list_networks(run)["s-third"].repeat_of == "s-first"


def test_pair_networks__threshold_is_that_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr", threshold=0.35)
    write_network(run, "b", "baseline", FC1)
    for given, used in ((None, 0.35), (0.2, 0.2)):
        found = analysis.pair_networks(run, analysis.Settings(threshold=given))["fc1"].baselines[0]
        assert found["knowledge_point"].attrs["threshold"] == used


def test_pair_networks__threshold_of_a_run_that_names_none_is_that_of_the_papers(pairs: dict) -> None:
    assert pairs["fc1"].students[0]["knowledge_point"].attrs["threshold"] == 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threshold": -1}, "threshold"), ({"solver": "other"}, "solver"), ({"background": "x"}, "background")],
)
def test_pair_networks__bad_setting_raises(run: Run, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analysis.pair_networks(run, analysis.Settings(**settings))


def test_pair_networks__unfinished_network_raises(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    attrs = schema.make_attrs(network_role="baseline", seed=0, weight=7.0, base_noise=0.01)
    run.create_group("b", FC1, epochs=EPOCHS, attrs=attrs, block=SAMPLES, variables=VARIABLES)
    with pytest.raises(StoreError, match=r"b/classifier\.fc1 is unfinished: 3 of 3 blocks are missing"):
        analysis.pair_networks(run)


# -- tables


def test_compare_layers__equals_compare_called_by_hand(run: Run, pairs: dict) -> None:
    table = analysis.compare_layers(pairs)
    assert len(table) == len(analysis.METRICS) * (1 + 2)  # conv has one seed in common, fc1 two
    for layer, seeds in (("fc1", (0, 1)), ("conv", (0,))):
        module = MODULES[layer]
        expected = kdviz.compare(
            student=[by_hand(run, f"student-{layer}-s{seed}", module) for seed in seeds],
            baseline=[by_hand(run, f"baseline-s{seed}", module) for seed in seeds],
            teacher=by_hand(run, "teacher", module),
        )
        for place, seed in enumerate(seeds):
            rows = table[(table["layer"] == layer) & (table["seed"] == seed)].set_index("metric")
            for name in ("student", "baseline", "teacher", "difference", "difference_low", "difference_high"):
                values = expected[name].sel(seed=place)
                np.testing.assert_array_equal(rows.loc[values["metric"].values, name], values.values)
    assert table["difference"].abs().max() > 0


def test_compare_layers__seeds_without_a_partner_are_left_out(pairs: dict) -> None:
    one = pairs["fc1"]
    alone = analysis.NetworkPair(one.layer, {1: one.students[1], 7: one.students[0]}, one.baselines)
    assert set(analysis.compare_layers({"fc1": alone})["seed"]) == {1}
    apart = analysis.NetworkPair(one.layer, {7: one.students[0]}, one.baselines)
    with pytest.raises(ValueError, match=r"no training seed has both .* 'fc1'"):
        apart.compare()


def test_compare_layers__nothing_to_compare_raises(pairs: dict) -> None:
    one = pairs["fc1"]
    with pytest.raises(ValueError, match="no layer with both a student and a baseline"):
        analysis.compare_layers({"fc1": analysis.NetworkPair(one.layer, {}, one.baselines)})


def test_compare__of_a_pair_is_nobody_elses_to_change(pairs: dict) -> None:
    first = pairs["fc1"].compare()
    first["student"][:] = -1.0
    assert (pairs["fc1"].compare()["student"] >= 0).all()


def test_describe_comparison__states_everything_once(pairs: dict) -> None:
    assert analysis.describe_comparison(pairs) == (
        "Samples: 6. Training seeds: 0 (conv), 0, 1 (fc1). "
        "Checkpoints: epochs 0, 2, 5; points counted at the last epoch. "
        "Entropies: solver descent, weight 7.0, calibration 0.386. "
        "Threshold: 0.2 nat below the mean entropy of the background of the checkpoint. "
        "Intervals: 95 %, 1000 resamples, bootstrap over samples, for the networks of each seed alone. "
        "Weight distance: per step. "
        "Samples without points left out (by seed): "
        "0 / 1 from fg_ratio, 0 / 2 from rho, 0 / 2 from d_mean (fc1)."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"solver": "optimum", "calibration": None}, "Entropies: solver optimum, weight 7.0. "),
        ({"feature_loss": 1.5}, "descent, weight 7.0, feature_loss 1.5."),
        (
            {"threshold": 0.4, "background": "sample"},
            "0.4 nat below the mean entropy of the background of the sample.",
        ),
    ],
)
def test_describe_comparison__states_the_settings_in_use(run: Run, settings: dict, said: str) -> None:
    assert said in analysis.describe_comparison(analysis.pair_networks(run, analysis.Settings(**settings)))


def test_describe_comparison__says_what_differs_and_what_is_undefined(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run.zarr")
    for seed, epochs in ((2, (0, 5)), (3, EPOCHS)):
        write_network(run, f"b{seed}", "baseline", FC1, training_seed=seed)
        write_network(run, f"s{seed}", "student", FC1, training_seed=seed, epochs=epochs)
    pairs = analysis.pair_networks(run)
    with pytest.warns(KdvizWarning, match="metrics of the learning path are NaN"):
        said = analysis.describe_comparison(pairs)
    assert "Training seeds: 2, 3. Checkpoints: epochs 0, 5 (seed 2), 0, 2, 5 (seed 3); points" in said
    why = "checkpoints differ (student [0, 5], baseline [0, 2, 5]), and rho and D depend on their list"
    assert said.endswith(f"Undefined: seed 2: {why}.")
    assert analysis.describe_comparison(pairs) == said


def test_tabulate_counts__equals_count_points(pairs: dict) -> None:
    ds = pairs["fc1"].students[0]
    table, counts = analysis.tabulate_counts(ds), kdviz.count_points(ds)
    assert table.index.tolist() == list(EPOCHS) and table.index.name == "epoch"
    ends = ("", "_low", "_high")
    names = {f"{name}{end}" for name in ("n_fg", "n_bg", "fg_ratio") for end in ends}
    assert set(table.columns) == {"role", "accuracy", "weight_distance", *names}
    assert set(table["role"]) == {"student"}
    for name in ("n_fg", "n_bg", "fg_ratio"):
        for end in ends:
            np.testing.assert_array_equal(table[f"{name}{end}"], counts[f"{name}_mean{end}"])
    assert (table["n_fg_low"] <= table["n_fg"]).all() and (table["n_fg"] <= table["n_fg_high"]).all()
    assert (table["n_fg_low"] < table["n_fg_high"]).any(), "some unit is uncertain in this problem"


def test_describe_measurement__counts_the_last_epoch_and_shares_over_all(pairs: dict) -> None:
    table = analysis.describe_measurement(pairs).set_index(["layer", "role", "seed"])
    assert table.index.tolist() == [
        ("conv", "teacher", 0),
        ("conv", "student", 0),
        ("conv", "baseline", 0),
        ("conv", "baseline", 1),
        ("fc1", "teacher", 0),
        ("fc1", "student", 0),
        ("fc1", "student", 1),
        ("fc1", "baseline", 0),
        ("fc1", "baseline", 1),
    ]
    ds, row = pairs["fc1"].students[1], table.loc[("fc1", "student", 1)]
    last = ds.isel(epoch=-1)
    points, foreground = last["knowledge_point"].values, ds["foreground"].values
    assert row["n_fg"] == (points & foreground).sum() / SAMPLES
    assert row["n_bg"] == (points & ~foreground).sum() / SAMPLES
    assert row["uncertain"] == last["uncertain"].values.sum() / SAMPLES
    assert row["path"] == 0 and table.loc[("fc1", "baseline", 0), "path"] == 0.5  # 3 of 6 samples
    assert row["met"] == 1
    assert row["accuracy"] == 0.75 and table.loc[("fc1", "student", 0), "accuracy"] == 0.5
    assert np.isnan(table.loc[("fc1", "teacher", 0), "accuracy"]) and "learning_rate" not in table
    student = pairs["fc1"].students[0].assign_attrs(learning_rate=0.08)
    rated = {"fc1": replace(pairs["fc1"], students={0: student})}
    rates = analysis.describe_measurement(rated).set_index(["role", "seed"])["learning_rate"]
    assert rates["student", 0] == 0.08 and np.isnan(rates["baseline", 0])


def test_measure_noise_floor__compares_the_two_measurements_by_hand(run: Run, pairs: dict) -> None:
    table = analysis.measure_noise_floor(pairs).set_index(["layer", "role", "seed"])
    assert table.index.tolist() == [("fc1", "student", 0), ("fc1", "baseline", 0)]
    foreground = run.samples["foreground"].values
    for role, name in (("student", "student-fc1-s0"), ("baseline", "baseline-s0")):
        once = by_hand(run, name, FC1)["knowledge_point"].values[-1]
        again = by_hand(run, f"{name}-repeat", FC1)["knowledge_point"].values[0]
        row = table.loc[("fc1", role, 0)]
        assert row["n_fg"] == (once & foreground).sum() / SAMPLES
        assert row["n_fg again"] == (again & foreground).sum() / SAMPLES
        assert row["n_bg"] == (once & ~foreground).sum() / SAMPLES
        assert row["n_bg again"] == (again & ~foreground).sum() / SAMPLES
        both = (once & again & foreground).sum(axis=1)
        either = ((once | again) & foreground).sum(axis=1)
        assert row["overlap"] == pytest.approx((both / either).mean(), rel=1e-6)  # stored as float32 at most
        assert row["without"] == 0
        assert 0.5 < row["overlap"] < 1, "the problem is such that noise moves some points, not most"


def test_measure_noise_floor__leaves_out_samples_without_a_point(pairs: dict) -> None:
    pair = pairs["fc1"]
    networks = (pair.students[0], pair.student_repeats[0])
    none = [
        ds.assign(knowledge_point=ds["knowledge_point"] & (ds["sample"] != ds["sample"][1]))
        for ds in networks
    ]
    cut = replace(pair, students={0: none[0]}, student_repeats={0: none[1]})
    whole, left = (analysis.measure_noise_floor({"fc1": one}).iloc[0] for one in (pair, cut))
    found = [(ds["knowledge_point"].isel(epoch=-1) & ds["foreground"]).values for ds in networks]
    shares = np.delete((found[0] & found[1]).sum(1) / (found[0] | found[1]).sum(1), 1)
    assert left["without"] == 1 and whole["without"] == 0
    assert left["overlap"] == pytest.approx(shares.mean(), rel=1e-6)


def test_measure_noise_floor__without_repeats_is_empty(pairs: dict) -> None:
    assert analysis.measure_noise_floor({"conv": pairs["conv"]}).equals(pd.DataFrame([]))


# -- other settings


def test_pair_networks__of_one_layer_on_a_coarser_grid(tmp_path: Path) -> None:
    run = make_grid_run(tmp_path / "run.zarr")
    ((label, pair),) = analysis.pair_networks(run, analysis.Settings(coarsening=2), layers=["fc1"]).items()
    assert label == "fc1" and pair.students[0].sizes["unit"] == UNITS // 4
    coarse = analysis.coarsen_grid(run.dataset("student-fc1-s0", FC1), 2)
    expected = kdviz.find_points(kdviz.derive_entropy(coarse, weight=7.0))
    assert pair.students[0]["knowledge_point"].equals(expected["knowledge_point"])
    with pytest.raises(ValueError, match=r"no networks to compare at layer 'fc9'; did you mean 'fc1'\?$"):
        analysis.pair_networks(run, layers=["fc9"])


def test_compare_settings__is_each_comparison_by_itself(tmp_path: Path) -> None:
    run = make_grid_run(tmp_path / "run.zarr")
    settings = {
        "strict": analysis.Settings(threshold=0.5),
        "coarse": analysis.Settings(coarsening=2),
        "optimum": analysis.Settings(solver="optimum"),
    }
    table = analysis.compare_settings(run, settings, layer="fc1")
    assert list(dict.fromkeys(table["setting"])) == ["strict", "coarse", "optimum"]
    for label, chosen in settings.items():
        alone = analysis.compare_layers(analysis.pair_networks(run, chosen, layers=["fc1"]))
        found = table[table["setting"] == label].drop(columns="setting").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, alone)
    values = table[table["metric"] == "n_fg"].set_index("setting")["student"]
    assert values["strict"] < values["optimum"] and values["coarse"] < values["optimum"]
    with pytest.raises(ValueError, match="settings is empty"):
        analysis.compare_settings(run, {}, layer="fc1")


def make_grid_run(path: Path) -> Run:
    """Student and baseline on units that form a grid of 4 x 4."""
    row, col = np.divmod(np.arange(UNITS), 4)
    samples = make_samples().assign_coords(row=("unit", row), col=("unit", col))
    attrs = schema.make_attrs(dataset_id="s", config={"layer_names": MODULES})
    run = create_run(path, samples=samples, attrs=attrs)
    for name, role in (("student-fc1-s0", "student"), ("baseline-s0", "baseline")):
        write_network(run, name, role, FC1)
    return run


@pytest.mark.filterwarnings("ignore::kdviz.errors.ConvergenceWarning")
def test_pair_networks__repeats_of_the_stored_run_hold_fewer_checkpoints() -> None:
    run = kdviz.open_run(sources.find_data("runs/fashion.nc"))
    pairs = analysis.pair_networks(run)
    assert list(pairs) == ["conv", "fc1", "fc2"]
    assert named(pairs["fc1"].student_repeats) == {0: "student-fc1-s0-repeat"}
    assert named(pairs["fc1"].baseline_repeats) == {0: "baseline-s0-repeat"}
