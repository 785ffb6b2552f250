"""Studies of answers in passages: trained, distilled and measured; what has no classes is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import kdviz
from kdviz import analysis
from kdviz.errors import DataError
from kdviz.models import SpanNetwork, TextNetwork
from kdviz.networks import load_weights
from kdviz.render.canvases import WordCanvas, choose_kind
from kdviz.sources import generated_questions
from kdviz.studies import Study, StudyPlan
from kdviz.studies.work import Workshop
from kdviz.training import fitting

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:1 of (2|3|39|40) questions:kdviz.errors.KdvizWarning"
)  # as asked for


def write_squad(path: Path, count: int = 40) -> Path:
    """Generated questions as a file of SQuAD, one of them without an answer and one far too long."""
    texts, articles = generated_questions(count=count), []
    for at in range(count):
        words = zip(texts.words[at], texts.foreground[at], strict=True)
        answer = " ".join(word for word, mark in words if mark)
        context = ("Nothing came of it. " * 40 if at == 1 else "") + texts.contexts[at]
        answers = [] if at == 0 else [{"text": answer, "answer_start": context.index(answer)}]
        asked = {"id": f"q{at}", "question": texts.texts[at], "answers": answers, "is_impossible": at == 0}
        articles.append({"paragraphs": [{"context": context, "qas": [asked]}]})
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return path


def make_plan(folder: Path, **changes: object) -> StudyPlan:
    file = folder / "squad.json"
    values = {
        "data": {"kind": "squad", "file": file if file.exists() else write_squad(file)},
        "networks": {"teacher": {"kind": "trained", "epochs": 2}},
        "losses": [{"kind": "features"}, {"kind": "kl"}],
        "training": {"epochs": 2, "head_epochs": 1, "count": 30},
        "measurement": {"samples": 4, "probes": 8, "draws": 2},
    }
    return StudyPlan.model_validate(values | changes)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Trained and measured; read only."""
    folder = tmp_path_factory.mktemp("answers")
    study = Study(folder / "study", make_plan(folder), progress=False)
    with pytest.warns(kdviz.errors.KdvizWarning, match="1 of 39 questions of SQuAD, squad"):
        study.train()
    study.measure()
    return study


def spans_by_hand(network: SpanNetwork, inputs: torch.Tensor) -> list[tuple[int, int]]:
    """The likeliest first and last token of each sample, read alone."""
    with torch.no_grad():
        logits = [network.eval()(inputs[at : at + 1])[0] for at in range(len(inputs))]
    return [(int(each[:, 0].argmax()), int(each[:, 1].argmax())) for each in logits]


def test_study__of_answers_is_trained_and_measured_at_hidden(study: Study) -> None:
    assert study.plan.networks.layers == {"hidden": "hidden"}
    run = kdviz.open_run(study.run_path)
    assert {"teacher", "baseline-s0", "student-hidden-s0", "student-kl-s0"} <= {*run.networks}
    assert run.summary()["done"].eq(1).all()
    workshop = Workshop(study)
    assert len(workshop.training_set) + len(workshop.held_out_set) == 38
    told = run.samples
    for at, name in enumerate(workshop.measured_set.sample_ids):
        shown = zip(told["token"].values[at], told["foreground"].values[at], strict=True)
        words = [str(word) for word, mark in shown if mark]
        source = generated_questions(count=40)
        row = int(name.removeprefix("q"))
        meant = [word for word, mark in zip(source.words[row], source.foreground[row], strict=True) if mark]
        assert words == meant
    gains = run.dataset("student-hidden-s0", "hidden")["gain"].values
    valid = told["valid"].values
    assert (gains[:, valid] > 0).all() and np.isnan(gains[:, ~valid]).all()


@pytest.mark.parametrize("name", ["teacher", "baseline-s0", "student-kl-s0"])
def test_study__accuracy_is_the_exact_match_of_spans(study: Study, name: str) -> None:
    (subject,) = (one for one in study.subjects() if one.name == name)
    workshop = Workshop(study)
    epoch, weights = workshop.finished(subject)
    network = workshop.build()
    assert isinstance(network, SpanNetwork)
    load_weights(network, weights)
    inputs, labels = workshop.held_out_data
    right = [
        said == tuple(meant)
        for said, meant in zip(spans_by_hand(network, inputs), labels.tolist(), strict=True)
    ]
    stored, definition = study.accuracies(subject)
    assert stored[epoch] == pytest.approx(np.mean(right), abs=1e-7)  # stored in single precision
    assert definition == "exact match of first and last token, of the network itself"


