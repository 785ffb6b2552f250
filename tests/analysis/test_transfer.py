"""Margins over the independent networks, against numbers by hand."""

import numpy as np
import pytest
import xarray as xr
from invented_runs import TEXTS, invent_text_run
from scipy import stats

from kdviz import schema
from kdviz.analysis import collect_points, doubt_teacher, find_undertrained, score_transfer

NETWORKS = ["teacher", "alone-s0", "alone-s1", "kl-s0"]
ROLES = ["teacher", "independent", "independent", "student"]


def make(values, headline, dims=("network", "sample"), coords=None, **attrs):
    values = np.asarray(values)
    known = {"network": NETWORKS, "role": ("network", ROLES), **(coords or {})}
    if "sample" in dims:
        known["sample"] = [str(k) for k in range(values.shape[dims.index("sample")])]
    ds = xr.Dataset({headline: (dims, values)}, known, {"property": "some", "headline": headline, **attrs})
    return schema.annotate(ds)


def row(table, network, part=""):
    (found,) = table[(table["network"] == network) & (table["part"] == part)].to_dict("records")
    return found


def test_score__is_compared_case_by_case_with_the_mean_of_independent_networks():
    same = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    table = score_transfer([make(np.array(same, bool), "same_answer")])
    student = row(table, "kl-s0")
    assert (student["score"], student["cases"], student["kind"]) == (0.75, 4, "kl")
    differences = np.array([0, 0.5, 1, 0])  # 1, 1, 1, 0 less 1, 0.5, 0, 0
    assert student["margin"] == differences.mean()
    low, high = stats.t.interval(0.95, 3, differences.mean(), stats.sem(differences))
    assert (student["margin_low"], student["margin_high"]) == pytest.approx((low, high))
    assert row(table, "alone-s0")["margin"] == -row(table, "alone-s1")["margin"] == -0.25, "over the other"


def test_score__of_fewer_than_two_cases_has_no_interval():
    once = np.array([[1, 1, 1], [1, np.nan, np.nan], [0, 1, 1], [1, 0, 1]], np.float32)
    student = row(score_transfer([make(once, "shape_decision")]), "kl-s0")
    assert student["margin"] == pytest.approx(2 / 3 - (1 + 2 / 3) / 2) and np.isnan(student["margin_low"])


def test_score__against_chance_leaves_out_what_is_undefined():
    closer = np.array([[np.nan] * 4, [0.5] * 4, [0.5] * 4, [1, 1, 0, np.nan]], np.float32)
    table = score_transfer([make(closer, "closer_map", chance=0.5)])
    student = row(table, "kl-s0")
    assert student["cases"] == 3 and student["margin"] == pytest.approx(2 / 3 - 0.5)
    assert np.isnan(row(table, "teacher")["score"]) and row(table, "teacher")["cases"] == 0


def test_score__of_cases_that_differ_between_networks_is_the_difference_of_means():
    """As of independent samples: the variance of a difference is the sum of those of the means."""
    own, others = np.array([1, 1, 0, np.nan, np.nan, np.nan]), np.array([np.nan, np.nan, np.nan, 1, 0, 0])
    decided = np.array([own, others, others, own], np.float32)
    student = row(score_transfer([make(decided, "shape_decision")]), "kl-s0")
    assert student["margin"] == pytest.approx(2 / 3 - 1 / 3) and student["cases"] == 3
    variance = 2 * (2 / 9) / 3 * 3 / 2  # of each mean 2/9 in 3 cases, corrected for 3
    width = stats.t.ppf(0.975, 2) * variance**0.5
    assert student["margin_high"] - student["margin"] == pytest.approx(width, rel=1e-6)


def test_score__has_a_row_for_each_domain():
    same = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1]], bool)
    domains = {"domain": ("sample", ["photo", "photo", "edges", "edges"])}
    table = score_transfer([make(same, "same_answer", coords=domains)])
    assert row(table, "kl-s0", "photo")["margin"] == 0.5 == row(table, "kl-s0", "edges")["margin"]
    assert row(table, "alone-s1", "photo")["score"] == 0.5 and row(table, "alone-s1", "edges")["score"] == 0


def test_score__of_changes_leaves_out_strength_zero():
    unchanged = np.ones((1, 3, 4, 2), bool)
    unchanged[0, 1:, 1:3] = False
    unchanged[0, 2, 3, 0] = False
    coords = {"change": ["blur"], "strength": (("change", "level"), [[0.0, 1.0, 2.0]])}
    dims = ("change", "level", "network", "sample")
    table = score_transfer([make(unchanged, "unchanged", dims, coords)])
    student = row(table, "kl-s0", "blur")
    assert student["score"] == 0.75 == student["margin"] and student["cases"] == 2


def test_score__kinds_are_names_without_their_seeds():
    names = ["teacher", "resnet18", "student-fc1-s0", "kl-1"]
    ds = make(np.ones((4, 2), bool), "same_answer").assign_coords(network=names)
    kinds = score_transfer([ds]).set_index("network")["kind"]
    assert kinds.tolist() == ["teacher", "resnet18", "student-fc1", "kl"]


