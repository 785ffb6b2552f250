"""What a run is said to show: every sentence against counts that are known, and what would spoil it above."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from invented_runs import draw_points, invent_seeds_run

import kdviz
from kdviz import analysis, schema, sources
from kdviz.analysis.arms import average_seeds
from kdviz.reports import parse_parameters
from kdviz.store import Run, create_run
from kdviz.wording import find_reach, say_interval, say_number

SAMPLES, UNITS, OBJECT = 12, 40, 12
FOREGROUND = np.broadcast_to(np.arange(UNITS) < OBJECT, (SAMPLES, UNITS)).copy()
EPOCHS = {"teacher": (9,), "student": (*range(7),), "baseline": (*range(7),)}
COUNTS = {  # points on foreground and background at the last epoch, by training seed
    ("student", "fc1"): {0: (6, 2), 1: (8, 3), 2: (7, 1)},
    ("baseline", "fc1"): {0: (4, 2), 1: (3, 3), 2: (5, 1)},
    ("student", "fc2"): {0: (9, 1), 1: (9, 1), 2: (9, 1)},
    ("baseline", "fc2"): {0: (5, 3), 1: (4, 4), 2: (3, 5)},
    ("teacher", "fc1"): {0: (10, 1)},
}
FOUR = ("a", "b", "c", "d")


def advised(doubt: str) -> dict[str, object]:
    """Read the parameters of a command that is advised, as the command does."""
    notebook, parameter = re.findall(r"`kdviz rerun (\w+) -p (\S+) -p run_path=RUN`", doubt)[0]
    return parse_parameters(notebook, [parameter])


def make_run(
    path: Path, counts: dict, *, accuracy: float | None = 0.8, taught: float | None = 0.9, empty: int = 0
) -> Run:
    """`empty` samples, the first, are without any point in students and baselines; `taught` the teacher's."""
    points = {
        (role, layer, seed): draw_points(FOREGROUND, *one, len(EPOCHS[role.partition("/")[0]]))
        for (role, layer), seeds in counts.items()
        for seed, one in seeds.items()
    }
    for (role, _, _), found in points.items():
        found[:, : empty if role != "teacher" else 0] = False
    told = None if accuracy is None else dict.fromkeys(points, accuracy)
    if told and taught is not None:
        told |= {key: taught for key in told if key[0] == "teacher"}
    return invent_seeds_run(path / "run", points, FOREGROUND, epochs=EPOCHS, accuracies=told, classes=FOUR)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> analysis.Verdict:
    return analysis.give_verdict(make_run(tmp_path_factory.mktemp("seeds"), COUNTS))


@pytest.fixture(scope="module")
def shared() -> tuple[Run, analysis.Verdict]:
    """A stored run of one epoch with properties of teacher and students, and UniCAM."""
    run = kdviz.open_run(sources.find_data("runs/transfer.nc"))
    return run, analysis.give_verdict(run)


# -- sentences


def test_give_verdict__says_every_count_as_worked_out_by_hand(seeds: analysis.Verdict) -> None:
    # fc1: 2, 5, 2 points more: 3, and t = 4.30 times sqrt(3 / 3). fc2: 4, 5, 6 more: 5, and 4.30 / sqrt(3).
    h1 = seeds.answers[0]
    assert (h1.question, h1.answer) == ("H1, more points, and more of them on the object", "partly yes")
    more, fewer, _ = map(str, h1.findings)
    assert more == (
        "more knowledge points on the object: yes at fc2 +5.0 per image (2.5 to 7.5), 9.0 against 4.0; "
        "undecided at fc1 +3.0 per image (-1.3 to 7.3), 7.0 against 4.0"
    )
    assert fewer == (
        "fewer knowledge points on the background: yes at fc2 -3.0 per image (-5.5 to -0.5), "
        "1.0 against 4.0; undecided at fc1 0 per image (0 to 0), 2.0 against 2.0"
    )
    assert seeds.doubts == ()
    assert seeds.notes[0].startswith("Intervals of H1 to H3: 95 %, over 3 training seeds (Student's t)")
    assert seeds.about["data"] == "12 images of 40 cells, invented"
    kinds = "6 students (student-fc1, student-fc2), 6 baselines (baseline-fc1, baseline-fc2)"
    assert seeds.about["networks"] == f"1 teacher, {kinds}"


