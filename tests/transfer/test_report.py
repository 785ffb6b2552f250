"""All properties at once, kept one by one in a run, and asked again only where something has changed."""

import re
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from kdviz import analysis, testing, transfer
from kdviz.errors import KdvizWarning, StoreError
from kdviz.store import create_run
from kdviz.transfer.report import PROPERTIES, describe

ASKED = ("confidence", "consensus", "invariance")


def move_on(sample, strength, generator):
    """Show the sample that comes so many places later."""
    return (sample + strength) % 8


MOVED = {"changes": {"move": move_on}, "strengths": {"move": (1, 2)}, "kind": "other"}


def make_run(path):
    samples = xr.Dataset({"valid": (("sample", "unit"), np.ones((2, 1), bool))})
    return create_run(path, samples=samples.assign_coords(sample=["a", "b"], unit=[0]))


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def asked(tables, numbered, labels):
    options = {"teacher": "teacher", "independent": "alone", "properties": ASKED, "progress": False}
    options |= {"settings": {"invariance": MOVED}}
    return lambda **more: transfer.report(tables, numbered, labels, **{**options, **more})


def count_passes(networks):
    passes = []
    for network in networks.values():
        network.register_forward_hook(lambda *_: passes.append(1))
    return passes


def test_report__is_what_each_property_says_by_itself(asked, tables, numbered, labels):
    found = asked()
    assert list(found) == list(ASKED)
    options = {"teacher": "teacher", "independent": "alone", "progress": False}
    alone = transfer.invariance(tables, numbered, labels, **options, **MOVED)
    xr.testing.assert_equal(found["invariance"], alone)
    unmoved = alone["unchanged"].sel(network="teacher", change="move")[1]
    np.testing.assert_array_equal(unmoved, [0, 0, 0, 0, 0, 0, 1, 1])  # of 0 1 2 0 1 2 0 0
    np.testing.assert_array_equal(found["consensus"]["same_answer"].mean("sample"), [1, 0.5, 7 / 8])


def test_report__of_a_path_without_a_run_is_refused_before_any_pass(asked, tables, tmp_path):
    passes = count_passes(tables)
    with pytest.raises(StoreError, match=r"no run at .*none"):
        asked(store=tmp_path / "none")
    assert not passes


def test_report__finished_is_read_without_a_pass_and_changed_is_asked_again(asked, run, tables):
    first = asked(store=run.path)
    assert run.results == [f"transfer/{name}" for name in sorted(ASKED)]
    passes = count_passes(tables)
    again = asked(store=run, properties=["consensus"])
    assert len(passes) == len(tables)  # one sample shows that networks fit each other
    for name in ("confidence", "consensus"):
        xr.testing.assert_equal(again[name], first[name])
    asked(store=run)
    assert len(passes) > 2 * len(tables), "a function of one's own is asked anew"
    tables["student"].answers[0] = 2
    changed = asked(store=run)
    assert changed["consensus"]["same_answer"].sel(network="student").sum() == 6
    xr.testing.assert_equal(run.result("transfer/consensus"), changed["consensus"])


def test_report__stopped_goes_on_behind_what_is_kept(asked, run, tmp_path, monkeypatch):
    def stop(one):
        def ask(*_, **__):
            raise KeyboardInterrupt

        return replace(one, ask=wraps(one.ask)(ask))

    whole = asked(store=make_run(tmp_path / "whole"))
    properties = dict(transfer.PROPERTIES)
    monkeypatch.setitem(transfer.PROPERTIES, "invariance", stop(properties["invariance"]))
    with pytest.raises(KeyboardInterrupt):
        asked(store=run)
    assert "1 of 3 results missing: transfer/invariance" in run.gaps()
    for name in ("confidence", "consensus"):
        monkeypatch.setitem(transfer.PROPERTIES, name, stop(properties[name]))
    monkeypatch.setitem(transfer.PROPERTIES, "invariance", properties["invariance"])
    found = asked(store=run)
    for name in ASKED:
        xr.testing.assert_equal(found[name], whole[name])
    assert run.gaps() == ""


