"""What a measurement is said to take, beside what it took."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from small_measurements import GRID, CountingPasses
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdviz import measuring, networks, schema
from kdviz.measuring.estimate import scale
from kdviz.models.image import build
from kdviz.testing import random_images, small_cnn
from kdviz.units import grid

FEW = {"probes": 8, "draws": 4}


def plan(make_network, count=3, *, layers="inner.fc1", epochs=(0,), units=GRID, **options):
    states = {0: None} if epochs == (0,) else {epoch: make_network().state_dict() for epoch in epochs}
    settings = measuring.Settings.for_units(units, **(FEW | options))
    about = {"network": "n", "role": "student"}
    inputs = networks.prepare_inputs(random_images(count, seed=3), units)
    return measuring.Measurement(make_network, states, inputs, layers, settings, **about)


@pytest.mark.parametrize("layers", ["inner.fc1", ("inner.conv2", "inner.fc1")])
def test_estimate__passes_by_gain_are_those_made(layers):
    network = CountingPasses(small_cnn(seed=1))
    measurement = plan(lambda: network, layers=layers, method="gain")
    told = measurement.estimate()
    network.forwards = network.backwards = 0
    again = plan(lambda: network, layers=layers, method="gain")
    for task in again.tasks():
        again.do(task)
    assert told.passes == (network.forwards + network.backwards,) * 2
    assert told.samples == 3


def test_estimate__path_is_near_and_auto_in_between():
    network = CountingPasses(small_cnn(seed=1))
    told = {method: plan(lambda: network, method=method).estimate() for method in ("gain", "auto", "path")}
    network.forwards = network.backwards = 0
    measurement = plan(lambda: network, method="path")
    for task in measurement.tasks():
        measurement.do(task)
    assert told["path"].passes[0] == told["path"].passes[1]
    # every sample stops by itself, near step 36 but not at it
    assert told["path"].passes[0] == pytest.approx(network.forwards + network.backwards, rel=0.25)
    assert told["auto"].passes[0] == told["gain"].passes[0] < told["auto"].passes[1]
    low, high = told["auto"].seconds
    assert 0 < low < high


def tanh_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5000), nn.Tanh(), nn.Linear(5000, 50))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that were made within it and are still there."""

    def __init__(self, *known):
        super().__init__()
        self.now = self.most = 0
        self.given = [tensor.untyped_storage() for tensor in known]
        self.known = weakref.WeakSet(self.given)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        made = op(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and (storage := one.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._lose, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _lose(self, count):
        self.now -= count


@pytest.mark.parametrize("method", ["gain", "auto"])
@pytest.mark.parametrize("max_batch", [1, 8])
def test_estimate__memory_is_what_is_held(max_batch, method):
    network, layers = build("small_vgg", classes=2, input_size=48), ("features.conv4", "classifier.fc1")
    inputs = networks.prepare_inputs(random_images(8, size=48), grid(16))
    settings = measuring.Settings.for_units(grid(16), method=method, max_batch=max_batch)
    about = {"network": "n", "role": "student"}
    measurement = measuring.Measurement(lambda: network, {0: None}, inputs, layers, settings, **about)
    told = measurement.estimate().memory
    (task, *_) = measurement.tasks()
    with LiveBytes(*network.state_dict().values()) as live:
        measurement.do(task)
    assert told == pytest.approx(live.most, rel=0.12)


@pytest.mark.parametrize("max_batch", [1, 4, 16])
def test_estimate__memory_is_that_of_two_passes_and_of_copies(max_batch):
    told = plan(tanh_network, 16, layers="3", feature="identity", max_batch=max_batch).estimate()
    kept = 5000 + 50  # what tanh keeps for its slope, of the feature at most itself, and no weights
    copies = 8 + 4 + 10  # probes, pairs, what comes and goes
    assert told.memory == pytest.approx(max_batch * 4 * (2 * kept + 2 * 5000 + 192 * copies), rel=0.1)


def test_estimate__disk_is_that_of_the_result():
    measurement = plan(lambda: small_cnn(seed=1), 5, layers="fc1", epochs=(0, 2))
    ds = measurement.collect(map(measurement.do, measurement.tasks()))
    assert measurement.estimate().disk == sum(ds[name].nbytes for name in schema.MEASURED)


def test_estimate__is_of_what_is_left_and_writes_nothing(tmp_path: Path):
    measurement = plan(lambda: small_cnn(seed=1), 20, layers="fc1", epochs=(0, 2), method="gain")
    store = tmp_path / "run.zarr"
    everything = measurement.estimate(store)
    assert not store.exists() and everything.samples == 40
    tasks = measurement.tasks(store)
    with pytest.raises(ValueError, match="stopped"):
        measurement.collect(stop_after(measurement, tasks[:3]), store)
    before = sorted(path for path in store.rglob("*"))
    rest = measurement.estimate(store)
    assert rest.samples == 4  # the second block of the second epoch
    assert rest.passes[0] == pytest.approx(everything.passes[0] * 4 / 40, rel=0.1)
    assert sorted(path for path in store.rglob("*")) == before
    measurement.collect(map(measurement.do, measurement.tasks(store)), store)
    assert measurement.estimate(store) is None


def stop_after(measurement, tasks):
    for task in tasks:
        yield measurement.do(task)
    raise ValueError("stopped")


def test_estimate__reads_as_one_line():
    told = measuring.Estimate(50, (7450, 30_000), (1.2, 3761.7), 34_000_000, 1_250_000)
    assert str(told) == (
        "50 samples times epochs: 7,450 to 30,000 passes, 2 s to 1:02:42 h here, 34 MB at a time, "
        "1.2 MB of results"
    )
    few = str(measuring.Estimate(1, (9, 9), (1.2, 1.2), 0, 20_300))
    assert "passes, 2 s here" in few and few.endswith(", 20 kB of results")


def test_estimate__of_one_after_the_other_holds_the_larger_at_a_time():
    one, other = measuring.Estimate(3, (10, 20), (1, 4), 70, 6), measuring.Estimate(5, (7, 9), (2, 3), 90, 8)
    assert one + other == other + one == measuring.Estimate(8, (17, 29), (3, 7), 90, 14)


def test_estimate__few_probes_make_four_pairs():
    told = plan(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 30)), 2, layers="1", units=grid(2)
    ).estimate()
    assert told.passes[0] == 2 * (1 + 2 + 3 * 8 + 4 + 8 + 16) + 7 + 2


