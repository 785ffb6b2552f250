"""Runs beside the printed tables: means and intervals over training seeds, and which printed row is meant."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from invented_runs import draw_points, invent_seeds_run
from scipy import stats

from kdviz import analysis
from kdviz.analysis import METRICS, Arm, Settings
from kdviz.store import Run, create_run

SAMPLES, UNITS = 2, 40
FOREGROUND = np.broadcast_to(np.arange(UNITS) < 12, (SAMPLES, UNITS)).copy()
EPOCHS = {"teacher": (9,), "student": (0, 2, 5), "baseline": (0, 2, 5)}
T3 = 4.302652729911275  # 97.5 % point of Student's t with two degrees of freedom, from a printed table

# Points on foreground and background at the last epoch, by training seed.
COUNTS = {
    ("student", "fc1"): {0: (6, 2), 1: (8, 3), 2: (7, 1)},
    ("baseline", "fc1"): {0: (4, 2), 1: (3, 3), 2: (5, 1)},
    ("student", "fc2"): {0: (9, 1), 1: (9, 1), 2: (9, 1)},
    ("baseline", "fc2"): {0: (5, 3), 1: (4, 4), 2: (3, 5)},
    ("baseline", "fc3"): {0: (5, 3)},
}


def make_run(path: Path, counts: dict[tuple[str, str], dict[int, tuple[int, int]]]) -> Run:
    points = {
        (role, layer, seed): draw_points(FOREGROUND, *one, len(EPOCHS[role.partition("/")[0]]))
        for (role, layer), seeds in counts.items()
        for seed, one in seeds.items()
    }
    accuracies = {
        (role, layer, seed): {"teacher": 0.9, "student": 0.5 + 0.1 * seed}.get(role, 0.2 * seed)
        for role, layer, seed in points
    }
    return invent_seeds_run(
        path / "run", points, FOREGROUND, epochs=EPOCHS, accuracies=accuracies, classes=("a", "b", "c", "d")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three seeds at fc1 and fc2, with a teacher; at fc3 a baseline only."""
    teacher = {("teacher", layer): {0: (10, 1)} for layer in ("fc1", "fc2")}
    return make_run(tmp_path_factory.mktemp("arms"), COUNTS | teacher)


@pytest.fixture(scope="module")
def rows(run: Run) -> pd.DataFrame:
    return analysis.tabulate_arms([Arm({"dataset": "CUB200-2011", "network": "VGG-16"}, run)], table="V")


def one_row(rows: pd.DataFrame, layer: str, metric: str) -> pd.Series:
    (_, row), *others = rows[(rows["layer"] == layer) & (rows["metric"] == metric)].iterrows()
    assert not others
    return row


# -- numbers


def test_tabulate_arms__means_and_intervals_are_those_worked_out_by_hand(rows: pd.DataFrame) -> None:
    # fc1: 6-4, 8-3, 7-5 are 2, 5, 2: mean 3, deviation sqrt(3), so that the half width is t.
    # fc2: 4, 5, 6: mean 5, deviation 1.
    assert list(dict.fromkeys(rows["layer"])) == ["fc1", "fc2"], "fc3 has no student"
    first, second = (one_row(rows, layer, "n_fg") for layer in ("fc1", "fc2"))
    assert first[["student", "baseline", "teacher", "difference", "seeds"]].tolist() == [7, 4, 10, 3, 3]
    assert first[["low", "high"]].tolist() == pytest.approx([3 - T3, 3 + T3])
    assert (first["ahead"], first["clear"]) == (True, False)
    assert second[["low", "high"]].tolist() == pytest.approx([5 - T3 / 3**0.5, 5 + T3 / 3**0.5])
    assert (second["ahead"], second["clear"]) == (True, True)


def test_tabulate_arms__no_difference_at_any_seed_is_neither_ahead_nor_clear(rows: pd.DataFrame) -> None:
    row = one_row(rows, "fc1", "n_bg")
    assert row[["difference", "low", "high", "ahead", "clear"]].tolist() == [0, 0, 0, False, False]
    assert one_row(rows, "fc2", "n_bg")[["difference", "ahead", "clear"]].tolist() == [-3, True, True]


