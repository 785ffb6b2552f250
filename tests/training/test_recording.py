"""The recorder of trainings that others run, in a plain loop; distances against copies of every step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import TinyNetwork, make_data, read_folder
from torch import nn
from torch.distributed import HashStore

import kdviz
from kdviz.errors import KdvizWarning, LayerError, StoreError
from kdviz.training import Recorder, TrainingPlan, TrainingRecord, fitting, train
from kdviz.training.records import read_tensors

torch.set_num_threads(1)


def train_own(
    network, folder, *, epochs=4, own=None, stop=None, accumulate=1, layers=("conv", "fc1"), **options
):
    """Train as a user does, from the newest own checkpoint; return the recorder and the weights by step.

    Whatever is drawn depends on the epoch alone, so that a resumed training takes the same steps.
    """
    inputs, labels = make_data()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    done = 0
    if own is not None and own.exists():
        state = torch.load(own)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epoch"]
    recorder = Recorder(network, folder, layers=layers, epochs=epochs, **options)
    assert recorder.epoch == done
    weights = []
    for epoch in range(done + 1, (stop or epochs) + 1):
        torch.manual_seed(epoch)
        network.train()
        for at, rows in enumerate(torch.randperm(len(inputs)).split(10), 1):
            loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
            loss.backward()
            if at % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                recorder.step()
                weights.append((epoch, copy_weights(network)))
        recorder.end_epoch(loss=loss.item(), accuracy=epoch / 10)
        if own is not None:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, own.with_suffix(".new"))
            os.replace(own.with_suffix(".new"), own)
    return recorder, weights


def follow_path(initial, places):
    """Add up by epoch how far a weight is from the place before, over its first norm; 0 at epoch 0."""
    path, at, by_epoch = 0.0, np.float64(initial), {0: 0.0}
    for epoch, place in places:
        path += np.sqrt(((np.float64(place) - at) ** 2).sum()) / np.sqrt((np.float64(initial) ** 2).sum())
        at, by_epoch[epoch] = np.float64(place), path
    return by_epoch


def copy_weights(network):
    return {name: value.detach().numpy().copy() for name, value in network.named_parameters()}


# -- what is recorded


@pytest.mark.parametrize("accumulate", [1, 2])
def test_recorder__adds_up_every_step(tmp_path, accumulate):
    network = TinyNetwork()
    initial = copy_weights(network)
    _, weights = train_own(network, tmp_path, accumulate=accumulate)
    record = TrainingRecord.open(tmp_path)
    assert len(weights) == 4 * (5 // accumulate)
    for layer in ("conv", "fc1"):
        distance = record.weight_distance(layer)
        name = f"{layer}.weight"
        expected = follow_path(initial[name], [(epoch, places[name]) for epoch, places in weights])
        # the recorder subtracts in float32, which is near exact for small steps
        np.testing.assert_allclose(distance, [expected[epoch] for epoch in (0, 1, 2, 4)], rtol=1e-5)
        assert distance["epoch"].values.tolist() == [0, 1, 2, 4]
        shortcut = kdviz.weight_distance(record.checkpoints, layer=layer, initial=record.checkpoints[0])
        assert shortcut[-1] < 0.98 * distance[-1], "checkpoints cut corners"


def test_recorder__leaves_what_training_leaves(tmp_path):
    """The same steps in a loop of one's own: the same weights and distances as of `train`, to the bit."""
    inputs, labels = make_data()
    plan = TrainingPlan(
        epochs=3,
        batch_size=16,
        learning_rate=0.05,
        seed=5,
        momentum=0.0,
        weight_decay=0.0,
        checkpoints=(0, 1, 3),
    )
    theirs = train(
        TinyNetwork(),
        inputs,
        labels,
        folder=tmp_path / "theirs",
        plan=plan,
        tracked_layers=["fc1"],
        progress=False,
    )
    network = TinyNetwork()
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    recorder = Recorder(network, tmp_path / "ours", layers="fc1", epochs=3, seed=5)
    for epoch in (1, 2, 3):
        order = torch.randperm(50, generator=fitting._generator(5, epoch, "order"))
        with fitting.draws_seeded(torch.device("cpu"), 5, epoch):
            for rows in order.split(plan.batch_sizes(50)):
                loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step()
        recorder.end_epoch(loss=theirs.history["loss"][epoch], accuracy=theirs.history["accuracy"][epoch])
    ours = TrainingRecord.open(tmp_path / "ours")
    assert list(ours.checkpoints) == list(theirs.checkpoints) == [0, 1, 3]
    for epoch, path in ours.checkpoints.items():
        weights, expected = read_tensors(path), read_tensors(theirs.checkpoints[epoch])
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert ours.weight_distance("fc1").identical(theirs.weight_distance("fc1"))
    assert ours.history.equals(theirs.history)
    assert (ours.seed, theirs.seed) == (5, 5)