def test_estimate__operations_are_those_of_the_products():
    told = plan(tanh_network, 16, layers="3", feature="identity", method="gain").estimate()
    products = 2 * (192 * 5000 + 5000 * 50)  # back to the input as many as there
    assert told.flops == (told.passes[0] * products,) * 2


def test_estimate__lets_go_of_the_network():
    made = [nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU())]
    weights = weakref.ref(made[0][1].weight)
    plan(made.pop, 2, layers="2").estimate()
    gc.collect()
    assert weights() is None


def test_pace__of_one_sample_at_many_layers_says_what_fewer_take():
    both = plan(tanh_network, 16, layers=("1", "3"), feature="identity", method="gain")
    alone = plan(tanh_network, 16, layers="1", feature="identity", method="gain")
    pace, known = both.pace(), alone.estimate()
    size = {"samples": 16, "epochs": 1, "block": 16}
    told = scale(pace, ["1"], GRID, alone.settings, **size)
    assert (told.passes, told.flops, told.disk) == (known.passes, known.flops, known.disk)
    assert told.memory == pytest.approx(known.memory, rel=0.01)
    assert pace.layers["1"].flops == (2 * 192 * 5000,) * 2
    assert scale(pace, ["1", "3"], GRID, both.settings, **size).memory == pytest.approx(
        both.estimate().memory, rel=0.01
    )