def test_give_verdict__one_seed_is_judged_by_its_samples(tmp_path: Path) -> None:
    counts = {(role, layer): {0: ends[0]} for (role, layer), ends in COUNTS.items()}
    run = make_run(tmp_path, counts)
    table = analysis.tabulate_differences(analysis.pair_networks(run)).set_index(["layer", "metric"])
    compared = analysis.pair_networks(run)["fc2"].compare().sel(metric="n_fg")
    assert table.loc[("fc2", "n_fg"), "over"] == "samples" and table.loc[("fc2", "n_fg"), "seeds"] == 1
    for column, name in (("low", "difference_low"), ("high", "difference_high")):
        assert table.loc[("fc2", "n_fg"), column] == float(compared[name].item())
    assert (
        "over the images of one training; another training may differ" in analysis.give_verdict(run).notes[0]
    )


def test_give_verdict__seeds_that_differ_alike_are_judged_by_samples(tmp_path: Path) -> None:
    counts = {("student", "fc1"): {0: (6, 2), 1: (5, 2)}, ("baseline", "fc1"): {0: (5, 2), 1: (4, 2)}}
    run = make_run(tmp_path, counts, empty=5)  # 1 point more in 7 of 12 images, in both seeds
    pairs = analysis.pair_networks(run)
    table = analysis.tabulate_differences(pairs).set_index("metric")
    compared = pairs["fc1"].compare().sel(metric="n_fg")
    row = table.loc["n_fg"]
    assert (row["difference"], row["seeds"], row["over"]) == (pytest.approx(7 / 12), 2, "samples")
    assert row["low"] == compared["difference_low"].values.mean() < row["high"]
    told = analysis.give_verdict(run).notes
    assert any("of one training, or of several whose differences are equal" in note for note in told)
    rows = analysis.compare_layers(pairs)
    whole = average_seeds(rows[rows["metric"] == "n_fg"], 1)
    assert (whole["low"], whole["high"], whole["over"]) == (row["low"], row["high"], "samples")


@pytest.mark.parametrize("swapped", [False, True])
def test_tabulate_differences__answers_are_those_of_the_signs(tmp_path: Path, swapped: bool) -> None:
    """Students and baselines swapped, every answer turns round."""
    other = {"student": "baseline", "baseline": "student", "teacher": "teacher"}
    counts = {(other[role] if swapped else role, layer): one for (role, layer), one in COUNTS.items()}
    table = analysis.tabulate_differences(analysis.pair_networks(make_run(tmp_path, counts)))
    found = table.set_index(["layer", "metric"])["answer"]
    clear = "the other way" if swapped else "yes"
    assert found.loc[("fc2", ["n_fg", "n_bg", "fg_ratio"])].tolist() == [clear] * 3
    assert found.loc[("fc1", "n_fg")] == "undecided"
    assert "d_std" not in set(table["metric"])


def test_give_verdict__opposite_answers_are_mixed(tmp_path: Path) -> None:
    counts = COUNTS | {("student", "fc2"): {0: (9, 9), 1: (9, 9), 2: (9, 9)}}
    assert analysis.give_verdict(make_run(tmp_path, counts)).answers[0].answer == "mixed"


def test_give_verdict__many_places_are_cut_short(tmp_path: Path) -> None:
    counts = {}
    for index in range(7):
        counts[f"student/m{index}", "fc1"] = {0: (9, 1), 1: (9, 2), 2: (9, 3)}
    counts["baseline", "fc1"] = {0: (4, 1), 1: (3, 2), 2: (5, 3)}
    more = str(analysis.give_verdict(make_run(tmp_path, counts)).answers[0].findings[0])
    assert more.count("for m") == 5 and more.endswith("; 2 more")