def test_tabulate_arms__intervals_of_all_metrics_are_those_of_a_paired_t_test(
    run: Run, rows: pd.DataFrame
) -> None:
    by_seed = analysis.compare_layers({k: v for k, v in analysis.pair_networks(run).items() if k != "fc3"})
    for (layer, metric), seeds in by_seed.groupby(["layer", "metric"]):
        row = one_row(rows, layer, metric)
        test = stats.ttest_rel(seeds["student"], seeds["baseline"])
        if np.ptp(seeds["difference"]) > 0:
            # 1e-6: the counts are exact, weight distances are float32
            expected = (seeds["difference"].mean(), *test.confidence_interval(0.95))
            np.testing.assert_allclose(row[["difference", "low", "high"]].astype(float), expected, rtol=1e-6)
        assert row["hypothesis"] == METRICS[metric].hypothesis
        assert row["student"] == pytest.approx(seeds["student"].mean())


def test_tabulate_arms__teacher_has_counts_and_no_way(rows: pd.DataFrame) -> None:
    known = rows[rows["layer"] == "fc1"].set_index("metric")["teacher"]
    assert known["fg_ratio"] == pytest.approx(10 / 11)
    assert known[["d_mean", "d_var", "d_std", "rho"]].isna().all()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    counts = {("student", "fc1"): {4: (6, 2), 5: (6, 2)}, ("baseline", "fc1"): {4: (4, 5)}}
    return analysis.tabulate_arms([Arm({}, make_run(tmp_path_factory.mktemp("single"), counts))])


def test_tabulate_arms__one_seed_in_common_has_no_interval_and_decides_nothing(single: pd.DataFrame) -> None:
    row = one_row(single, "fc1", "n_fg")
    assert row[["seeds", "difference", "ahead", "clear"]].tolist() == [1, 2, True, False]
    assert single[["low", "high", "teacher", "printed_student"]].isna().all(axis=None)
    tally = analysis.tally_wins(single, table=None)
    assert (tally["undecided"] == 1).all() and (tally["printed_pairs"] == 0).all()
    assert analysis.describe_arms(single)["H1"].splitlines()[1] == (
        "  n_fg undecided: 2.0 (1 seed); ahead in 1 of 1"
    )


def test_tabulate_arms__seeds_without_points_count_for_counts_only(tmp_path: Path) -> None:
    counts = {
        ("student", "fc1"): {0: (6, 2), 1: (6, 2)},
        ("baseline", "fc1"): {0: (0, 0), 1: (4, 4)},
        ("student", "fc2"): {0: (6, 2)},
        ("baseline", "fc2"): {0: (0, 0)},
    }
    rows = analysis.tabulate_arms([Arm({}, make_run(tmp_path, counts))])
    assert one_row(rows, "fc1", "n_fg")[["seeds", "baseline"]].tolist() == [2, 2]
    ratio = one_row(rows, "fc1", "fg_ratio")
    assert ratio[["seeds", "student", "baseline"]].tolist() == [1, 0.75, 0.5]
    undefined = one_row(rows, "fc2", "fg_ratio")
    assert undefined["seeds"] == 0 and undefined[["student", "difference", "low"]].isna().all()
    assert (undefined["ahead"], undefined["clear"]) == (False, False)
    tally = analysis.tally_wins(rows, table="VI")
    assert tally.loc[("H1", "fg_ratio"), ["pairs", "undecided", "wins"]].tolist() == [1, 1, 1]
    assert "undefined in 1" in analysis.describe_arms(rows)["H1"].splitlines()[3]


def test_tabulate_arms__losses_at_one_layer_are_rows_of_their_own(tmp_path: Path) -> None:
    counts = {
        ("student/kl", "fc1"): {0: (6, 2)},
        ("student/hint", "fc1"): {0: (3, 2)},
        ("baseline", "fc1"): {0: (4, 2)},
    }
    rows = analysis.tabulate_arms([Arm({"network": "vgg 16"}, make_run(tmp_path, counts))], table="II")
    found = rows[rows["metric"] == "n_fg"].set_index("layer")["difference"]
    assert found.to_dict() == {"kl at fc1": 2, "hint at fc1": -1}
    assert rows["printed_student"].isna().all(), "Table II has no VGG-16"