def test_study__killed_and_continued_has_the_same_bits(study: Study, tmp_path: Path, monkeypatch) -> None:
    """Killed in every training in turn: each goes on where it was."""
    plan = study.plan
    again = Study(tmp_path / "again", plan, progress=False)
    step, calls = fitting.Odometer.record_step, []

    def interrupted(self) -> None:
        calls.append(None)
        if len(calls) in (2, 5, 7):
            raise KeyboardInterrupt
        step(self)

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(fitting.Odometer, "record_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                again.train()
    again.train()
    for path in sorted((study.folder / "networks").rglob("*.safetensors")):
        assert path.read_bytes() == (again.folder / path.relative_to(study.folder)).read_bytes(), path
    for subject in study.subjects():
        assert study.accuracies(subject) == again.accuracies(subject)


def test_study__of_answers_has_no_chance_of_classes(study: Study) -> None:
    listed = analysis.list_arms([analysis.Arm({}, kdviz.open_run(study.run_path))])
    assert np.isnan(listed["chance"]).all() and listed["teacher"].notna().all()


def test_study__is_drawn_with_question_and_passage(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    assert choose_kind(run.samples) is WordCanvas
    samples = run.samples.load()
    canvas = WordCanvas.of(samples, samples, 0, samples["foreground"].values[0])
    words = Workshop(study).measured.units.words[0]
    drawn = canvas.draw_input().words
    assert [word.text for word in drawn] == [*words]
    assert [word.underlined for word in drawn] == samples["foreground"].values[0, : len(words)].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"networks": {"layers": ["cls"]}},
            "cls is one vector of a whole text.*: name the layer hidden inst",
        ),
        ({"networks": {"layers": ["hidden", "cls"]}}, "or set data.task to answerable"),
        ({"losses": [{"kind": "hint", "layer": "cls"}]}, "cls is one vector of a whole text"),
        (
            {"losses": [{"kind": "crd"}]},
            "the loss crd asks for the class of a sample, and this is a study of",
        ),
        ({"losses": [{"kind": "soft-labels"}]}, "the loss soft-labels asks for the class of a sample"),
    ],
)
def test_plan__of_answers_refuses_what_means_nothing(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_plan(tmp_path, **changes)


def test_study__of_answers_refuses_what_asks_for_classes(study: Study) -> None:
    for ask, what in ((study.share, "transfer"), (study.explain, "unicam")):
        with pytest.raises(
            ValueError, match=f"^kdviz {what} asks for the class of a sample, and this is a st"
        ):
            ask()


def test_study__of_answerable_questions_is_one_of_classes(tmp_path: Path) -> None:
    file = write_squad(tmp_path / "squad.json")
    plan = make_plan(tmp_path, data={"kind": "squad", "file": file, "task": "answerable"})
    assert plan.networks.layers == {"hidden": "hidden", "cls": "cls"}
    workshop = Workshop(Study(tmp_path / "study", plan, progress=False))
    network = workshop.build()
    assert isinstance(network, TextNetwork) and network.head.out_features == 2
    assert workshop.training_set.classes == ("unanswerable", "answerable")
    assert workshop.as_tensors(workshop.training_set.select([0]))[1].shape == (1,)


def test_study__of_generated_questions_has_defaults_that_train() -> None:
    plan = StudyPlan.model_validate({"data": {"kind": "generated-questions"}})
    told = plan.networks.teacher.model_dump(include={"kind", "encoder", "data", "epochs", "seed"})
    assert told == {"kind": "trained", "encoder": None, "data": None, "epochs": 8, "seed": 100}
    assert (plan.networks.architecture, plan.networks.layers) == ("small_bert", {"hidden": "hidden"})
    assert (plan.training.count, plan.training.epochs) == (2000, 12)
    other = {"data": {"kind": "generated-questions"}, "networks": {"teacher": {"kind": "built-in"}}}
    with pytest.raises(ValidationError, match="the built-in teacher is a small_bert for built-in data"):
        StudyPlan.model_validate(other)


def test_study__of_one_passage_trains_nothing(tmp_path: Path) -> None:
    write_squad(tmp_path / "squad.json", count=3)
    study = Study(tmp_path / "study", make_plan(tmp_path), progress=False)
    with pytest.raises(DataError, match="has one passage only: none can be held out"):
        study.train()
    assert not study.folder.exists()