@pytest.mark.parametrize(("empty", "answer"), [(5, "undecided"), (2, "yes")])
def test_give_verdict__fewer_than_ten_samples_that_are_left_decide_nothing(
    tmp_path: Path, empty: int, answer: str
) -> None:
    counts = {("student", "fc1"): {0: (9, 1)}, ("baseline", "fc1"): {0: (4, 1)}}
    verdict = analysis.give_verdict(make_run(tmp_path, counts, empty=empty))
    told = str(verdict.answers[0].findings[2])
    assert f"{answer} at fc1 +0.1" in told and f"(without {empty} images)" in told
    assert str(verdict.answers[0].findings[0]).startswith("more knowledge points on the object: yes")


def test_give_verdict__samples_without_points_are_left_out_and_told(tmp_path: Path) -> None:
    verdict = analysis.give_verdict(make_run(tmp_path, COUNTS, empty=5))
    assert any("Up to 5 of 12 images have no point, or none on the object" in note for note in verdict.notes)
    ratio = str(verdict.answers[0].findings[2])
    # of the samples that have points: 9 of 10 against 5 of 8, 4 of 8 and 3 of 8
    assert "0.90 against 0.50" in ratio


def test_give_verdict__as_text_begins_with_doubts(tmp_path: Path) -> None:
    text = str(analysis.give_verdict(make_run(tmp_path, COUNTS, accuracy=0.26)))
    first, second, *_ = text.splitlines()
    assert first.startswith("in doubt: accuracy hardly better than chance (0.25): ")
    assert second == "H1, more points, and more of them on the object: partly yes"


# -- what cannot be asked


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (("student", "teacher"), "the run has no baseline"),
        (("baseline",), "the run has no student"),
        (("teacher",), "the run has no student and no baseline"),
    ],
)
def test_give_verdict__of_roles_that_are_missing_says_which(tmp_path: Path, left: tuple, why: str) -> None:
    counts = {(role, layer): one for (role, layer), one in COUNTS.items() if role in left}
    verdict = analysis.give_verdict(make_run(tmp_path, counts))
    assert [one.answer for one in verdict.answers] == ["cannot be asked"] * 3
    (told,) = {str(finding) for one in verdict.answers for finding in one.findings}
    assert told.startswith(f"{why}; any two networks are compared by `kdviz.compare(")


def test_give_verdict__other_seeds_have_nothing_to_compare(tmp_path: Path) -> None:
    counts = {("student", "fc1"): {0: (6, 2)}, ("baseline", "fc1"): {1: (4, 2)}}
    (finding,) = analysis.give_verdict(make_run(tmp_path, counts)).answers[0].findings
    assert str(finding) == "no student and baseline of one training seed are measured at the same layer"


def test_give_verdict__without_masks_says_how_to_add_them(tmp_path: Path) -> None:
    samples = xr.Dataset(coords={"sample": ["s0", "s1"], "unit": np.arange(UNITS)})
    verdict = analysis.give_verdict(create_run(tmp_path / "run.zarr", samples=samples))
    assert str(verdict.answers[0].findings[0]).startswith("no masks say what the object is; `kdviz.store.add")


def test_give_verdict__one_checkpoint_says_nothing_of_the_way(shared: tuple) -> None:
    """With a single checkpoint after the start every rho is 1, whatever was learned."""
    answers = {one.question[:2]: one.answer for one in shared[1].answers[:3]}
    assert answers == {"H1": "partly yes", "H2": "cannot be asked", "H3": "cannot be asked"}
    told = [finding.parts for one in shared[1].answers[1:3] for finding in one.findings]
    assert told == [(("undefined", "everywhere"),)] * 3


# -- doubts


def test_give_verdict__of_an_empty_run_says_so(tmp_path: Path) -> None:
    samples = xr.Dataset(
        {"foreground": (("sample", "unit"), FOREGROUND)},
        coords={"sample": [f"s{index}" for index in range(SAMPLES)], "unit": np.arange(UNITS)},
    )
    verdict = analysis.give_verdict(create_run(tmp_path / "run.zarr", samples=samples))
    assert verdict.doubts[0].startswith("nothing is measured yet")
    assert verdict.about["networks"] == "none" and verdict.about["run"] == "run"