def test_tabulate_arms__settings_of_an_arm_decide_about_its_points(run: Run) -> None:
    strict = Settings(threshold=50.0)
    arms = [Arm({"setting": "b 0.25"}, run), Arm({"setting": "b 50"}, run, strict)]
    rows = analysis.tabulate_arms(arms)
    found = rows[(rows["metric"] == "n_fg") & (rows["layer"] == "fc1")].set_index("setting")["student"]
    assert found.to_dict() == {"b 0.25": 7, "b 50": 0}


# -- the printed rows


@pytest.mark.parametrize(
    ("table", "labels", "student"),
    [
        ("V", {"dataset": "cub200-2011", "network": "vgg16"}, [43.77, 36.83]),
        ("V", {"dataset": "CUB200-2011", "network": "VGG-16", "teacher": "VGG-16"}, [43.77, 36.83]),
        ("V", {"dataset": "ILSVRC-2013 DET", "network": "VGG-16"}, [56.29, 37.79]),
        ("V", {"dataset": "Fashion composites", "network": "VGG-16"}, [np.nan, np.nan]),
        ("V", {"network": "VGG-16"}, [np.nan, np.nan]),
        ("VII", {"dataset": "ModelNet40", "network": "PointNet"}, [157.36, 131.91]),
        ("VII", {"dataset": "ModelNet40", "network": "PointNet++"}, [51.15, 50.88]),
        # the paper says neither data set nor layer of Tables II and VIII
        ("II", {"dataset": "Fashion composites", "network": "VGG-11", "teacher": "VGG-19"}, [41.44, 41.44]),
        ("II", {"network": "VGG-11"}, [np.nan, np.nan]),
        ("VIII", {"dataset": "MSCOCO", "network": "VGG-11"}, [30.96, 30.96]),
        ("III", {"dataset": "CUB200-2011", "network": "VGG-16", "setting": "b 0.15"}, [54.53, np.nan]),
        ("III", {"dataset": "CUB200-2011", "network": "VGG-16"}, [np.nan, np.nan]),
        ("IV", {"dataset": "CUB200-2011", "network": "VGG-16"}, [29.57, 32.92]),
    ],
)
def test_tabulate_arms__printed_row_is_that_of_the_labels_and_the_layer(
    run: Run, table: str, labels: dict[str, str], student: list[float]
) -> None:
    rows = analysis.tabulate_arms([Arm(labels, run)], table=table)
    found = [one_row(rows, layer, "n_fg")["printed_student"] for layer in ("fc1", "fc2")]
    np.testing.assert_array_equal(found, student)


def test_tabulate_arms__printed_numbers_stand_beside_their_own_metrics(rows: pd.DataFrame, run: Run) -> None:
    printed = ["printed_student", "printed_baseline", "printed_difference"]
    assert one_row(rows, "fc1", "d_var")[printed].tolist() == [0.06, 4.98, -4.92]
    assert np.isnan(one_row(rows, "fc1", "d_std")["printed_difference"])
    fourth = analysis.tabulate_arms([Arm({"dataset": "CUB200-2011", "network": "VGG-16"}, run)], table="IV")
    assert one_row(fourth, "fc2", "fg_ratio")["printed_teacher"] == 0.8
    assert np.isnan(one_row(fourth, "fc2", "rho")["printed_student"])


def test_tabulate_arms__hidden_layer_is_the_last_hidden_one(tmp_path: Path) -> None:
    counts = {("student", "hidden"): {0: (6, 2)}, ("baseline", "hidden"): {0: (4, 2)}}
    arm = Arm({"dataset": "SQuAD", "network": "BERT"}, make_run(tmp_path, counts))
    rows = analysis.tabulate_arms([arm], table="VI")
    assert one_row(rows, "hidden", "n_fg")[["printed_difference", "same_sign"]].tolist() == [4.88, True]
    # no difference here, 0.31 fewer there
    assert one_row(rows, "hidden", "n_bg")[["printed_difference", "same_sign"]].tolist() == [-0.31, False]


# -- counts and layouts