@pytest.mark.parametrize(
    ("epochs", "measured"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (6, [0, 1, 2, 3, 5, 6]),
        (8, [0, 1, 2, 3, 4, 6]),
        (10, [0, 1, 2, 3, 4, 5]),
        (4, [0, 1, 2, 4, 5, 6]),
        ([2, 5], [0, 2, 5]),
        (np.arange(0, 7, 3), [0, 3, 6]),
    ],
)
def test_recorder__saves_the_epochs_to_measure_and_the_newest(tmp_path, epochs, measured):
    recorder = walk(line(), tmp_path, [1.0] * 6, epochs=epochs)
    assert list(TrainingRecord.open(tmp_path).checkpoints) == measured
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == [f"epoch-{epoch:03d}.safetensors" for epoch in sorted({*measured, 6})]
    recorder.finish()
    recorder.finish()
    record = TrainingRecord.open(tmp_path)
    assert list(record.checkpoints) == sorted({*measured, 6})
    assert record.weight_distance("0").sel(epoch=6).item() == pytest.approx(6.0)
    assert read_tensors(record.checkpoints[6])["0.weight"].tolist() == [[7.0, 7.0]]


def line():
    network = nn.Sequential(nn.Linear(2, 1))
    nn.init.constant_(network[0].weight, 1.0)
    return network


def walk(network, folder, steps, **options):
    """Move all weights of a line by so much, an epoch each."""
    recorder = Recorder(network, folder, **{"layers": "0", **options})
    for step in steps:
        with torch.no_grad():
            network[0].weight += step
        recorder.step()
        recorder.end_epoch()
    return recorder


def test_recorder__keeps_seeds_and_numbers(tmp_path):
    torch.manual_seed(77)
    recorder = walk(line(), tmp_path / "a", [1.0], seed=3)
    for values in ({"accuracy": torch.tensor(0.5)}, {"loss": float("nan"), "validation_accuracy": 0.25}):
        recorder.step()
        recorder.end_epoch(**values)
    record = TrainingRecord.open(tmp_path / "a")
    assert (record.seed, record.torch_seed) == (3, 77)
    assert list(record.history.index) == [1, 2, 3]
    assert list(record.history.columns) == ["accuracy", "validation_accuracy"]
    np.testing.assert_array_equal(record.history, [[np.nan, np.nan], [0.5, np.nan], [np.nan, 0.25]])
    assert TrainingRecord.open(walk(line(), tmp_path / "b", [1.0]).folder).seed is None
    with pytest.raises(TypeError, match="acuracy"):
        recorder.end_epoch(acuracy=0.5)


def test_recorder__is_read_while_training_runs(tmp_path):
    network = line()
    recorder = Recorder(network, tmp_path, layers="0", epochs=9)
    record = TrainingRecord.open(tmp_path)
    assert list(record.checkpoints) == [0] and record.weight_distance("0").values.tolist() == [0.0]
    assert record.history.shape == (0, 0)
    recorder.step()
    recorder.end_epoch()
    assert list(TrainingRecord.open(tmp_path).checkpoints) == [0, 1]