def test_give_verdict__judges_what_is_whole_of_a_run_that_is_not(tmp_path: Path) -> None:
    run = make_run(tmp_path, COUNTS)
    attrs = schema.make_attrs(network_role="student", training_seed=3, base_noise=0.01, weight=7.0)
    run.create_group("late", "fc1", epochs=(0, 2, 5), attrs=attrs, block=4, variables=("gain",))
    verdict = analysis.give_verdict(run)
    assert verdict.doubts[0].startswith(
        "incomplete: 1 of 14 networks unfinished: late (fc1: 9 of 9 blocks to do)"
    )
    assert str(verdict.answers[0].findings[0]).startswith(
        "more knowledge points on the object: yes at fc2 +5.0"
    )


def test_give_verdict__accuracies_beside_chance(tmp_path: Path) -> None:
    # a tenth of the way from a chance of 0.25 to 1
    (doubt,) = analysis.give_verdict(make_run(tmp_path / "a", COUNTS, accuracy=0.32)).doubts
    assert "chance (0.25)" in doubt and "(0.32)" in doubt and "and 8 more" in doubt
    assert analysis.give_verdict(make_run(tmp_path / "b", COUNTS, accuracy=0.33)).doubts == ()
    (doubt,) = analysis.give_verdict(make_run(tmp_path / "c", COUNTS, accuracy=None)).doubts
    assert doubt.startswith("accuracy not recorded: all networks")


@pytest.mark.parametrize(
    ("alone", "taught", "told"),
    [
        (0.80, 0.81, True),  # a tenth of the way from 0.80 to 1 is 0.82
        (0.80, 0.83, False),
        (0.80, 0.60, True),
        (0.94, 0.945, True),
        (1.00, 1.00, False),  # nobody can be better
        (0.96, 0.95, False),
        (0.50, 0.30, False),  # hardly better than chance, which is a doubt of its own
    ],
)
def test_give_verdict__a_teacher_hardly_better_than_baselines_is_a_doubt(
    tmp_path: Path, alone: float, taught: float, told: bool
) -> None:
    doubts = analysis.give_verdict(make_run(tmp_path, COUNTS, accuracy=alone, taught=taught)).doubts
    said = (
        f"teacher hardly better than networks without one: teacher-fc1-s0 ({taught:.2f}) beside {alone:.2f}; "
        "there is little to copy that students would not learn alone"
    )
    assert [doubt for doubt in doubts if "teacher" in doubt and "chance" not in doubt] == [said] * told


def test_give_verdict__few_points_are_a_doubt(tmp_path: Path) -> None:
    counts = {("student", "fc1"): {0: (0, 0)}, ("baseline", "fc1"): {0: (4, 2)}}
    (doubt,) = analysis.give_verdict(make_run(tmp_path, counts)).doubts
    assert doubt.startswith("less than one knowledge point per image: ") and " at fc1 (0); " in doubt
    assert "`kdviz report RUN --threshold 0.1`" in doubt, "rerun without run_path would show another run"


def test_give_verdict__sides_that_differ_in_more_than_the_teacher_are_a_doubt(tmp_path: Path) -> None:
    run = make_run(tmp_path, {("student", "fc1"): {0: (6, 2)}, ("baseline", "fc1"): {0: (4, 2)}})
    (pair,) = analysis.pair_networks(run).values()

    assert analysis.give_verdict(run, {"fc1": pair}).doubts == ()
    kinds = {
        f"{role}s": {0: pair.by_role[role][0].assign_attrs(architecture=kind)}
        for role, kind in (("student", "small"), ("baseline", "large"))
    }
    (doubt,) = analysis.give_verdict(run, {"fc1": replace(pair, **kinds)}).doubts
    assert doubt.endswith("more than the teacher: student small, baseline large (at fc1, seed 0)")
    other = pair.baselines[0].copy()
    other["entropy"] = other["entropy"].assign_attrs(weight=4.0)
    verdict = analysis.give_verdict(run, {"fc1": replace(pair, baselines={0: other})})
    assert verdict.doubts[0].endswith("entropies of weight 6.0 and 4.0, not compared (at fc1, seed 0)")
    assert verdict.answers[0].answer == "cannot be asked"
    early = replace(pair, baselines={0: pair.baselines[0].isel(epoch=slice(-1))})
    (doubt,) = analysis.give_verdict(run, {"fc1": early}).doubts
    assert doubt.endswith("student at epoch 6, baseline at epoch 5 (at fc1, seed 0)")