def test_tally_wins__counts_rows_here_and_pairs_of_the_whole_table(rows: pd.DataFrame) -> None:
    tally = analysis.tally_wins(rows, table="V")
    assert [*tally.index.get_level_values("metric")] == [*METRICS]
    names = ["ahead", "behind", "undecided", "pairs", "wins", "ties"]
    assert tally.loc[("H1", "n_fg"), names].tolist() == [1, 0, 1, 2, 2, 0]
    assert tally.loc[("H1", "n_bg"), names].tolist() == [1, 0, 1, 2, 1, 1]
    printed = ["printed_wins", "printed_ties", "printed_pairs"]
    assert tally.loc[("H1", "fg_ratio"), printed].tolist() == [43, 5, 57]
    assert tally.loc[("H2", "d_std"), printed].tolist() == [0, 0, 0]
    # Printed at both layers: more on the foreground, fewer on the background; ours at fc1 are as many.
    agreement = tally["agreement"].droplevel("hypothesis")
    assert agreement[["n_fg", "n_bg", "d_std"]].tolist() == ["2 of 2", "1 of 2", ""]


def test_tally_wins__clear_differences_on_the_other_side_are_behind(rows: pd.DataFrame) -> None:
    turned = rows.assign(ahead=~rows["ahead"])
    tally = analysis.tally_wins(turned, table=None)
    assert tally.loc[("H1", "n_fg"), ["ahead", "behind", "undecided"]].tolist() == [0, 1, 1]
    assert (tally["agreement"] != "").sum() == 6, "the twins of rows stay, whichever table is counted"


def test_list_arms__says_what_is_compared_and_how_well_the_networks_do(run: Run) -> None:
    arms = [Arm({"network": "VGG-16"}, run), Arm({"setting": "b 0.3"}, run, Settings(threshold=0.3))]
    listed = analysis.list_arms(arms)
    names = ["network", "setting", "samples", "threshold", "seeds"]
    assert listed[names].to_numpy().tolist() == [["VGG-16", "", 2, 0.25, 3], ["", "b 0.3", 2, 0.3, 3]]
    # accuracies are 0.9 of the teacher, 0.5 + 0.1 x seed of students, 0.2 x seed of seven baselines
    assert listed.loc[0, ["teacher", "student", "baseline"]].tolist() == pytest.approx([0.9, 0.6, 1.2 / 7])
    assert listed["chance"].tolist() == [0.25, 0.25]


def test_doubt_arms__names_who_is_hardly_better_than_chance(run: Run) -> None:
    assert analysis.doubt_arms([Arm({"network": "VGG-16"}, run)]) == [
        "in doubt: VGG-16, the baseline is right in 0.17, and chance in 0.25"  # the others are at 0.9 and 0.6
    ]


@pytest.mark.parametrize(("right", "doubted"), [(0.32, True), (0.33, False)])  # 0.325 is a tenth of the way
def test_doubt_arms__begins_a_tenth_of_the_way_to_certainty(
    monkeypatch: pytest.MonkeyPatch, right: float, doubted: bool
) -> None:
    row = dict.fromkeys(["dataset", "network", "teacher_network", "setting"], "") | {"chance": 0.25}
    table = pd.DataFrame([row | {"teacher": 0.9, "student": right, "baseline": np.nan}])
    monkeypatch.setattr("kdviz.analysis.arms.list_arms", lambda arms: table)
    assert bool(analysis.doubt_arms([])) == doubted


def test_list_arms__accuracies_that_nobody_recorded_are_undefined(tmp_path: Path) -> None:
    counts = {("student", "fc1"): {0: (6, 2)}, ("baseline", "fc1"): {0: (4, 2)}}
    points = {(role, layer, 0): draw_points(FOREGROUND, *one[0], 3) for (role, layer), one in counts.items()}
    bare = invent_seeds_run(tmp_path / "run", points, FOREGROUND, epochs=EPOCHS)
    listed = analysis.list_arms([Arm({}, bare)])
    assert listed[["teacher", "student", "baseline", "chance"]].isna().all(axis=None)