def test_recorder__frozen_layers_do_not_move_and_half_precision_does(tmp_path):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).to(torch.bfloat16)
    network[0].requires_grad_(False)
    recorder = Recorder(network, tmp_path, layers=["0", "1"])
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    before = network[1].weight.detach().double()
    path = 0.0
    for seed in range(4):
        place = network[1].weight.detach().double()
        inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)).bfloat16()
        network(inputs).square().sum().backward()
        optimizer.step()
        recorder.step()
        path += float((network[1].weight.detach().double() - place).norm() / before.norm())
    recorder.end_epoch()
    record = TrainingRecord.open(tmp_path)
    assert record.weight_distance("0").values.tolist() == [0.0, 0.0]
    # the difference of two near numbers of 8 bits is exact, of others rounded to 8 bits
    assert record.weight_distance("1").values.tolist() == [0.0, pytest.approx(path, rel=1e-2)]
    assert path > 0.1
    assert read_tensors(record.checkpoints[1])["1.weight"].dtype == torch.bfloat16


def test_recorder__tied_weights_are_saved_under_both_names(tmp_path):
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    network[1].weight = network[0].weight
    recorder = Recorder(network, tmp_path, layers=["0", "1"])
    with torch.no_grad():
        network[0].weight *= 1.5
    recorder.step()
    recorder.end_epoch()
    record = TrainingRecord.open(tmp_path)
    weights = read_tensors(record.checkpoints[1])
    assert torch.equal(weights["0.weight"], weights["1.weight"])
    assert torch.equal(weights["0.weight"], network[0].weight)
    for layer in "01":
        assert record.weight_distance(layer).values[1] == pytest.approx(0.5)


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def wrap_part(network):
    network[0] = torch.compile(network[0])
    return network


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        wrap_part,
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        lambda network: torch.compile(nn.parallel.DistributedDataParallel(network)),
    ],
)
def test_recorder__leaves_wrappers_out_of_names(tmp_path, wrap, process_group):
    plain = line()
    wrapped = wrap(plain)
    recorder = Recorder(wrapped, tmp_path, layers="0")
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter += 1
    recorder.step()
    recorder.end_epoch()
    record = TrainingRecord.open(tmp_path)
    assert read_tensors(record.checkpoints[1]).keys() == {"0.weight", "0.bias"}
    assert record.weight_distance("0").values.tolist() == [0.0, 1.0]
    assert Recorder(wrapped, tmp_path, layers=["0"]).epoch == 1


# -- killed and resumed

KILLED = """
import os, sys
from pathlib import Path
import torch
from test_recording import TinyNetwork, Recorder, train_own

left = int(sys.argv[1])

def die_at_event(function):  # steps, and writes that have not reached the disk
    def counted(*args):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return function(*args)
    return counted

os.fsync = die_at_event(os.fsync)
os.replace = die_at_event(os.replace)
Recorder.step = die_at_event(Recorder.step)
torch.manual_seed(0)
train_own(TinyNetwork(), {folder!r}, epochs=9, own=Path({own!r}), seed=1)
"""


@pytest.mark.filterwarnings("ignore:the network has the weights of epoch")
def test_resume__after_kills_at_any_moment_is_bit_equal(tmp_path):
    whole = TinyNetwork()
    torch.manual_seed(0)
    train_own(whole, tmp_path / "whole", epochs=9, seed=1)
    folder, own = tmp_path / "killed", tmp_path / "own.pt"
    code = KILLED.format(folder=str(folder), own=str(own))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    events = np.random.default_rng().integers(1, 40, size=3)  # of 90 or more in all; other ones every time
    for event in events:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(event)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 9, (events, result.stderr)
    network = TinyNetwork()
    train_own(network, folder, epochs=9, own=own, seed=1)
    assert read_folder(folder) == read_folder(tmp_path / "whole"), events
    assert list(TrainingRecord.open(folder).checkpoints) == [0, 1, 2, 3, 4, 6, 8, 9]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))