def test_give_verdict__entropies_that_are_not_calibrated_are_a_doubt(tmp_path: Path) -> None:
    run = make_run(tmp_path, {("student", "fc1"): {0: (6, 2)}, ("baseline", "fc1"): {0: (4, 2)}})
    (pair,) = analysis.pair_networks(run).values()
    met = pair.students[0]["converged"].copy(data=np.arange(7 * SAMPLES).reshape(7, -1) % 4 > 0)
    unmet = replace(pair, students={0: pair.students[0].assign(converged=met)})
    (doubt,) = analysis.give_verdict(run, {"fc1": unmet}).doubts
    assert "could not be calibrated: student-fc1-s0 at fc1 (25%)" in doubt
    assert advised(doubt) == {"calibration": 0.2}


@pytest.mark.parametrize(("checkpoints", "told"), [(4, True), (5, False)])
def test_give_verdict__few_checkpoints_are_a_doubt(tmp_path: Path, checkpoints: int, told: bool) -> None:
    run = make_run(tmp_path, {("student", "fc1"): {0: (6, 2)}, ("baseline", "fc1"): {0: (4, 2)}})
    (pair,) = analysis.pair_networks(run).values()
    ours, theirs = (one[0].isel(epoch=slice(-checkpoints, None)) for one in (pair.students, pair.baselines))
    doubts = analysis.give_verdict(run, {"fc1": replace(pair, students={0: ours})}).doubts
    epochs = ", ".join(map(str, range(7 - checkpoints, 7)))
    said = f"come and go unseen: student-fc1-s0 (epochs {epochs}); H2 and H3 rest on them"
    assert [one.endswith(said) for one in doubts] == [True] * told
    both = replace(pair, students={0: ours.isel(epoch=[-1])}, baselines={0: theirs.isel(epoch=[-1])})
    assert not analysis.give_verdict(run, {"fc1": both}).doubts, "of one, H2 and H3 are undefined"


def test_tabulate_accuracy__what_is_told_of_one_epoch_hides_no_other(tmp_path: Path) -> None:
    run = make_run(tmp_path, COUNTS)
    kdviz.store.describe(run.path, accuracy={"student-fc1-s0": {0: 0.25}})
    known = kdviz.open_run(run.path)
    assert analysis.tabulate_accuracy(known).loc["student-fc1-s0", "accuracy"] == 0.8
    table = analysis.describe_measurement(analysis.pair_networks(known)).set_index(["layer", "role", "seed"])
    assert table.loc[("fc1", "student", 0), "accuracy"] == 0.8
    assert analysis.describe_accuracy(known, ["student-fc1-s0"]) == (
        "student-fc1-s0 0.80 (chance 0.25, classes a, b, c, d)"
    )


@pytest.mark.parametrize(("idle", "told"), [(0.4, False), (0.6, True)])
def test_give_verdict__a_layer_that_nothing_moves_is_a_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: float, told: bool
) -> None:
    run = make_run(tmp_path, COUNTS)
    name = next(name for name in run.networks if name.startswith("student"))
    counts, read = np.zeros((7, SAMPLES), np.int32), schema.VARIABLES["zero_gain"].dims
    counts[-1] = round(idle * UNITS)
    values, stored = xr.DataArray(counts, dims=read), run.variable
    changed = {(name, run.layers(name)[0], "zero_gain"): values}
    monkeypatch.setattr(run, "variable", lambda *at: changed[at] if at in changed else stored(*at))
    doubts = analysis.give_verdict(run).doubts
    assert [f"{name} (60%)" in doubt for doubt in doubts] == ([True] if told else [])


