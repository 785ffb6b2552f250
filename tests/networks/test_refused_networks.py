"""Networks and inputs that cannot be measured: one sentence that says what to do, before any work."""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from any_measurements import FAST, GRID, IMAGES, Wrapped, measure
from small_measurements import assert_equal_arrays
from torch import nn

import kdviz
from kdviz.errors import DegenerateWarning, KdvizWarning, LayerError
from kdviz.testing import random_images, small_cnn

# -- what is refused, before any work


class OnDevice(nn.Module):
    """The small network and a buffer on a device that need not be here."""

    def __init__(self, device):
        super().__init__()
        self.inner = small_cnn(seed=1)
        with torch._subclasses.FakeTensorMode():
            self.register_buffer("scale", torch.ones(1, device=device))


def with_buffer_on_meta():
    network = small_cnn(seed=1)
    network.register_buffer("scale", torch.ones(1, device="meta"))
    return network


def made_for_inference():
    with torch.inference_mode():
        return small_cnn(seed=1)


def quantised():
    with pytest.warns(DeprecationWarning):
        return torch.ao.quantization.quantize_dynamic(small_cnn(seed=1).eval(), {nn.Linear})


def traced():
    return torch.jit.trace(small_cnn(seed=1), IMAGES)


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


def without_gradient(mode):
    def cut(x):
        with mode():
            return 2 * x

    return lambda: Wrapped(after=cut)


def reentrant():
    from torch.utils.checkpoint import checkpoint

    network = small_cnn(seed=1)
    network.fc1.forward = lambda x, f=network.fc1.forward: checkpoint(f, x, use_reentrant=True)
    return network


def attend(x):
    flat = x.flatten(1)
    return ((flat @ flat.T / 64).softmax(1) @ flat).view_as(x)


INNER = {"layers": "inner.fc1"}


REFUSED = {
    "half": (lambda: small_cnn().half(), {}, ValueError, r"pass network\.float\(\)"),
    "bfloat16": (lambda: small_cnn().bfloat16(), {}, ValueError, r"bfloat16, .* pass network\.float\(\)"),
    "half-inputs": (
        lambda: nn.Sequential(nn.Flatten()), {"images": IMAGES.half(), "layers": "0"}, TypeError,
        r"inputs are torch.float16.* pass inputs.float\(\)",
    ),
    "meta": (lambda: small_cnn().to("meta"), {}, ValueError, "'conv1.weight' is on the meta device"),
    "meta-buffer": (with_buffer_on_meta, {}, ValueError, "'scale' is on the meta device"),
    "meta-device": (small_cnn, {"device": "meta"}, ValueError, "is on the meta device"),
    "spread": (lambda: OnDevice("cuda"), INNER, ValueError, r"over cpu, cuda:0; .* network.to\('cpu'\)"),
    "lazy": (lazy, {"layers": "1"}, ValueError, "uninitialized parameter"),
    "for-inference": (made_for_inference, {}, ValueError, r"under torch.inference_mode\(\) .* outside"),
    "scripted": (lambda: torch.jit.script(small_cnn()), {}, RuntimeError, "register_forward_hook"),
    "traced": (traced, {}, LayerError, "'fc1' .* scripted, traced or exported program"),
    "quantised": (quantised, {}, ValueError, "no gradient connects layer 'fc1' .* quantised layers"),
    "no-grad": (without_gradient(torch.no_grad), INNER, ValueError, "no gradient connects .* take out"),
    "inference": (without_gradient(torch.inference_mode), INNER, ValueError, "no gradient connects"),
    "detached": (lambda: Wrapped(after=torch.Tensor.detach), INNER, ValueError, "no gradient connects"),
    "reentrant": (reentrant, {}, RuntimeError, "set use_reentrant=False"),
    "indices": (
        small_cnn, {"feature": lambda output: output.argmax(1)}, ValueError,
        "no gradient connects layer 'fc1'",
    ),
    "rounded": (
        lambda: Wrapped(after=lambda x: (1000 * x).round()), INNER, ValueError,
        "its gradient is zero, as beyond rounding",
    ),
    "random": (
        lambda: Wrapped(after=lambda x: F.dropout(x, 0.5)), INNER, ValueError,
        "another feature when the same input comes again, .* training=self.training",
    ),
    "sample-mean": (
        lambda: Wrapped(after=lambda x: x - x.mean(0)), INNER, ValueError, "depends on the other samples",
    ),
    "attention-over-samples": (  # which are alike, and unlike mere noise
        lambda: Wrapped(before=attend), {"layers": "inner.fc1", "images": IMAGES + 2}, ValueError,
        "depends on the other samples",
    ),
    "sample-norm-of-log": (  # NaN beside what is below 0
        lambda: Wrapped(before=lambda x: (x + 9).log(), after=lambda x: x - x.mean(0)), INNER, ValueError,
        "depends on the other samples",
    ),
    "time-first": (
        lambda: Wrapped(after=lambda x: x[None, 0] if len(x) == 1 else x[:1]), INNER, LayerError,
        "first axis is the sample",
    ),
    "no-module": (lambda: lambda x: x, {}, TypeError, "network must be a torch.nn.Module, got function"),
    "replicas": (lambda: nn.DataParallel(small_cnn()), {}, LayerError, r"pass its \.module instead"),
}  # fmt: skip


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("work was begun"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_measure__refuses_and_says_what_to_do(kind, no_work):
    make, options, error, message = REFUSED[kind]
    network = make()
    with pytest.raises(error, match=message):
        measure(network, **options)


def test_measure__refuses_autocast(no_work):
    with (
        torch.autocast("cpu"),
        pytest.raises(TypeError, match=r"in torch.bfloat16, .* outside of torch.autocast"),
    ):
        measure(small_cnn())


def test_measure_checkpoints__refuses_before_any_work(monkeypatch):
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("work was begun"))
    make = without_gradient(torch.no_grad)
    quiet = {"units": GRID, "progress": False}
    states = {0: make().state_dict()}
    with pytest.raises(ValueError, match="no gradient connects"):
        kdviz.measure_checkpoints(
            make, states, IMAGES, network="n", role="student", layers="inner.fc1", **quiet
        )