def test_score__of_anything_else_is_refused():
    ds = make(np.ones((4, 2), bool), "same_answer")
    with pytest.raises(ValueError, match="results must be of the same networks"):
        score_transfer([ds, ds.assign_coords(network=["teacher", "a", "b", "c"])])
    with pytest.raises(ValueError, match="results must have an independent network"):
        score_transfer([ds.assign_coords(role=("network", ["teacher"] + ["student"] * 3))])
    with pytest.raises(ValueError, match="one lacks the attribute 'headline'"):
        score_transfer([xr.Dataset()])


def test_accuracy__is_a_property_of_its_own_and_tells_who_is_undertrained():
    right = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], bool)
    ds = make(np.ones((4, 4), np.float32), "shared_probability").assign(right=(("network", "sample"), right))
    ds = ds.assign_coords(label=("sample", [0, 1, 1, 2])).assign_attrs(
        property="confidence", teacher="teacher"
    )
    table = score_transfer([ds])
    assert list(dict.fromkeys(table["property"])) == ["accuracy", "confidence"]
    accuracy = table[table["property"] == "accuracy"].set_index("network")
    assert accuracy.loc["kl-s0", "score"] == 0.5 and accuracy.loc["kl-s0", "margin"] == 0.0
    assert find_undertrained(ds) == {"alone-s0": 0.25, "kl-s0": 0.5}  # half-way from 0.5 to 1 is 0.75
    assert find_undertrained(ds, 0.3) == {"alone-s0": 0.25}
    for first in ([1, 1, 0, 0], [0, 0, 0, 0]):  # a teacher that guesses, or worse, is no mark to come near
        guessing = ds.assign(right=(ds["right"].dims, np.array([first, *right[1:]], bool)))
        assert find_undertrained(guessing) == {}
        assert "alone-s0" in find_undertrained(guessing, 0.3)


def test_doubt_teacher__begins_where_a_binomial_test_says_no_more():
    """Of 40 samples, 10 of each class, 18 right ones are beyond guessing at a level of 0.01, 17 are not."""
    chance = stats.binom(40, 1 / 4)
    assert chance.sf(17) < 0.01 < chance.sf(16)
    for count, told in ((18, ""), (17, "the teacher 'teacher' is right on 17 of the 40 samples")):
        right = np.tile(np.arange(40) < count, (4, 1))
        ds = make(right, "right", coords={"label": ("sample", np.arange(40) % 4)}, teacher="teacher")
        assert doubt_teacher(ds).startswith(told) and bool(doubt_teacher(ds)) == bool(told)
    few = make(np.ones((4, 2), bool), "right", coords={"label": ("sample", [0, 1])}, teacher="teacher")
    assert doubt_teacher(few) == "", "always right, however few they are"
    majority = np.tile(np.arange(40) < 30, (4, 1))  # always gives the class of 30 samples
    ds = make(majority, "right", coords={"label": ("sample", 1 - majority[0])}, teacher="teacher")
    assert "right on 30 of the 40 samples" in doubt_teacher(ds)


def test_points__of_the_same_networks_are_rows_of_such_a_table(tmp_path):
    invented = invent_text_run(tmp_path / "run.zarr")
    names = list(invented.points)
    answers = make(np.ones((4, 2), bool), "same_answer").isel(network=slice(len(names)))
    roles = ["independent" if name.startswith("baseline") else name.split("-")[0] for name in names]
    answers = answers.assign_coords(network=names, role=("network", roles)).assign_attrs(teacher="teacher")
    (found,) = collect_points(invented.run, answers).values()
    counts = [len(text.split()) for text in TEXTS]
    for name in names:
        for at, count in enumerate(counts):
            known, foreground = invented.points[name][-1, at, :count], np.arange(count) % 3 == 1
            shares = found["points_share"].sel(network=name).isel(sample=at)
            expected = [
                known[foreground].mean() if foreground.any() else np.nan,
                known[~foreground].mean(),
                known[foreground].sum() / known.sum() if known.any() else np.nan,
            ]
            np.testing.assert_allclose(shares, expected, rtol=1e-6)
    table = score_transfer([found])
    assert table["part"].unique().tolist() == ["foreground", "background", "ratio"] and table["own"].all()
    (student,) = (name for name, role in zip(names, roles, strict=True) if role == "student")
    told = row(table, student, "ratio")
    ours, theirs = (found["points_share"].sel(side="ratio", network=one) for one in (student, "baseline-s0"))
    assert told["score"] == pytest.approx(float(ours.mean()))
    assert told["margin"] == pytest.approx(float(ours.mean() - theirs.mean()))


def test_points__need_a_layer_at_which_all_networks_are_measured(tmp_path):
    invented = invent_text_run(tmp_path / "run.zarr")
    assert collect_points(invented.run, make(np.ones((4, 2), bool), "same_answer")) == {}