@pytest.mark.parametrize(("share", "told"), [(0.85, False), (0.95, True)])
def test_give_verdict__points_that_max_pooling_leaves_out_are_no_doubt(
    monkeypatch: pytest.MonkeyPatch, share: float, told: bool
) -> None:
    run = kdviz.open_run(sources.find_data("runs/furniture.nc"))
    name = next(name for name in run.networks if name.startswith("student"))
    at, read = (name, run.layers(name)[0], "zero_gain"), run.variable
    idle = xr.full_like(read(*at), round(share * run.samples.sizes["unit"]))
    monkeypatch.setattr(run, "variable", lambda *asked: idle if asked == at else read(*asked))
    doubts = analysis.give_verdict(run).doubts
    assert any(f"{name} ({share:.0%})" in doubt and "do not move" in doubt for doubt in doubts) == told


# -- properties


def test_give_verdict__tells_each_property_by_the_margins_of_all_networks(shared: tuple) -> None:
    run, verdict = shared
    answer = next(one for one in verdict.answers if "like the teacher" in one.question)
    rows = analysis.score_transfer(analysis.read_transfer(run).values())
    rows = rows[(rows["role"] == "student") & ~rows["own"]]
    claims = [one.claim for one in answer.findings]
    titles = [title.rstrip(":") for title in dict.fromkeys(rows["title"])]
    plain = claims.index("answers as the teacher, samples as they are")
    assert claims[plain + 1] == (
        "answers as the teacher, in edges, silhouette, stylised, sketch, inverted"
    ), "each domain weighs as much, and those of photographs are what is asked most"
    assert [one for at, one in enumerate(claims) if at not in (plain, plain + 1)] == [
        one for one in titles if one != "answers as the teacher"
    ]
    alone = rows[(rows["part"] == "as they are") & (rows["kind"] == "student-fc1")]
    told = ";".join(numbers for _, numbers in answer.findings[plain].parts)
    assert f"fc1 {say_number(alone['margin'].mean(), sign=True)}" in told
    looks = rows[(rows["title"] == "looks at the same places") & (rows["kind"] == "student-fc1")]
    assert (looks["margin_low"] > 0).all() and len(looks) == 2
    told = dict(next(one for one in answer.findings if one.claim == "looks at the same places").parts)
    assert f"fc1 +{looks['margin'].mean():.2f} (clear in 2 of 2)" in told["yes"]
    assert "soft-labels" in told["the other way"] and "the other way in 2 of 2" in told["the other way"]
    assert answer.answer == "mixed"


