"""Which maps of a study's networks survive rescaled weights, from the command line to report and app."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from invented_runs import invent_text_run
from tiny_study import finished_study
from torch import nn

import kdviz
from kdviz import analysis, cli, coherency
from kdviz.networks import load_weights
from kdviz.studies import Study, auditing
from kdviz.studies.tasks import Subject
from kdviz.studies.work import Workshop
from kdviz.widgets import explore

MAPPED = "features"  # where attribution maps are drawn
NAMES = ("teacher", "baseline-s0", "student-fc1-s0")
METHODS = ["input_gradient", "layer_gradient", "activation", "grad_cam", "guided_grad_cam", "entropy"]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The tiny study, asked by the command line about two images and pairs."""
    whole, folder = finished_study(tmp_path_factory), tmp_path_factory.mktemp("audited") / "study"
    shutil.copytree(whole.folder, folder)
    cli.app(["coherency", str(folder), "--samples=2", "--pairs=2", "--no-progress"], standalone_mode=False)
    return Study(folder, whole.plan, progress=False)


def test_coherency__is_the_audit_of_every_finished_network(audited: Study) -> None:
    found = analysis.read_audits(kdviz.open_run(audited.run_path))
    assert {*found["network"]} == {*NAMES}
    workshop = Workshop(audited)
    rows, prepared = np.array([0, 3]), workshop.measured
    for subject in workshop.subjects:
        network = workshop.build_for(subject)()
        load_weights(network, workshop.finished(subject)[1])
        images = torch.from_numpy(prepared.inputs[rows])
        pairs = {one.first: one for one in coherency.find_pairs(network, images).pairs}
        expected = coherency.audit(
            network, images, torch.from_numpy(workshop.measured_set.labels[rows]), units=prepared.units,
            foreground=prepared.foreground[rows], layers=["classifier.fc1", MAPPED], threshold=0.2, probes=16,
            pairs=[pairs["features.conv4"], pairs["classifier.fc1"]], methods=METHODS, progress=False,
        )  # fmt: skip
        stored = found[found["network"] == subject.name].drop(columns="network").reset_index(drop=True)
        pd.testing.assert_frame_equal(stored, expected[stored.columns], check_dtype=False)


def test_coherency__entropy_moves_between_the_pair_alone_and_by_channel_alone(audited: Study) -> None:
    table = analysis.read_audits(kdviz.open_run(audited.run_path))
    assert {*table["pair"]} == {"features.conv4 -> classifier.fc1", "classifier.fc1 -> classifier.fc2"}
    moved = table[(table["method"] == "entropy") & table["moved"]]
    assert {*zip(moved["factor"], moved["place"], strict=True)} == {("per channel", "between")}
    assert (table["output_difference"] < 1e-9).all()


def test_coherency__finished_is_not_asked_again(audited: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "audit", lambda *_, **__: pytest.fail("asked again"))
    audited.check_coherency(2, 2)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        audited.check_coherency(3, 2)
    with pytest.raises(ValueError, match="samples must be an integer of 1 or more, got 0"):
        audited.check_coherency(0, 2)
    with pytest.raises(ValueError, match="pairs must be an integer of 1 or more, got 0"):
        audited.check_coherency(2, 0)


def test_coherency__is_of_entropies_at_the_weight_of_the_run(
    audited: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, weight: float, **__: object) -> None:
        raise AssertionError(f"asked at weight {weight}")

    known = kdviz.open_run(audited.run_path).catalogue()
    other = {layer: {**attrs, "weight": 3.0} for layer, attrs in known.items()}
    monkeypatch.setattr(auditing, "audit", refuse)
    monkeypatch.setattr(kdviz.store.Run, "catalogue", lambda run: other)
    with pytest.raises(AssertionError, match=r"asked at weight 3\.0"):
        audited.check_coherency(2, 2)


def test_coherency__lost_is_asked_again_and_named_meanwhile(
    audited: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(shutil.copytree(audited.folder, tmp_path / "study"), audited.plan, progress=True)
    before = analysis.read_audits(kdviz.open_run(study.run_path))
    shutil.rmtree(study.run_path / "coherency" / NAMES[1])
    assert "kdviz coherency" in kdviz.open_run(study.run_path).gaps()
    study.check_coherency(2, 2)
    assert set(re.findall(r"rescaling \S+: 100%", capsys.readouterr().err)) == {f"rescaling {NAMES[1]}: 100%"}
    pd.testing.assert_frame_equal(before, analysis.read_audits(kdviz.open_run(study.run_path)))


def test_coherency__of_a_network_that_cannot_be_traced_says_so_and_goes_on(
    audited: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(shutil.copytree(audited.folder, tmp_path / "study"), audited.plan, progress=False)
    build = Workshop.build_for

    def build_stubborn(workshop: Workshop, subject: Subject) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            network = build(workshop, subject)()
            if subject.name == "baseline-s0":
                network.register_forward_pre_hook(lambda _, given: (given[0].float(),))
            return network

        return make

    monkeypatch.setattr(Workshop, "build_for", build_stubborn)
    cli.app(
        ["coherency", str(study.folder), "--samples=1", "--pairs=1", "--no-progress"], standalone_mode=False
    )
    told = capsys.readouterr()
    assert "not asked of baseline-s0: this SmallVGG does not compute in float64" in told.err
    assert "1 of 2" not in told.err and "entropy" in told.out
    run = kdviz.open_run(study.run_path)
    assert {*analysis.read_audits(run)["network"]} == {"teacher", "student-fc1-s0"} and not run.gaps()
    app = explore(run)
    app.selection.networks = ("baseline-s0",)
    app.controls["chapter"].value = "coherency"
    assert app.chapters.shown.startswith("baseline-s0: this SmallVGG does not compute in float64")


def test_coherency__is_a_chapter_of_report_and_app(audited: Study) -> None:
    run = kdviz.open_run(audited.run_path)
    (answer,) = [one for one in analysis.give_verdict(run).answers if "(coherency)" in one.question]
    assert answer.answer == "mixed"
    assert str(answer.findings[0]) == "a layer by 4: yes (moved in 0 of 12 comparisons)"
    app = explore(run)
    app.controls["chapter"].value = "coherency"
    count = len(app.selection.networks)
    shown = app.chapters.shown.axes[
        0
    ]  # two layers seen from two pairs: each is between one, and after another
    assert shown.get_title() == "a layer by 4" and 0 < count <= 3
    told = {one.get_position()[0]: one.get_text() for one in shown.texts if one.get_position()[1] == 5}
    assert told == {1: f"0 of {count}", 2: f"0 of {2 * count}", 3: f"0 of {count}"}, "before, between, after"


def test_coherency__is_of_images(tmp_path: Path) -> None:
    cast = SimpleNamespace(measured_set=None, run=invent_text_run(tmp_path / "words").run)
    with pytest.raises(ValueError, match=r"kdviz coherency compares maps of images, and .*words is of texts"):
        auditing.check_coherency(cast, 1, 1)