def test_report__knows_what_no_weight_tells(asked, run, tables, numbered):
    """A plain attribute, names of samples and defaults decide results, too."""
    first = asked(store=run)["confidence"]["certainty"]
    tables["student"].sure = 0.5
    second = asked(store=run)["confidence"]["certainty"]
    assert (second.sel(network="student") < 0.5).all() and (first.sel(network="student") > 0.9).all()
    named = asked(store=run, sample_ids=list("abcdefgh"))["consensus"]
    assert named["sample"].values.tolist() == list("abcdefgh")


def test_describe__tells_values_apart_and_never_trusts_a_name():
    first, second = np.zeros(3000), np.zeros(3000)
    second[1500] = 1
    assert describe({"ids": first}) != describe({"ids": second}) == describe({"ids": second.copy()})
    assert describe({"a": (1, 2.0), "b": None}) == describe({"b": None, "a": [1, 2.0]})
    assert describe(move_on) != describe(move_on)


def test_report__puts_domains_one_after_another(asked, numbered):
    domains = {"mirrored": numbered.flip(0)}
    ds = asked(domains=domains, properties=["consensus"])["consensus"]
    shares = ds["same_answer"].groupby("domain").mean()
    np.testing.assert_array_equal(shares.sel(network="alone"), [0.5, 0.5])
    assert ds["sample"].values[[0, 8]].tolist() == ["as they are/0", "mirrored/0"]
    np.testing.assert_array_equal(ds["right"].sel(network="teacher")[8:].values.sum(), 3)


def test_report__tells_accuracy_by_groups_that_are_named(asked, run, labels):
    told = {"settings": {"bias": {"group": np.array(list("xxxxyyyy"))}}, "properties": ["bias"], "store": run}
    ds = asked(**told)["bias"]
    right = ds["right"].groupby("group").mean()
    np.testing.assert_array_equal(right.sel(group="y"), [0.75, 0.25, 0.5])
    table = analysis.score_transfer([run.result("transfer/bias")]).set_index(["part", "network"])
    assert table["own"].all() and table["title"].unique().tolist() == ["is right on"]
    assert table.loc["y", "margin"].to_dict() == {
        "teacher": 0.5,
        "alone": pytest.approx(np.nan, nan_ok=True),
        "student": 0.25,
    }
    xr.testing.assert_identical(asked(**told)["bias"], run.result("transfer/bias"))
    other = asked(**told | {"settings": {"bias": {"group": list("xxyyxxyy")}}})["bias"]
    np.testing.assert_array_equal(other["right"].groupby("group").mean().sel(group="y"), [0.75, 0.75, 0.5])


def test_report__of_groups_that_do_not_fit_is_refused_before_any_pass(asked, tables):
    passes = count_passes(tables)
    with pytest.raises(ValueError, match="bias cannot be asked of these inputs: it needs the group of each"):
        asked(properties=["bias"])
    with pytest.raises(ValueError, match="group must name each of the 8 samples, got 2"):
        asked(settings={"bias": {"group": ["x", "y"]}})
    assert len(passes) == 2 * len(tables), "one sample shows that networks fit each other"


def test_report__of_a_teacher_that_guesses_is_told_of_and_given(tables, numbered):
    """One that learned a shortcut guesses where it is missing, and is worth asking."""
    tables["teacher"].answers[:] = 0
    asked = {"teacher": "teacher", "independent": "alone", "properties": ["consensus"], "progress": False}
    with pytest.warns(
        KdvizWarning, match=r"'teacher' is right on 4 of the 8 samples .*, no more than who guesses"
    ) as told:
        found = transfer.report(tables, numbered, [0, 0, 0, 0, 1, 1, 2, 2], **asked)
    assert len(told) == 1 and told[0].filename == __file__
    assert found["consensus"]["same_answer"].sel(network="teacher").all()


def test_report__says_what_it_cannot_ask(asked):
    with pytest.raises(ValueError, match="properties is 'localisation'; did you mean 'localization'"):
        asked(properties=["localisation"])
    with pytest.raises(ValueError, match="settings is 'boundry'; did you mean 'boundary'"):
        asked(settings={"boundry": {}})
    with pytest.raises(
        ValueError, match="shape_bias cannot be asked of these inputs: it needs cue_conflict="
    ):
        asked(properties=["shape_bias"])


