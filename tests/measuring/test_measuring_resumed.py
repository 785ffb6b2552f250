"""Measurements that go on: killed, followed, done in parts, mended; what failed leaves nothing behind."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import edit_node
from small_measurements import FAST, GRID, assert_equal_arrays, begin, by_layer, changed_cnn, measure_epochs
from torch import nn

import kdviz
from kdviz.errors import DataError, LayerError, StoreError
from kdviz.measuring import Measurement, Settings, measure_checkpoints
from kdviz.measuring.blocks import measure_block
from kdviz.networks.inputs import prepare_inputs
from kdviz.store import Run, create_run, open_run
from kdviz.testing import random_images, small_cnn

# -- killed at any moment

MEASURE_TO_STORE = """
import sys, torch
from kdviz.measuring import measure_checkpoints
from kdviz.testing import random_images, small_cnn
from kdviz import units

def measure_to(path):
    states = {epoch: small_cnn(seed=epoch).state_dict() for epoch in range(4)}
    return measure_checkpoints(
        small_cnn, states, random_images(19, seed=3), store=path, network="student", role="student",
        layers=["conv2", "fc1"], units=units.grid(4), probes=4, draws=2, method="gain", progress=False,
    )
"""


# One process loads torch and forks a writer for every kill: a fork has no threads of its own to lose.
FORK_AND_KILL = """
import os, random, signal, time

random_ = random.Random(int(sys.argv[2]))
torch.set_num_threads(1)
landed = 0
while landed < int(sys.argv[3]):
    child = os.fork()
    if child == 0:
        measure_to(sys.argv[1])
        os._exit(0)
    time.sleep(random_.uniform(0.05, 0.8))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        break  # it finished first: enough
    landed += 1