def test_resume__from_an_earlier_epoch_replaces_the_later_ones(tmp_path):
    torch.manual_seed(0)
    train_own(TinyNetwork(), tmp_path / "whole", epochs=6)
    own = tmp_path / "own.pt"
    torch.manual_seed(0)
    train_own(TinyNetwork(), tmp_path / "a", epochs=6, own=own, stop=2)
    older = own.read_bytes()
    train_own(TinyNetwork(), tmp_path / "a", epochs=6, own=own, stop=5)
    before = read_folder(tmp_path / "a")
    own.write_bytes(older)
    with pytest.warns(
        KdvizWarning, match=r"has the weights of epoch 2: epochs 3 to 5 of the record .* replaced"
    ):
        train_own(TinyNetwork(), tmp_path / "a", epochs=6, own=own, stop=2)[0].finish()
    assert read_folder(tmp_path / "a") == before, "until an epoch ends, all is as it was"
    with pytest.warns(KdvizWarning):
        train_own(TinyNetwork(), tmp_path / "a", epochs=6, own=own, stop=3)
    assert list(TrainingRecord.open(tmp_path / "a").checkpoints) == [0, 1, 2, 3]
    train_own(TinyNetwork(), tmp_path / "a", epochs=6, own=own)
    assert read_folder(tmp_path / "a") == read_folder(tmp_path / "whole")


def test_resume__another_way_from_an_earlier_epoch_is_recorded(tmp_path):
    network = line()
    walk(network, tmp_path, [1.0, 1.0, 1.0])
    network = line()
    with torch.no_grad():
        network[0].weight += 2
    with pytest.warns(KdvizWarning, match="epoch 3 of the record"):
        walk(network, tmp_path, [-1.0])
    record = TrainingRecord.open(tmp_path)
    assert record.weight_distance("0").values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert read_tensors(record.checkpoints[3])["0.weight"].tolist() == [[2.0, 2.0]]


def test_resume__refuses_what_continues_nothing(tmp_path):
    network = line()
    walk(network, tmp_path, [1.0, 1.0], seed=1)
    before = read_folder(tmp_path)
    with pytest.raises(
        StoreError, match=r"records epochs 0 to 2, and the network has its initial weights; load"
    ):
        Recorder(line(), tmp_path, layers="0")
    with pytest.raises(StoreError, match=r"weights of 0 are those after none of them; load your checkpoint"):
        other = line()
        nn.init.constant_(other[0].weight, 9.0)
        Recorder(other, tmp_path, layers="0")
    with pytest.raises(StoreError, match=r"weights of epoch 2 of the record .* not of epoch 1"):
        Recorder(network, tmp_path, layers="0", epoch=1)
    with pytest.raises(StoreError, match=r"differs in seed 1, now 2; name another folder"):
        Recorder(network, tmp_path, layers="0", seed=2)
    longer = nn.Sequential(network[0], nn.Linear(1, 1))
    with pytest.raises(StoreError, match=r"differs in layers \['0'\], now \['0', '1'\]"):
        Recorder(longer, tmp_path, layers=["0", "1"])
    assert read_folder(tmp_path) == before
    assert Recorder(network, tmp_path, layers="0").epoch == 2
    with pytest.raises(StoreError, match="no epoch 3 to continue"):
        Recorder(network, tmp_path / "new", layers="0", epoch=3)


def test_resume__asks_where_weights_are_alike(tmp_path):
    network = line()
    walk(network, tmp_path, [0.0, 0.0])
    with pytest.raises(StoreError, match=r"alike after epochs 0, 1 and 2 of the record .*; pass epoch"):
        Recorder(network, tmp_path, layers="0")
    assert walk(network, tmp_path, [0.5], epoch=2).epoch == 3