def test_give_verdict__properties_without_an_independent_network_are_no_question(
    shared: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, verdict = shared
    asked = {
        name: ds.isel(network=ds["role"].values != "independent")
        for name, ds in analysis.read_transfer(run).items()
        if name == "confidence"
    }
    monkeypatch.setattr("kdviz.analysis.verdict.read_transfer", lambda _: asked)
    left = {one.question for one in verdict.answers} - {
        one.question for one in analysis.give_verdict(run).answers
    }
    assert left == {
        "Students are more like the teacher than networks trained without one",
        "Students share what sets the teacher apart from networks trained without one, good or bad",
    }


def test_give_verdict__seeds_are_told_where_they_differ(tmp_path: Path) -> None:
    counts = COUNTS | {("student", "fc2"): {0: (9, 1)}}
    more = str(analysis.give_verdict(make_run(tmp_path, counts)).answers[0].findings[0])
    assert "at fc1 +3.0 per image (-1.3 to 7.3), 7.0 against 4.0 (of seeds: 3)" in more
    assert more.count("(of seeds: 1)") == 1


def test_give_verdict__sides_differ_by_what_is_told(tmp_path: Path) -> None:
    counts = {("student", "fc1"): {0: (8, 0), 1: (2, 0), 2: (3, 0)}, ("baseline", "fc1"): {}}
    counts["baseline", "fc1"] = {0: (0, 0), 1: (4, 0), 2: (12, 0)}
    more = str(analysis.give_verdict(make_run(tmp_path, counts)).answers[0].findings[0])
    # 13 / 3 against 16 / 3: in whole numbers, as the interval, 4 and 5; 14 / 3 and 16 / 3 would be 5 and 5
    assert "at fc1 -1 per image (-22 to 20), 4 against 5" in more
    counts["student", "fc1"][0] = (9, 0)
    more = str(analysis.give_verdict(make_run(tmp_path / "b", counts)).answers[0].findings[0])
    assert "at fc1 -1 per image (-23 to 22), 4.7 against 5.3" in more


def test_give_verdict__tells_what_sets_the_teacher_apart_and_who_has_it_too(shared: tuple) -> None:
    run, verdict = shared
    rows = analysis.score_transfer(analysis.read_transfer(run).values())
    rows = rows[rows["own"]]
    taught = rows[rows["role"] == "teacher"]
    apart = taught[(taught["margin_low"] > 0) | (taught["margin_high"] < 0)]
    answer = next(one for one in verdict.answers if "sets the teacher apart" in one.question)
    names = [finding.claim.partition(" (teacher")[0] for finding in answer.findings]
    assert names == (apart["title"] + " " + apart["part"]).str.strip().tolist()
    for finding, margin in zip(answer.findings, apart["margin"], strict=True):
        side = "higher" if margin > 0 else "lower"
        assert finding.claim.endswith(f" (teacher {side} by {say_number(abs(margin))})")
    noise = str(answer.findings[names.index("same answer after noise")])
    kl = rows[(rows["part"] == "noise") & (rows["kind"] == "student-kl")]
    assert (kl["margin_high"] < 0).all(), "as the teacher's"
    assert f"yes kl {say_number(kl['margin'].mean(), sign=True)} (clear in 2 of 2)" in noise


def test_give_verdict__unicam_counts_intervals_that_lie_apart(shared: tuple) -> None:
    run, verdict = shared
    seen, alike = verdict.answers[-2:]
    table = analysis.tabulate_relevance(analysis.read_room(run, "unicam-scores").values())
    table = table[(table["input"] == table["input"].iloc[0]) & (table["layer"] == "classifier.fc1")]
    for answer, name, scores in (
        (seen, "relevance", ("rs distilled", "rs residual")),
        (alike, "similarity", ("fss student-teacher", "fss base-teacher")),
    ):
        ours, theirs = (table[table["score"] == score].set_index("student") for score in scores)
        more = (ours["value_low"] > theirs["value_high"]).sum()
        less = (ours["value_high"] < theirs["value_low"]).sum()
        sides = " against ".join(say_number(one["value"].mean()) for one in (ours, theirs))
        assert f"(more in {more} of {len(ours)} students, less in {less}; {name} {sides})" in str(
            answer.findings[-1]
        )
        assert "UniCAM" in answer.question


def test_give_verdict__unicam_goes_by_differences_of_the_same_samples(
    shared: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = shared
    read = analysis.verdict.read_room

    def ahead(run: Run, room: str) -> dict[str, xr.Dataset]:
        found = read(run, room)
        if room != "unicam-scores":
            return found
        alike = {"fss_ahead": 0.1, "fss_ahead_low": 0.05, "fss_ahead_high": 0.15}
        return {name: ds.assign({key: ds["rs_distilled"] * 0 + value for key, value in alike.items()})
                for name, ds in found.items()}  # fmt: skip

    monkeypatch.setattr("kdviz.analysis.verdict.read_room", ahead)
    seen, alike = analysis.give_verdict(run).answers[-2:]
    assert alike.answer == "yes" and "more in 12 of 12 students, less in 0" in str(alike.findings[0])
    assert seen == shared[1].answers[-2], "which has no differences, goes by both intervals"


def test_give_verdict__decides_nothing_between_networks_without_a_teacher(
    shared: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intervals over samples are narrow; here two baselines lie as far apart as they can."""
    run, _ = shared
    known = analysis.read_transfer(run)
    same = known["consensus"]["same_answer"].copy(deep=True)
    same.loc["baseline-s0"], same.loc["baseline-s1"] = True, False
    known["consensus"] = known["consensus"].assign(same_answer=same)
    monkeypatch.setattr("kdviz.analysis.verdict.read_transfer", lambda _: known)
    answer = next(one for one in analysis.give_verdict(run).answers if "like the teacher" in one.question)
    findings = [one for one in answer.findings if one.claim.startswith("answers as the teacher")]
    assert [[told for told, _ in one.parts] for one in findings] == [["undecided"], ["undecided"]]


@pytest.mark.parametrize(
    ("level", "told"), [(0.0, "(all networks are at 0)"), (np.nan, "(there is no such case)")]
)
def test_give_verdict__a_likeness_that_is_the_same_for_all_is_undefined(
    shared: tuple, monkeypatch: pytest.MonkeyPatch, level: float, told: str
) -> None:
    run, _ = shared
    known = analysis.read_transfer(run)
    fooled = known["adversarial"]["fooled_by_teacher"].copy(deep=True)
    others = known["adversarial"]["role"].values != "teacher"
    fooled[others] = np.where(np.isnan(fooled[others]), np.nan, level)
    known["adversarial"] = known["adversarial"].assign(fooled_by_teacher=fooled)
    monkeypatch.setattr("kdviz.analysis.verdict.read_transfer", lambda _: known)
    answer = next(one for one in analysis.give_verdict(run).answers if "like the teacher" in one.question)
    (finding,) = (one for one in answer.findings if "attacks" in one.claim)
    assert finding.parts == (("undefined", told),)


@pytest.fixture
def doubts_of(
    shared: tuple, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, np.ndarray]], set[str]]:
    """Return a function that tells which doubts come up where networks answer otherwise."""
    run, verdict = shared

    def doubt(variable: str, answers: dict[str, np.ndarray]) -> set[str]:
        known = analysis.read_transfer(run)
        values = known["confidence"][variable].copy(deep=True)
        for name, found in answers.items():
            values.loc[name] = found
        known["confidence"] = known["confidence"].assign({variable: values})
        monkeypatch.setattr("kdviz.analysis.verdict.read_transfer", lambda _: known)
        return {*analysis.give_verdict(run).doubts} - {*verdict.doubts}

    return doubt


def test_give_verdict__doubts_answers_that_do_not_depend_on_the_sample(doubts_of: Callable) -> None:
    at = np.arange(1000)
    constant = {
        name: np.where(at < count, 3, at % 10) for name, count in (("baseline-s0", 960), ("baseline-s1", 930))
    }
    (doubt,) = doubts_of("predicted", constant)
    assert doubt.startswith("one class for nearly all images that were asked about: baseline-s0 (96%); that")


def test_give_verdict__doubts_a_teacher_that_may_be_guessing(doubts_of: Callable) -> None:
    (doubt,) = doubts_of("right", {"teacher": np.arange(1000) % 10 == 0})  # of ten classes
    assert doubt.startswith("the teacher 'teacher' is right on 100 of the 1000 samples")
    assert "no more than who guesses" in doubt


# -- words


@pytest.mark.parametrize(
    ("value", "reach", "said"),
    [
        (12.345, 1.1, "12.3"),
        (12.345, 11, "12"),
        (-0.001, 0.3, "0.00"),
        (0.00123, np.nan, "0.0012"),
        (0.5495, np.nan, "0.55"),
        (1234.5, np.nan, "1234"),
        (0, np.nan, "0"),
        (np.nan, 1, "–"),
        (1e-9, np.nan, "0.000000"),
    ],
)
def test_say_number__keeps_two_digits_of_what_is_uncertain(value: float, reach: float, said: str) -> None:
    assert say_number(value, reach) == said


def test_say_interval__never_writes_an_end_apart_from_zero_as_zero() -> None:
    assert say_interval(13.0, 0.09, 25.9) == "+13.0 (0.1 to 25.9)"
    assert say_number(13.0, find_reach(0.09, 25.9)) == "13.0", "what stands beside has as many digits"
    assert say_interval(4.66, 2.13, 7.31, " per image") == "+4.7 per image (2.1 to 7.3)"
    assert say_interval(-0.40214, -0.80408, -0.0002) == "-0.4021 (-0.8041 to -0.0002)"
    assert say_interval(0.0, 0.0, 0.0) == "0 (0 to 0)"
    assert say_interval(1.5, np.nan, np.nan) == "+1.5"