def test_measure__a_network_that_fails_says_on_what(no_work):
    network = small_cnn(channels=5)
    with pytest.raises(RuntimeError, match="expected input") as raised:
        measure(network)
    assert raised.value.__notes__ == ["while trying the network on one sample, of shape (3, 8, 8)"]


# -- running out of memory


class RunsOutOver(nn.Module):
    """Raises at more samples in a pass than `most`, after some passes; counts those of all its objects."""

    most, spared, calls = 8, 0, 0
    error: type[Exception] = torch.OutOfMemoryError
    message = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def __init__(self):
        super().__init__()
        self.inner = small_cnn(seed=1)

    def forward(self, x):
        type(self).calls += 1
        if self.calls > self.spared and len(x) > self.most:
            raise self.error(self.message)
        return self.inner(x)


NO_MEMORY = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    (RuntimeError, "could not create a primitive"),
    (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    (MemoryError, ""),
]


def limit_memory(monkeypatch, **values):
    for name, value in ({"calls": 0} | values).items():
        monkeypatch.setattr(RunsOutOver, name, value)


@pytest.mark.parametrize(("error", "message"), NO_MEMORY)
@pytest.mark.parametrize("spared", [0, 15])
def test_measure__out_of_memory_takes_half_as_many_samples(monkeypatch, error, message, spared):
    limit_memory(monkeypatch, error=error, message=message, spared=spared, most=3)
    images, options = random_images(18, seed=2), {"layers": "inner.fc1"}
    with pytest.warns(KdvizWarning, match="out of memory with max_batch=") as told:
        ds = measure(RunsOutOver(), images, **options)
    assert [re.search(r"(\d+); going on with (\d+)", str(one.message)).groups() for one in told] == [
        ("16", "8"), ("8", "4"), ("4", "2"),
    ]  # fmt: skip
    limit_memory(monkeypatch, most=16)
    whole, halved = (measure(RunsOutOver(), images, max_batch=most, **options) for most in (16, 2))
    assert_equal_arrays(ds, halved)  # the second block starts with what the first left
    np.testing.assert_allclose(ds["entropy"], whole["entropy"], atol=1e-4)