def test_report__asks_images_everything():
    networks = {
        name: testing.small_cnn(seed=seed) for seed, name in enumerate(("teacher", "alone", "student"))
    }
    images = transfer.Pixels().write(torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for network in networks.values():  # no class is given to all
            network.fc2.bias -= network.eval()(images).mean(0)
        labels = networks["teacher"](images).argmax(1).numpy()
    about = {"teacher": "teacher", "independent": "alone", "progress": False}
    few = {"settings": {"boundary": {"triplets": 2, "resolution": 4}}}
    for name, told in (
        ("adversarial", {}),
        ("invariance", {"properties": ["invariance"]}),
        ("invariance", {"settings": {"adversarial": {"pixels": transfer.Pixels()}}}),
    ):
        with pytest.raises(ValueError, match=rf"{name} works on pixels of 0 to 1 and cannot know how"):
            transfer.report(networks, images, labels, **about, **told)
    found = transfer.report(networks, images, labels, **about, properties=["consensus", "localization"])
    assert {*found} == {"confidence", "consensus", "localization"}, "which need no pixels"
    found = transfer.report(networks, images, labels, **about, **few, pixels=transfer.Pixels())
    assert {*found} == {*PROPERTIES} - {"shape_bias", "bias"}


def test_report__knows_answers_that_are_kept_from_before_pixels_had_to_be_said():
    assert describe({"pixels": transfer.Pixels()}) == describe({"pixels": None})
    assert describe(transfer.Pixels((0.5,), (0.5,))) != describe(None)


@pytest.mark.parametrize("told", [False, True])
def test_report__asks_words_what_it_may_change(told):
    """A teacher that is always right is trained, however few samples say so; words need to be told."""
    ids = torch.randint(1, 9, (6, 5), generator=torch.Generator().manual_seed(0))
    networks = {name: Words(seed) for seed, name in enumerate(("teacher", "alone"))}
    labels = networks["teacher"](ids).argmax(1).numpy()
    settings = {"invariance": {"special_ids": [0], "changes": ["order"]}} if told else {}
    found = transfer.report(
        networks, ids, labels, teacher="teacher", independent="alone", settings=settings, progress=False
    )
    assert {*found} == {"confidence", "consensus", "representation"} | ({"invariance"} if told else set())
    assert found["confidence"]["right"].sel(network="teacher").all()
    if told:  # sums know no order
        assert found["invariance"]["unchanged"].all()
    asked = {"teacher": "teacher", "independent": "alone", "progress": False}
    wrong = (labels + 1) % 3
    with pytest.warns(KdvizWarning, match=r"padded rows come with their mask, {'input_ids': ids, 'attention"):
        transfer.report(networks, ids, wrong, **asked)
    lacking = {"invariance": {"special_ids": [0]}}
    with pytest.raises(ValueError, match="settings of 'invariance' lack mask_id, what stands for a word"):
        transfer.report(networks, ids, labels, settings=lacking, **asked)


class Words(torch.nn.Module):
    """Sums seeded scores of token ids."""

    def __init__(self, seed):
        super().__init__()
        self.scores = torch.nn.Embedding(9, 3)
        self.scores.weight.data = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))

    def forward(self, ids):
        return self.scores(ids).sum(1)


def test_api_page__shows_code_that_runs(run, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "api" / "transfer.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names = {name: testing.small_cnn(seed=seed) for seed, name in enumerate(("teacher", "alone0", "alone1"))}
    names |= {"student0": testing.small_cnn(seed=3), "student1": testing.small_cnn(seed=4)}
    images = transfer.Pixels().write(torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        names["teacher"].fc2.bias -= names["teacher"].eval()(images).mean(0)
        labels = names["teacher"](images).argmax(1).numpy()
    monkeypatch.chdir(tmp_path)
    exec(code, names | {"images": images, "labels": labels, "run": run})
    assert (tmp_path / "shared.png").stat().st_size > 10_000
