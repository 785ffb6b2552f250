"""Networks that find spans are trained, evaluated, distilled and resumed as those that name classes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdviz.distillation import KL, LOGITS, Features, Outputs
from kdviz.models import SpanNetwork, text
from kdviz.networks import read_layers
from kdviz.sources import GeneratedQuestions, generated_questions
from kdviz.training import CrossEntropy, TrainingPlan, evaluate, fitting, train
from kdviz.training.stages import right_answers

torch.set_num_threads(1)
PLAN = TrainingPlan(epochs=2, learning_rate=3e-3, batch_size=16, weight_decay=0.0, optimiser="adamw")


@pytest.fixture(scope="module")
def questions() -> tuple[torch.Tensor, torch.Tensor]:
    prepared = GeneratedQuestions().prepare(generated_questions(count=48))
    return torch.from_numpy(prepared.inputs), torch.from_numpy(prepared.targets)


def make(seed: int = 0, dropout: float | None = None) -> SpanNetwork:
    words = len(GeneratedQuestions().load_tokenizer())
    return text.build("small_bert", classes=None, vocabulary=words, seed=seed, dropout=dropout)


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def differing(one: dict, two: dict) -> set[str]:
    return {name for name in one if not torch.equal(one[name], two[name])}


class Table(nn.Module):
    """Gives stored logits, the sample's number being its input."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits[inputs[:, 0].long()]


# --- exact match ---------------------------------------------------------------------------------------

SAID = [(1, 2), (1, 3), (0, 2), (3, 1)]  # first and last token
MEANT = torch.tensor([(1, 2), (1, 2), (1, 2), (1, 2)])  # right; wrong end; wrong start; ends before it starts


def logits_of(said: list[tuple[int, int]], tokens: int = 4) -> torch.Tensor:
    return functional.one_hot(torch.tensor(said), tokens).float().movedim(1, 2)


def test_evaluate__is_right_if_first_and_last_token_are() -> None:
    logits = logits_of(SAID)
    assert right_answers(logits, MEANT).tolist() == [True, False, False, False]
    assert evaluate(Table(logits), torch.arange(4.0)[:, None], MEANT) == 0.25
    classes = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert right_answers(classes, torch.tensor([1, 1])).tolist() == [True, False]


def test_evaluate__refuses_labels_that_do_not_fit_spans() -> None:
    network, inputs = Table(logits_of(SAID)), torch.arange(4.0)[:, None]
    with pytest.raises(ValueError, match=r"must give logits \(samples, classes\), got \(1, 4, 2\)"):
        evaluate(network, inputs, MEANT[:, 0])
    with pytest.raises(ValueError, match=r"labels must have shape .* or of spans \(4, 2\), got \(4, 3\)"):
        evaluate(network, inputs, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"labels must lie in 0..3, the network's classes or tokens, got 1..9"
    ):
        evaluate(network, inputs, MEANT.clamp(max=1) * torch.tensor([1, 9]))
    with pytest.raises(ValueError, match=r"must give logits \(samples, tokens, 2\) for spans, got \(1, 3\)"):
        evaluate(Table(torch.zeros(4, 3)), inputs, MEANT)


# --- training ------------------------------------------------------------------------------------------


def test_train__loss_is_the_mean_of_both_ends_cross_entropies(questions, tmp_path) -> None:
    inputs, labels = questions
    network = make(dropout=0.0)
    with torch.no_grad():
        logits = network.eval()(inputs)
    rows = torch.arange(len(inputs))
    by_hand = [-logits[..., end].log_softmax(1)[rows, labels[:, end]].mean() for end in (0, 1)]
    plan = PLAN.model_copy(
        update={"epochs": 1, "learning_rate": 0.0, "batch_size": 48, "checkpoints": (0, 1)}
    )
    record = train(network, inputs, labels, folder=tmp_path, plan=plan, progress=False)
    assert record.history["loss"].iloc[0] == pytest.approx(float(sum(by_hand)) / 2, rel=1e-5)  # float32
    found = (logits.argmax(1) == labels).all(1).double().mean()
    assert record.history["accuracy"].iloc[0] == float(found)


def test_train__learns_questions_by_heart(questions, tmp_path) -> None:
    plan = PLAN.model_copy(update={"epochs": 40, "checkpoints": (0, 40)})
    record = train(make(dropout=0.0), *questions, folder=tmp_path, plan=plan, progress=False)
    assert record.history["accuracy"].iloc[0] < 0.2
    assert record.history["accuracy"].iloc[-1] > 0.9


def test_train__student_gets_features_and_then_a_head_on_the_frozen_one(questions, tmp_path) -> None:
    inputs, labels = questions
    student, teacher = make(0), make(1)
    before = state(student)
    record = train(
        student,
        inputs,
        teacher=teacher,
        loss=Features("hidden"),
        folder=tmp_path / "body",
        plan=PLAN,
        progress=False,
    )
    assert record.history["loss"].iloc[-1] < record.history["loss"].iloc[0]
    distilled = state(student)
    assert {name.split(".")[0] for name in differing(before, distilled)} == {"encoder"}
    with torch.no_grad():
        feature = read_layers(student.eval(), inputs, ["hidden"])["hidden"]
    head = CrossEntropy(beyond="hidden")
    known = train(student, inputs, labels, loss=head, folder=tmp_path / "head", plan=PLAN, progress=False)
    assert differing(distilled, state(student)) == {"head.weight", "head.bias"}
    with torch.no_grad():
        assert torch.equal(read_layers(student.eval(), inputs, ["hidden"])["hidden"], feature)
    assert known.history["loss"].iloc[-1] < known.history["loss"].iloc[0]


@pytest.mark.parametrize("kind", ["labels", "features", "kl", "head"])
def test_resume__is_bit_equal(questions, tmp_path, monkeypatch, kind: str) -> None:
    """Killed in its second epoch, of three steps each, with dropout."""
    inputs, labels = questions
    made = {
        "labels": lambda: {"labels": labels, "validation": questions},
        "features": lambda: {"loss": Features("hidden"), "teacher": make(1)},
        "kl": lambda: {"labels": labels, "loss": KL(), "teacher": make(1)},
        "head": lambda: {"labels": labels, "loss": CrossEntropy(beyond="hidden")},
    }[kind]

    def run(network: SpanNetwork, folder):
        return train(network, inputs, folder=folder, plan=PLAN, progress=False, **made())

    whole, killed = make(), make()
    record = run(whole, tmp_path / "whole")
    calls, step = [], fitting.Odometer.record_step

    def interrupted(self) -> None:
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Odometer, "record_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(killed, tmp_path / "killed")
    resumed = run(killed, tmp_path / "killed")
    assert not differing(state(whole), state(killed))
    assert resumed.history.equals(record.history)


def test_kl__of_a_teachers_spans_is_the_sum_over_tokens_by_hand(questions) -> None:
    inputs, labels = questions
    with torch.no_grad():
        ours, theirs = (make(seed).eval()(inputs[:3]).double() for seed in (0, 1))
    loss = KL(temperature=2.0, class_weight=0.0, weight=1.0)
    found = loss(Outputs({LOGITS: ours}), Outputs({LOGITS: theirs}), labels[:3], torch.arange(3))
    terms = [
        -(
            functional.softmax(theirs[at, :, end] / 2, 0) * functional.log_softmax(ours[at, :, end] / 2, 0)
        ).sum()
        for at in range(3)
        for end in (0, 1)
    ]
    assert float(found) == pytest.approx(4 * float(sum(terms)) / 6, rel=1e-12)