@pytest.mark.parametrize(("error", "message"), NO_MEMORY)
@pytest.mark.parametrize("spared", [0, 15])
def test_measure__out_of_memory_with_one_sample_says_what_to_lower(monkeypatch, error, message, spared):
    limit_memory(monkeypatch, error=error, message=message, spared=spared, most=0)
    with pytest.raises(MemoryError, match=r"out of memory( with max_batch=1)?; take smaller images "):
        measure(RunsOutOver(), layers="inner.fc1", max_batch=1)


def test_measure__other_runtime_errors_stay_what_they_are(monkeypatch):
    limit_memory(monkeypatch, error=RuntimeError, message="shapes differ", spared=15, most=0)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(RunsOutOver(), layers="inner.fc1")


def test_measure_checkpoints__keeps_what_memory_sufficed_for(monkeypatch, tmp_path):
    options = FAST | {"network": "n", "role": "student", "layers": "inner.fc1", "store": tmp_path / "run"}
    states = {epoch: RunsOutOver().state_dict() for epoch in (0, 1)}
    limit_memory(monkeypatch, spared=50, most=0)
    with (
        pytest.raises(MemoryError, match=r"out of memory( with max_batch=1)?; take smaller images "),
        pytest.warns(KdvizWarning),
    ):
        kdviz.measure_checkpoints(RunsOutOver, states, IMAGES, **options)
    limit_memory(monkeypatch, most=8)
    ds = kdviz.measure_checkpoints(RunsOutOver, states, IMAGES, **options)
    np.testing.assert_allclose(ds["gain"][1], ds["gain"][0], rtol=1e-5)  # the same weights
    assert RunsOutOver.calls < 50  # the first epoch was not measured again


# -- inputs of an unusual kind


@pytest.mark.parametrize("base_noise", [None, 2.55])
def test_measure__pixels_of_0_to_255_are_pointed_at(base_noise):
    images = torch.randint(0, 256, (3, 3, 8, 8)).float()
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        kdviz.measure(small_cnn(seed=1), images, layers="fc1", base_noise=base_noise, **FAST)
    messages = [str(warning.message) for warning in noted if warning.category is KdvizWarning]
    assert len(messages) == (base_noise is None)
    if messages:
        assert "inputs are large (up to 255)" in messages[0]
        assert "pass a larger base_noise, such as 2.55" in messages[0]
        assert all(warning.filename == __file__ for warning in noted if warning.category is KdvizWarning)


@pytest.mark.parametrize(
    "images",
    [torch.rand(2, 3, 8, 8), 3 * IMAGES, IMAGES + 2, torch.where(torch.rand(2, 3, 8, 8) > 0.99, 60.0, 1.0)],
    ids=["unit", "wide", "shifted", "outliers"],
)
def test_measure__normalised_inputs_are_not(images):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="inputs are large")
        measure(small_cnn(seed=1), images)


def test_measure__channels_that_come_last_are_pointed_at(no_work):
    images = random_images(2).permute(0, 2, 3, 1)
    with pytest.raises(
        ValueError, match=r"does not fit .* 8 x 3 .*; channels seem to come last.*permute\(0, 3"
    ):
        measure(small_cnn(), images)


def masks(*values):
    return np.stack([np.full((8, 8), value) for value in values])


def test_measure__masks_without_object_or_background_are_counted():
    small = masks(False, False, True)
    small[0, :4] = True
    small[1, 0, 0] = True  # one pixel, beside the middle of its unit
    with pytest.warns(DegenerateWarning) as noted:
        ds = measure(small_cnn(seed=1), foreground=small)
    messages = sorted(str(warning.message) for warning in noted)
    assert messages == [
        "1 of 3 samples have no background in units, first those at [2]; what is counted on it says nothing "
        "of them",
        "1 of 3 samples have no foreground in units, first those at [1]; what is counted on it says nothing "
        "of them",
    ]
    assert ds["foreground"].sum("unit").values.tolist() == [8, 0, 16]
    np.testing.assert_array_equal(ds["gain"], measure(small_cnn(seed=1))["gain"])


def test_measure__ordinary_masks_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateWarning)
        measure(small_cnn(seed=1), foreground=np.tile(np.arange(8) < 4, (3, 8, 1)))