print(landed)
"""


def arrays_of(path):
    """Every array file of a run, by name."""
    files = sorted(file for file in Path(path).rglob("*") if file.is_file() and "c" in file.parent.parts)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_measure_checkpoints__killed_and_continued_ends_with_the_same_bits(tmp_path):
    namespace = {}
    exec(MEASURE_TO_STORE, namespace)
    script = tmp_path / "killed.py"
    script.write_text(MEASURE_TO_STORE + FORK_AND_KILL)
    root = Path(kdviz.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "killed"), "7", "4"],
        capture_output=True, text=True, timeout=900, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2  # kills that met a running measurement
    continued = namespace["measure_to"](tmp_path / "killed")
    whole = namespace["measure_to"](tmp_path / "whole")
    assert_equal_arrays(continued, whole)
    killed, uninterrupted = arrays_of(tmp_path / "killed"), arrays_of(tmp_path / "whole")
    assert len(uninterrupted) > 20
    assert killed == uninterrupted


# -- a first call that fails leaves nothing in the way of the next


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"checkpoints": {0: {"student.conv1.weight": torch.zeros(6, 3, 3, 3)}}}, DataError),
        ({"feature": lambda output: output.nothing}, AttributeError),
        ({"feature": "gelu"}, ValueError),
        ({"images": random_images(5, size=12, seed=3)}, RuntimeError),
        ({"layers": "fc7"}, LayerError),
        ({"network": "a/b"}, ValueError),
        ({"details": {"distilled": "fc1"}}, TypeError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_measure_checkpoints__after_a_first_call_that_fails_the_corrected_one_works(
    states, tmp_path, wrong, error
):
    given = {"checkpoints": states} | {"layers": "fc1", "method": "gain", "store": tmp_path / "run"}
    with pytest.raises(error):
        measure_epochs(**given | wrong)
    assert not (tmp_path / "run").exists()
    right = {"seed": 3, "sample_ids": list("edcba"), "probes": 6}
    assert measure_epochs(**given | right).sizes["epoch"] == 3


def test_measure_checkpoints__after_running_out_of_memory_at_once_other_settings_may_be_taken(
    states, tmp_path, monkeypatch
):
    begin(states, tmp_path / "run", monkeypatch, blocks=0)
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:  # killed after the arrays were made, and before a block was written
        patch.setattr(Run, "write_block", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            measure_epochs(states, store=tmp_path / "run")
    assert open_run(tmp_path / "run").networks == ["student"]
    again = measure_epochs({7: states[5]}, store=tmp_path / "run", probes=6, seed=1)
    assert again["fc1"]["epoch"].values.tolist() == [7]


# -- a training that still runs


@pytest.mark.parametrize(
    "order", [[(0,), (2, 5)], [(5,), (0,), (2,)], [(0, 2), (0, 2, 5)], [(2,), (0, 2, 5)]]
)
def test_measure_checkpoints__epochs_added_are_those_of_measuring_all_at_once(states, tmp_path, order):
    images, options = random_images(19, seed=3), {"method": "gain", "probes": 4}
    whole = measure_epochs(states, images, store=tmp_path / "whole", **options)
    for epochs in order:
        some = measure_epochs(
            {epoch: states[epoch] for epoch in epochs}, images, store=tmp_path / "run", **options
        )
        for layer, ds in some.items():
            assert ds["epoch"].values.tolist() == list(epochs), "what was asked for"
            assert_equal_arrays(ds, whole[layer].sel(epoch=list(epochs)))
    assert arrays_of(tmp_path / "run") == arrays_of(tmp_path / "whole")
    run = open_run(tmp_path / "run")
    for layer in whole:
        ds = run.dataset("student", layer)
        assert ds.equals(whole[layer])
        same = {"weights_fingerprint", "feature", "seed", "config", "block", "input_fingerprint"}
        assert {name: ds.attrs[name] for name in same} == {name: whole[layer].attrs[name] for name in same}


def test_measure_checkpoints__epochs_already_there_are_not_measured_again(states, tmp_path, monkeypatch):
    options = {"layers": "fc1", "method": "gain", "store": tmp_path / "run"}
    measure_epochs({0: states[0], 5: states[5]}, details={"accuracy": 0.25}, **options)
    done = []

    def count(*arguments):
        done.append(1)
        return measure_block(*arguments)

    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", count)
    measure_epochs(states, details={"accuracy": 0.25}, **options)
    assert len(done) == 1
    last = {9: changed_cnn(4).state_dict()}
    assert measure_epochs(last, details={"accuracy": 0.75}, **options).attrs["accuracy"] == 0.75
    assert open_run(tmp_path / "run").dataset("student", "fc1")["epoch"].values.tolist() == [0, 2, 5, 9]
    with pytest.raises(StoreError, match="weights_fingerprint"):
        measure_epochs({5: states[2]}, **options)
    with pytest.raises(StoreError, match="seed 0, now 1"):
        measure_epochs({12: states[2]}, seed=1, **options)


def test_measure_checkpoints__an_epoch_that_fails_keeps_the_others(states, tmp_path):
    options = {"layers": "fc1", "method": "gain", "store": tmp_path / "run"}
    whole = measure_epochs(states, layers="fc1", method="gain")
    measure_epochs({0: states[0]}, **options)
    broken = {name: value * torch.nan for name, value in states[2].items()}
    with pytest.raises(ValueError, match="NaN"):
        measure_epochs({2: broken}, **options)
    assert_equal_arrays(measure_epochs(states, **options), whole)


MEASURE_MORE = MEASURE_TO_STORE.replace("def measure_to(path)", "def measure_to(path, epochs=(0, 1, 2, 3))")


MEASURE_MORE = MEASURE_MORE.replace("for epoch in range(4)", "for epoch in epochs")


def test_measure_checkpoints__killed_while_epochs_are_added_ends_with_the_same_bits(tmp_path):
    namespace = {}
    exec(MEASURE_MORE, namespace)
    namespace["measure_to"](tmp_path / "killed", (1, 3))
    script = tmp_path / "killed.py"
    script.write_text(MEASURE_MORE + FORK_AND_KILL)
    root = Path(kdviz.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "killed"), "3", "4"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    continued = namespace["measure_to"](tmp_path / "killed")
    assert_equal_arrays(continued, namespace["measure_to"](tmp_path / "whole"))
    assert arrays_of(tmp_path / "killed") == arrays_of(tmp_path / "whole")


DO_TASKS = """
import pickle, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # as here: sums are taken in one order
folder, part = Path(sys.argv[1]), int(sys.argv[2])
measurement, tasks = pickle.loads((folder / "work").read_bytes())
blocks = [measurement.do(task) for task in reversed(tasks[part::2])]
(folder / f"blocks-{part}").write_bytes(pickle.dumps(blocks))
"""


@pytest.mark.parametrize("layers", ["fc1", ("conv2", "fc1")])
def test_measurement__done_by_two_other_processes_in_another_order_gives_the_same_bits(
    states, tmp_path, layers
):
    """With inputs read by every process itself, and blocks written as they come."""
    images = random_images(40, seed=3)
    settings = Settings.for_units(GRID, probes=4, draws=2)
    measurement = Measurement(
        small_cnn, states, prepare_inputs(images, GRID), layers, settings, "student", "student"
    )
    whole = measurement.collect(map(measurement.do, measurement.tasks()), tmp_path / "whole")
    run = create_run(tmp_path / "run", samples=measurement.inputs.samples)
    first, *tasks = measurement.tasks(run)
    assert len(tasks) == 8, "three epochs of three blocks"
    with pytest.raises(StoreError, match="8 of 9 blocks are missing"):
        measurement.collect([measurement.do(first)], run)
    assert measurement.tasks(run) == tasks
    (tmp_path / "work").write_bytes(pickle.dumps((measurement, tasks)))
    workers = [
        subprocess.Popen([sys.executable, "-c", DO_TASKS, str(tmp_path), str(part)]) for part in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    blocks = [block for part in (1, 0) for block in pickle.loads((tmp_path / f"blocks-{part}").read_bytes())]
    apart = measurement.collect(iter(blocks), run)
    assert apart.equals(whole)
    assert {name: data for name, data in arrays_of(run.path).items() if "thumbnail" not in name} == {
        name: data for name, data in arrays_of(tmp_path / "whole").items() if "thumbnail" not in name
    }
    assert measurement.tasks(run) == []
    in_memory = measurement.collect([measurement.do(first), *blocks])
    assert_equal_arrays(in_memory, whole)


def test_measurement__missing_blocks_are_named():
    settings = Settings.for_units(GRID, probes=4, draws=2)
    measurement = Measurement(small_cnn, {3: None}, prepare_inputs(random_images(20), GRID), "fc1", settings)
    with pytest.raises(ValueError, match="1 blocks are missing, first block 1 of epoch 3"):
        measurement.collect([measurement.do(measurement.tasks()[0])])


def test_measure_checkpoints__makes_nothing_before_the_trial_succeeded(states, tmp_path):
    states[0]["conv1.weight"][:] = np.nan
    with pytest.raises(ValueError, match="training diverged"):
        measure_epochs(states, store=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    run = create_run(tmp_path / "run", samples=prepare_inputs(random_images(5, seed=3), GRID).samples)
    with pytest.raises(ValueError, match="training diverged"):
        measure_epochs(states, store=run)
    assert run.networks == []


def cnn_of_other_code():
    """The weights of `small_cnn`, and hyperbolic tangents in place of its ReLUs."""
    network = small_cnn()
    for name, module in network.named_children():
        if isinstance(module, nn.ReLU):
            setattr(network, name, nn.Tanh())
    return network


@pytest.mark.parametrize("stopped", [True, False])
def test_measure_checkpoints__refuses_a_network_whose_code_has_changed(states, tmp_path, stopped):
    options = {"network": "student", "role": "student", "layers": ["conv2", "fc1"], "units": GRID} | FAST
    images, path = random_images(5, seed=3), tmp_path / "run"
    begun = {0: states[0]} if stopped else states
    measure_checkpoints(small_cnn, begun, images, store=path, **options)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(
        StoreError, match=r"layer 'conv2' gives other features than when epoch \d was measured"
    ):
        measure_checkpoints(cnn_of_other_code, states, images, store=path, **options)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    measure_checkpoints(
        cnn_of_other_code, {0: states[0]}, images, store=path, **options | {"network": "tanh"}
    )
    assert {*open_run(path).networks} == {"student", "tanh"}
    again = by_layer(measure_checkpoints(small_cnn, states, images, store=path, **options))
    assert again["fc1"]["clean_response"].dims == ("epoch",) and again["fc1"].sizes["epoch"] == 3


def test_measure_checkpoints__a_run_of_before_there_were_responses_goes_on(states, tmp_path):
    path = tmp_path / "run"
    whole = measure_epochs(states, store=tmp_path / "whole")
    measure_epochs({0: states[0]}, store=path)
    node = path / "points" / "zarr.json"
    edit_node(node, lambda about: about["attributes"].pop("contents"))
    for layer in ("conv2", "fc1"):
        shutil.rmtree(path / "points" / "student" / layer / "clean_response")
    again = measure_epochs(states, store=path)
    for layer, ds in again.items():
        assert_equal_arrays(ds, whole[layer])
        assert np.isnan(ds["clean_response"].values[0]) and (ds["clean_response"].values[1:] > 0).all()
    assert open_run(path).gaps() == ""


@pytest.mark.parametrize("stored", [True, False])
def test_measure_checkpoints__a_file_overwritten_meanwhile_is_never_another_fingerprint(
    states, tmp_path, monkeypatch, stored
):
    path = tmp_path / "weights.pt"
    torch.save(states[0], path)
    options = {"store": tmp_path / "run"} if stored else {}
    load = kdviz.measuring.measurement.load_weights

    def load_what_came_meanwhile(*arguments):
        torch.save(states[2], path)
        return load(*arguments)

    monkeypatch.setattr("kdviz.measuring.measurement.load_weights", load_what_came_meanwhile)
    if not stored:
        (found,) = {ds.attrs["weights_fingerprint"] for ds in measure_epochs({0: path}).values()}
        assert found == measure_epochs({0: states[2]})["fc1"].attrs["weights_fingerprint"]
        return
    with pytest.raises(StoreError, match="checkpoint of epoch 0 was changed while it was measured"):
        measure_epochs({0: path}, **options)
    assert open_run(tmp_path / "run").summary()["done"].tolist() == [0.0, 0.0]
    monkeypatch.undo()
    torch.save(states[0], path)
    ours, theirs = measure_epochs({0: path}, **options), measure_epochs({0: states[0]})
    assert_equal_arrays(ours["fc1"], theirs["fc1"])


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("entropy/c/1/0/0", "chunk entropy/c/1/0/0 is damaged"),
        ("converged/c/0/0", "chunk converged/c/0/0 is damaged"),
        ("clean_response/c/0", "chunk clean_response/c/0 is damaged"),
        ("epoch/c/0", "chunk epoch/c/0 is damaged"),
        ("gain/zarr.json", "gain/zarr.json is missing"),
        ("gain_error", "gain_error is missing"),
        ("epoch", "epoch is missing"),
        ("done/c/2/0", ""),
    ],
)
def test_measure_checkpoints__mends_what_is_damaged_to_the_same_bits(states, tmp_path, file, what):
    whole = measure_epochs(states, store=tmp_path / "run")
    path = tmp_path / "run" / "points" / "student" / "fc1" / file
    if path.is_dir():
        shutil.rmtree(path)
    elif path.name == "zarr.json":
        path.unlink()
    else:
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 4
        path.write_bytes(damaged)
    run = open_run(tmp_path / "run")
    with pytest.raises(
        StoreError, match="the same call of kdviz.measure_checkpoints mends it" if what else "3"
    ):
        run.dataset("student", "fc1")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = measure_epochs(states, store=run)
    assert [str(one.message) for one in told if "is damaged: " + what in str(one.message)] or not what
    for layer, ds in whole.items():
        assert_equal_arrays(again[layer], ds)
        assert_equal_arrays(run.dataset("student", layer), ds)


def test_measure_checkpoints__settings_of_a_group_without_a_block_are_replaced(states, tmp_path):
    settings = Settings.for_units(GRID, probes=4, draws=2)
    inputs = prepare_inputs(random_images(5, seed=3), GRID)
    other = Measurement(small_cnn, states, inputs, "fc1", settings, "student", "student")
    run = create_run(tmp_path / "run", samples=inputs.samples)
    run.create_group("student", "fc1", epochs=other.epochs, attrs=other.attrs("fc1"), block=16)
    assert run.networks == ["student"]
    ds = measure_epochs(states, store=run, layers="fc1")
    assert json.loads(ds.attrs["config"])["probes"] == FAST["probes"]
    with pytest.raises(StoreError, match=r"config\.probes 8, now 4"):
        other.tasks(run)


def test_measure__store_begun_with_another_estimator_is_not_continued(tmp_path, monkeypatch):
    checkpoints = {0: small_cnn(seed=1).state_dict(), 1: small_cnn(seed=2).state_dict()}
    call = partial(
        kdviz.measure_checkpoints, small_cnn, checkpoints, random_images(2, seed=3), network="s",
        role="student", layers="fc1", units=GRID, store=tmp_path / "run.zarr", probes=8, draws=2,
        progress=False,
    )  # fmt: skip
    with monkeypatch.context() as older:
        older.setattr("kdviz.measuring.settings.ESTIMATOR", "probes")
        call()
    with pytest.raises(StoreError, match="estimator"):
        call()
