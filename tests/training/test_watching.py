"""Trainings that diverge, collapse or die: what is seen, what begins anew, and what is left of it."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import (
    Remembering,
    TinyNetwork,
    copy_state,
    interrupt_call,
    make_data,
    make_plan,
    match,
    read_folder,
    remember,
    same_state,
    train_tiny,
)

from kdviz.distillation import CrossEntropy
from kdviz.errors import KdvizWarning, StoreError
from kdviz.training import TrainingRecord, fitting, train
from kdviz.training.records import read_tensors
from kdviz.training.stages import _guess
from kdviz.training.watching import FACTORS, Setback, find_fault, tell_accuracy, tell_failure, tell_setback

FINE = {"untrained": 2.3, "guess": 2.0, "finite": True, "epochs": 12}
AGAIN = pytest.mark.filterwarnings("default:.*begins anew")
LEARNED, DEAD = [2.1, 1.9], [2.0] * 6


# -- what is seen


@pytest.mark.parametrize(
    ("losses", "batches", "changes", "fault"),
    [
        (LEARNED, [1.9], {}, None),
        ([math.nan], [math.nan], {}, "the loss became nan"),
        ([math.inf], [math.inf], {}, "the loss became inf"),
        (LEARNED, [1.9], {"finite": False}, "weights became infinite or NaN"),
        ([4.7], [2.3, 4.7, 4.7], {}, "the loss rose to 4.7 from 2.3 before training"),
        ([300.0], [2.3, 900.0, 3.0], {}, None),  # a step overshot, and the network recovered
        ([4.5], [4.5], {}, None),  # less than twice
        ([4.7], [4.7], {"untrained": None}, None),  # of a training begun by an older version
        (
            [1.5],
            [1.5],
            {"untrained": 0.1, "guess": 2.0},
            None,
        ),  # began as the teacher
        ([4.5], [4.5], {"untrained": 0.1, "guess": 2.0}, "the loss rose to 4.5 from 0.1 before training"),
        (
            [-0.1],
            [-0.1],
            {"untrained": -0.5, "guess": None},
            None,
        ),  # nothing is known of those below 0
        (DEAD, [2.0], {}, "the loss stayed above 2, that of guessing, for 6 epochs"),
        ([1.2, *DEAD], [2.0], {}, "the loss stayed above 2, that of guessing, for 6 epochs"),
        (DEAD[1:], [2.0], {}, None),
        ([*DEAD[1:], 1.97], [1.97], {}, None),
        (DEAD, [2.0], {"epochs": 13}, None),
        (DEAD, [2.0], {"guess": None}, None),
        (DEAD[:4], [2.0], {"epochs": 4}, None),
        (DEAD[:5], [2.0], {"epochs": 6}, "the loss stayed above 2, that of guessing, for 5 epochs"),
    ],
)
def test_find_fault__by_hand(losses, batches, changes, fault) -> None:
    assert find_fault(losses, batches, **FINE | changes) == fault


def test_messages__name_network_epoch_rates_and_what_to_do() -> None:
    setbacks = [Setback(rate_factor=f, losses=[1.0, None], reason="the loss became nan") for f in (1.0, 0.3)]
    assert tell_setback("baseline-s0", setbacks[0], 0.3) == (
        "baseline-s0: the loss became nan (epoch 2); its training begins anew at 0.3 times the learning rate"
    )
    assert tell_failure("baseline-s0", setbacks, 0.05) == (
        "baseline-s0: the loss became nan; tried at rates of 0.05 (to epoch 2), 0.015 (to epoch 2); "
        "lower learning_rate"
    )
    dead = Setback(rate_factor=1.0, losses=[2.0] * 6, reason=str(find_fault(DEAD, [2.0], **FINE)))
    assert tell_failure("teacher", [dead], 0.05) == (
        "teacher: the loss stayed above 2, that of guessing, for 6 epochs; tried at rates of 0.05 (to epoch "
        "6); raise or lower learning_rate, or train for more epochs"
    )


def test_accuracy__beside_chance_and_what_to_try() -> None:
    assert tell_accuracy("student-fc1-s0", 0.68, 0.1, 400) == (
        "student-fc1-s0  held-out accuracy 0.68 (chance 0.10)"
    )
    assert tell_accuracy("student-fc1-s0", 0.68, None, 400) == "student-fc1-s0  held-out accuracy 0.68"
    hardly = tell_accuracy("teacher", 0.131, 0.125, 160)
    assert hardly.startswith("teacher  held-out accuracy 0.13 (chance 0.12): hardly better than chance; try")
    error = (0.125 * 0.875 / 160) ** 0.5
    told = [tell_accuracy("a", 0.125 + times * error, 0.125, 160) for times in (2.99, 3.01)]
    assert ["hardly" in one for one in told] == [True, False]


def test_guess__is_the_entropy_of_the_labels() -> None:
    assert _guess(torch.arange(80) % 8) == pytest.approx(math.log(8))
    assert _guess(torch.tensor([0, 0, 0, 5])) == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    spans = torch.stack([torch.arange(4), torch.zeros(4, dtype=torch.int64)], 1)
    assert _guess(spans) == pytest.approx(math.log(4) / 2), "the mean of first and last token"
    assert _guess(torch.zeros(9, dtype=torch.int64)) is None, "there is nothing to learn"


# -- what begins anew


@AGAIN
@pytest.mark.parametrize(
    ("run", "rate", "tried"), [(train_tiny, 4.0, 4), (train_tiny, 0.5, 2), (remember, 1.0, 3)]
)
def test_backing_off__is_to_the_bit_the_training_at_lower_rates(tmp_path, run, rate, tried) -> None:
    plan, networks = {"epochs": 6, "learning_rate": (rate, rate / 2)}, (TinyNetwork(), TinyNetwork())
    with pytest.warns(
        KdvizWarning, match=r"^fast: the loss .* \(epoch \d\); its training begins anew at 0.3"
    ):
        run(networks[0], tmp_path / "fast", plan=plan)
    factor = FACTORS[tried - 1]
    slow = plan | {"learning_rate": (rate * factor, rate / 2 * factor)}
    with warnings.catch_warnings(action="error"):
        run(networks[1], tmp_path / "slow", plan=slow)
    assert same_state(networks[0].state_dict(), networks[1].state_dict())
    ours, theirs = (TrainingRecord.open(tmp_path / name) for name in ("fast", "slow"))
    assert ours.history.equals(theirs.history) and np.isfinite(ours.history["loss"]).all()
    for epoch, path in ours.checkpoints.items():
        assert same_state(read_tensors(path), read_tensors(theirs.checkpoints[epoch])), epoch
    for epoch, path in ours.parts.items():
        assert same_state(read_tensors(path), read_tensors(theirs.parts[epoch])), epoch
    if run is train_tiny:  # steps thrown away are no way that the weights went
        assert ours.weight_distance("conv").equals(theirs.weight_distance("conv"))
    assert ours.rate_factor == factor and theirs.rate_factor == 1 and theirs.setbacks == []
    assert ours.learning_rate == theirs.learning_rate == rate * factor
    assert [one.rate_factor for one in ours.setbacks] == [*FACTORS[: tried - 1]]
    assert all(1 <= len(one.losses) <= 6 and one.reason.startswith("the loss ") for one in ours.setbacks)
    assert json.loads((tmp_path / "fast" / "plan.json").read_text())["plan"]["learning_rate"][0] == rate
    assert "setbacks" not in json.loads((tmp_path / "slow" / "history.json").read_text())


@AGAIN
def test_backing_off__of_features_is_seen_without_labels(tmp_path) -> None:
    student, teacher = TinyNetwork(), TinyNetwork(seed=100)
    record = match(student, teacher, tmp_path, plan={"epochs": 4, "learning_rate": 30.0})
    assert record.rate_factor < 1 and "before training" in record.setbacks[0].reason
    assert record.history["loss"].iloc[-1] < record.history["loss"].iloc[0]


@AGAIN
def test_dead_network__is_told_but_of_a_head_alone(tmp_path) -> None:
    network, plan = TinyNetwork(), {"epochs": 6, "learning_rate": 0.05}
    network.drop.p = 0.0  # on 50 samples its noise is more than the margin of 1 %
    network.fc1.bias.data -= 1e3  # no unit is ever on
    before = copy_state(network)
    with pytest.raises(FloatingPointError) as raised:
        train_tiny(network, tmp_path / "dead", plan=plan)
    assert str(raised.value) == (
        "dead: the loss stayed above 0.693, that of guessing, for 5 epochs; tried at rates of 0.05 (to epoch "
        "5), 0.015 (to epoch 5), 0.0045 (to epoch 5), 0.00135 (to epoch 5); raise or lower learning_rate, or "
        "train for more epochs"
    )
    assert same_state(network.state_dict(), before)
    head = train(
        network,
        *make_data(),
        loss=CrossEntropy("fc1"),
        folder=tmp_path / "head",
        plan=make_plan(**plan),
        progress=False,
    )
    assert head.rate_factor == 1, "on a frozen layer that knows nothing a head learns nothing: a finding"


# -- the end


@AGAIN
def test_failure__leaves_network_and_folder_as_they_were(tmp_path) -> None:
    network = TinyNetwork()
    initial = copy_state(network)
    with pytest.raises(FloatingPointError, match=r"^mine: the loss became nan; tried at rates of 1e\+20"):
        train_tiny(network, tmp_path / "run", plan={"learning_rate": 1e20}, name="mine")
    assert same_state(network.state_dict(), initial)
    assert read_folder(tmp_path / "run") == {}
    train_tiny(network, tmp_path / "run")
    train_tiny(TinyNetwork(), tmp_path / "other")
    assert read_folder(tmp_path / "run") == read_folder(tmp_path / "other")


@AGAIN
@pytest.mark.parametrize("moment", ["unlink", "load"])
def test_failure__stopped_on_its_way_out_is_told_again(tmp_path, monkeypatch, moment) -> None:
    plan, loss = {"learning_rate": 1e20}, Remembering(50)
    initial = copy_state(loss.parts)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "unlink":
            patch.setattr(fitting._Run, "_clear", lambda run: interrupt(run.state_path))
        else:
            interrupt_call(patch, fitting._Run, "_load", 4)
        remember(TinyNetwork(), tmp_path, loss=loss, plan=plan)
    assert same_state(loss.parts.state_dict(), initial)
    with pytest.raises(FloatingPointError, match="tried at rates of"):
        remember(TinyNetwork(), tmp_path, loss=loss, plan=plan)
    assert read_folder(tmp_path) == {}


def interrupt(path: Path) -> None:
    path.unlink()
    raise KeyboardInterrupt


def test_history__with_setbacks_that_are_none_is_damaged(tmp_path) -> None:
    train_tiny(TinyNetwork(), tmp_path)
    stored = json.loads((tmp_path / "history.json").read_text())
    del stored["sha256"]
    (tmp_path / "history.json").write_text(json.dumps(stored | {"setbacks": [{"losses": 3}]}))
    with pytest.raises(StoreError, match="is damaged, or of another version"):
        _ = TrainingRecord.open(tmp_path).setbacks


def test_rate_of_zero__moves_nothing_and_is_no_fault(tmp_path) -> None:
    network = TinyNetwork()
    network.fc1.bias.data -= 1e3
    network.drop.p = 0.0
    plan = {"learning_rate": 0.0, "epochs": 6}
    with warnings.catch_warnings(action="error"):
        assert train_tiny(network, tmp_path, plan=plan).rate_factor == 1
