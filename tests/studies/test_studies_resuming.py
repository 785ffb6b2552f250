"""A study that is partly trained takes other rates for the rest, and its networks say which they had."""

import json
from pathlib import Path

import pytest
from tiny_study import draw_images, make_plan

import kdviz
from kdviz import cli
from kdviz.errors import StoreError
from kdviz.studies import Study, StudyPlan, change_rates
from kdviz.studies.running import do
from kdviz.training import PLANS

WHOLE = PLANS["image"]["baseline"].learning_rate


def rates(folder: Path) -> dict[str, object]:
    """Read the learning rates of baseline and teacher, as their folders recorded them."""
    files = {name: folder / "networks" / name / "plan.json" for name in ("teacher", "baseline-s0")}
    return {name: json.loads(file.read_text())["plan"]["learning_rate"] for name, file in files.items()}


def train(study: Study, *names: str) -> None:
    for task in study.tasks("train"):
        if task.subject.name in names:
            do(task)


def call(*arguments: object) -> None:
    cli.app([*map(str, arguments), "--no-progress"], standalone_mode=False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    plan = make_plan(draw_images(tmp_path), losses=[{"kind": "kl"}])
    return Study(tmp_path / "study", plan, progress=False)


def test_train__of_a_begun_study_takes_another_rate_for_the_rest(study: Study, capsys) -> None:
    train(study, "teacher")
    before = {path: path.read_bytes() for path in (study.folder / "networks" / "teacher").rglob("*.*")}
    call("train", study.folder, "--rate-factor", 0.5)
    told = capsys.readouterr().out
    assert told.startswith("training.rate_factor 0.5 is for what is not trained yet; teacher keep 1; ")
    assert {path: path.read_bytes() for path in before} == before
    ours, taught = rates(study.folder)["baseline-s0"], PLANS["image"]["teacher"].learning_rate
    assert ours == pytest.approx([0.5 * rate for rate in WHOLE] if isinstance(WHOLE, tuple) else 0.5 * WHOLE)
    assert rates(study.folder)["teacher"] == (list(taught) if isinstance(taught, tuple) else taught)
    stored = StudyPlan.load(study.folder)
    assert stored.training.rate_factor == 0.5
    now = Study(study.folder, stored, progress=False)
    assert {one.name: now.rate_factor(one) for one in now.subjects()} == {
        "teacher": 1.0,
        "baseline-s0": 0.5,
        "student-kl-s0": 0.5,
    }
    call("train", study.folder)  # goes on as it is
    call("measure", study.folder)
    run = kdviz.open_run(study.folder)
    assert run.gaps() == "" and len(run.networks) == 5
    with pytest.raises(
        StoreError, match=r"all networks of .* are trained, with training.rate_factor 0.5, so no"
    ):
        call("train", study.folder, "--rate-factor", 0.1)
    with pytest.raises(
        StoreError, match=r"run.zarr holds networks trained with training.rate_factor 0.5, now 0.1"
    ):
        call("train", study.folder, "--rate-factor", 0.1, "--seeds", 2)


def test_change_rates__begins_anew_what_was_not_finished(study: Study) -> None:
    train(study, "teacher", "baseline-s0")
    begun = study.folder / "networks" / "baseline-s0"
    (begun / "history.json").unlink()  # as if killed
    asked = study.plan.model_copy(
        update={"training": study.plan.training.model_copy(update={"rate_factor": 0.25})}
    )
    told = change_rates(study.folder, asked)
    assert "teacher keep 1; baseline-s0 begin anew" in told and not begun.exists()
    assert change_rates(study.folder, asked) == "", "once is enough"
    now = Study(study.folder, asked, progress=False)
    assert [now.rate_factor(one) for one in now.subjects()] == [1.0, 0.25, 0.25]
    train(now, "baseline-s0")
    assert rates(study.folder)["baseline-s0"] != rates(study.folder)["teacher"]
    same = Study(study.folder.with_name("other"), asked, progress=False)
    ours, theirs = ([one.origin(network) for network in one.subjects()] for one in (now, same))
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [False, True, False], (
        "a teacher of other rates is another teacher, and so are its students"
    )


def test_change_rates__of_no_study_and_of_the_same_rate_does_nothing(study: Study) -> None:
    assert change_rates(study.folder, study.plan) == "" and not study.folder.exists()
    study.plan.save(study.folder)
    assert change_rates(study.folder, study.plan) == ""


def test_train__killed_between_the_two_files_is_told_again(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(study, "teacher")
    training = study.plan.training.model_copy(update={"rate_factor": 0.5})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StudyPlan, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        change_rates(study.folder, study.plan.model_copy(update={"training": training}))
    assert StudyPlan.load(study.folder).training.rate_factor == 1.0
    call("train", study.folder, "--rate-factor", 0.5)
    assert StudyPlan.load(study.folder).training.rate_factor == 0.5


def test_train__other_epochs_are_refused_still(study: Study) -> None:
    train(study, "teacher")
    with pytest.raises(StoreError, match=r"holds a study with training\.epochs 2, now 3"):
        call("train", study.folder, "-s", "training.epochs=3")
    with pytest.raises(StoreError, match=r"holds a study with training\.epochs 2, now 3"):
        call("train", study.folder, "-s", "training.epochs=3", "--rate-factor", 0.5)
    assert StudyPlan.load(study.folder) == study.plan