def test_recorder__refuses_folders_of_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \(notes.txt\)"):
        Recorder(line(), tmp_path, layers="0")
    inputs, labels = make_data()
    plan = TrainingPlan(epochs=1, learning_rate=0.1)
    train(TinyNetwork(), inputs, labels, folder=tmp_path / "theirs", plan=plan, progress=False)
    with pytest.raises(StoreError, match=r"damaged, or of a training by kdviz itself"):
        Recorder(TinyNetwork(), tmp_path / "theirs", layers="fc1")
    walk(line(), tmp_path / "ours", [1.0])
    with pytest.raises(StoreError, match="holds other files"):
        train(TinyNetwork(), inputs, labels, folder=tmp_path / "ours", plan=plan, progress=False)


def test_recorder__sees_another_recorder_in_its_folder(tmp_path):
    first, second = Recorder(line(), tmp_path, layers="0"), Recorder(line(), tmp_path, layers="0")
    for recorder in (first, second):
        recorder.step()
    first.end_epoch()
    with pytest.raises(StoreError, match="was written by another recorder"):
        second.end_epoch()


def test_recorder__sees_steps_that_it_was_not_told(tmp_path):
    network = line()
    recorder = Recorder(network, tmp_path, layers="0")
    before = read_folder(tmp_path)
    recorder.step()  # before the optimiser's
    with torch.no_grad():
        network[0].weight += 1
    with pytest.raises(ValueError, match=r"weights of 0 moved after the last step .*; call step\(\) after"):
        recorder.end_epoch()
    assert read_folder(tmp_path) == before
    recorder.step()
    recorder.end_epoch()
    assert TrainingRecord.open(tmp_path).weight_distance("0").values.tolist() == [0.0, 1.0]


def test_recorder__sees_weights_that_were_replaced(tmp_path):
    network = line()
    recorder = Recorder(network, tmp_path, layers="0")
    network.load_state_dict(line().state_dict(), assign=True)
    recorder.step()
    with pytest.raises(ValueError, match=r"weights of 0 .* were replaced; .* make the recorder when"):
        recorder.end_epoch()


def test_recorder__ends_an_epoch_again_that_could_not_be_written(tmp_path, monkeypatch):
    network = line()
    recorder = Recorder(network, tmp_path, layers="0")
    with torch.no_grad():
        network[0].weight += 1
    recorder.step()

    def fail(*args):
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space left"):
            patch.setattr(os, name, fail)
            recorder.end_epoch()
        assert list(TrainingRecord.open(tmp_path).checkpoints) == [0]
    recorder.end_epoch()
    assert TrainingRecord.open(tmp_path).weight_distance("0").values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": "1"}, LayerError, "'1' has no weight"),
        ({"layers": "fc9"}, LayerError, "unknown layer 'fc9'"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"epochs": 0}, ValueError, "epochs must be an integer of 1 or more, got 0"),
        ({"epochs": [1, -1]}, ValueError, "epochs must be an integer of 0 or more, got -1"),
        ({"epochs": "9"}, ValueError, "epochs must be an integer"),
        ({"seed": 0.5}, ValueError, "seed must be an integer"),
    ],
)
def test_recorder__refuses_bad_arguments_before_it_writes(tmp_path, options, error, message):
    network = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    with pytest.raises(error, match=message):
        Recorder(network, tmp_path / "new", **{"layers": "0", **options})
    assert not (tmp_path / "new").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorder__on_a_gpu(tmp_path):
    network = line().cuda()
    walk(network, tmp_path, [1.0, -0.5])
    record = TrainingRecord.open(tmp_path)
    assert record.weight_distance("0").values.tolist() == [0.0, 1.0, 1.5]
    assert walk(network, tmp_path, [1.0]).epoch == 3