def test_list_arms__of_a_run_without_networks_knows_nothing(tmp_path: Path) -> None:
    samples = xr.Dataset(coords={"sample": ["s0", "s1"], "unit": np.arange(4)})
    listed = analysis.list_arms([Arm({}, create_run(tmp_path / "run.zarr", samples=samples))])
    assert listed["seeds"].tolist() == [0]
    assert listed[["teacher", "student", "baseline", "chance"]].isna().all(axis=None)


def test_arrange_arms__has_metrics_beside_each_other_and_networks_below(rows: pd.DataFrame) -> None:
    table = analysis.arrange_arms(rows)
    assert [*table.columns] == ["n_fg", "n_bg", "fg_ratio", "d_mean", "d_var", "rho"]
    assert table.index.names == ["dataset", "network", "layer", "row"]
    of_layer = table.loc[("CUB200-2011", "VGG-16", "fc2")]
    assert of_layer["n_fg"].to_dict() == pytest.approx(
        {
            "teacher": 10,
            "student": 9,
            "baseline": 4,
            "difference": 5,
            "low": 5 - T3 / 3**0.5,
            "high": 5 + T3 / 3**0.5,
            "printed student": 36.83,
            "printed baseline": 23.31,
            "printed difference": 13.52,
        }
    )


def test_arrange_arms__leaves_out_what_has_no_number(single: pd.DataFrame) -> None:
    table = analysis.arrange_arms(single)
    assert table.index.names == ["layer", "row"]
    assert [*table.index.get_level_values("row")] == ["student", "baseline", "difference"]


def test_describe_arms__says_how_much_is_clear_and_what_is_not(rows: pd.DataFrame) -> None:
    told = analysis.describe_arms(rows)
    assert [*told] == ["H1", "H2", "H3"]
    assert told["H1"].splitlines()[1:3] == [
        "  n_fg partly supported; ahead in 2 of 2, clearly in 1; undecided: fc1 -1.3 to 7.3 (3 seeds)",
        "  n_bg partly supported; ahead in 1 of 2, clearly in 1; undecided: fc1 0 to 0 (3 seeds)",
    ]
    only = analysis.describe_arms(rows[rows["layer"] == "fc2"])["H1"]
    assert "n_fg supported; ahead in 1 of 1, clearly in 1\n" in only
    many = pd.concat([rows.assign(setting=str(one)) for one in range(6)])
    assert "and 2 more" in analysis.describe_arms(many)["H1"]
    assert max(map(len, analysis.describe_arms(many)["H1"].splitlines())) <= 120  # and no word is cut
    turned = rows[rows["layer"] == "fc2"].assign(ahead=False)
    assert "n_fg contradicted; ahead in 0 of 1, clearly behind in 1\n" in analysis.describe_arms(turned)["H1"]
    both = pd.concat([rows[rows["layer"] == "fc2"], turned.assign(setting="turned")])
    assert (
        "n_fg mixed; ahead in 1 of 2, clearly in 1, clearly behind in 1\n"
        in analysis.describe_arms(both)["H1"]
    )


# -- what is refused


def test_arm__refuses_labels_that_no_table_has(run: Run) -> None:
    with pytest.raises(ValueError, match=r"label is 'layer'; allowed: dataset, network, teacher, setting"):
        Arm({"layer": "fc1"}, run)
    with pytest.raises(TypeError, match="label dataset is 5"):
        Arm({"dataset": 5}, run)  # type: ignore[dict-item]


def test_tabulate_arms__refuses_what_has_no_rows(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arms is empty"):
        analysis.tabulate_arms([])
    with pytest.raises(ValueError, match=r"several arms have the labels .*'network': 'VGG-16'"):
        analysis.tabulate_arms([Arm({"network": "VGG-16"}, run)] * 2)
    with pytest.raises(ValueError, match="table is 'X'"):
        analysis.tabulate_arms([Arm({}, run)], table="X")
    counts = {
        ("student", "fc1"): {0: (6, 2)},
        ("baseline", "fc1"): {1: (6, 2)},
        ("student", "fc2"): {0: (6, 2)},
    }
    with pytest.raises(ValueError, match="arm mine: no layer has a student and a baseline of the same"):
        analysis.tabulate_arms([Arm({"dataset": "mine"}, make_run(tmp_path, counts))])
