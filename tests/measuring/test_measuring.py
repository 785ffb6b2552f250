import json
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from reference import sampled_optimum
from torch import nn

import kdviz
from kdviz import analysis, schema, units
from kdviz.entropy import gain_ratio, solve
from kdviz.errors import (
    ConvergenceWarning,
    DataError,
    DegenerateWarning,
    LayerError,
    StoreError,
)
from kdviz.gain import Bench, descend, estimate_gain, measure_change
from kdviz.measuring import Measurement, Settings, measure, measure_checkpoints
from kdviz.measuring.blocks import measure_block
from kdviz.measuring.pictures import draw_inputs
from kdviz.networks.features import FeatureReader
from kdviz.networks.inputs import prepare_inputs
from kdviz.store import Run, create_run, open_run
from kdviz.testing import linear_problem, random_images, small_cnn
from kdviz.training import weight_distance

GRID = units.grid(4)
TARGET_ENTROPY = -2.8  # to three digits; the calibration is 0.386 nat above the entropy at 0.01
FAST = {"probes": 8, "draws": 2, "progress": False}


def by_layer(ds):
    """Take several layers apart."""
    if "layer" not in ds.dims:
        return ds
    return {name: ds.sel(layer=name, drop=True) for name in ds["layer"].values.tolist()}


def measure_cnn(network=None, images=None, **options):
    options = {"layers": "fc1", "units": GRID, "method": "gain"} | FAST | options
    network = small_cnn(seed=1) if network is None else network
    return by_layer(measure(network, random_images(3, seed=3) if images is None else images, **options))


def assert_equal_arrays(ours, theirs, names=(*schema.MEASURED,)):
    for name in names:
        np.testing.assert_array_equal(ours[name].values, theirs[name].values, err_msg=name)


def changed_cnn(step):
    """The weights of one network after `step` invented steps of training."""
    network = small_cnn(seed=1)
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * step * torch.randn(parameter.shape, generator=generator) * parameter.std()
    return network


class CountingPasses(nn.Module):
    """Counts forward and backward passes of samples through the network behind it."""

    def __init__(self, network):
        super().__init__()
        self.inner = network
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.inner(x)

    def _count(self, gradient):
        self.backwards += len(gradient)


class FailsAtCall(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.call:
            raise KeyError("this forward pass fails")
        return x


# -- what the papers' formulas demand


def test_measure__linear_layer_has_its_closed_form():
    # Eq. (4) of Zhang et al., TPAMI 2022, solved by hand where the feature is linear in the input
    problem = linear_problem()
    ds = measure(
        problem.network,
        problem.inputs,
        layers="linear",
        units=problem.units,
        feature="identity",
        progress=False,
    )
    np.testing.assert_allclose(ds["gain"][0], np.tile(problem.gain, (2, 1)), rtol=1e-5)  # float32
    np.testing.assert_allclose(ds["feature_variance"], 1e-4 * problem.gain.sum(), rtol=1e-4)
    ratio = problem.gain / problem.gain.mean()
    np.testing.assert_allclose(ds["noise_scale"][0, 0], 0.01 * solve(ratio).noise_ratio, rtol=1e-4)
    loss = (solve(ratio).noise_ratio ** 2 * ratio).mean()
    np.testing.assert_allclose(ds["feature_loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(ds["linearity"], 1, atol=1e-4)
    np.testing.assert_allclose(ds["linearity_quartile"], 1, atol=1e-3)
    assert (ds["method"] == schema.METHODS.index("gain")).all()
    assert ds["converged"].all()


@pytest.mark.parametrize("method", ["gain", "path"])
@pytest.mark.parametrize("factor", [4.0, 10.0])
def test_measure__uniform_rescaling_of_a_pair_changes_nothing(factor, method):
    # Zhang et al., TPAMI 2022, section 3.2 and Fig. 1(b): coherency
    network, rescaled = small_cnn(seed=1), small_cnn(seed=1)
    with torch.no_grad():
        rescaled.conv1.weight /= factor
        rescaled.conv1.bias /= factor
        rescaled.conv2.weight *= factor
    images = random_images(2, seed=3)
    torch.testing.assert_close(rescaled(images), network(images))
    layers = ["conv1", "conv2", "fc1", "fc2"]
    before, after = (measure_cnn(net, images, layers=layers, method=method) for net in (network, rescaled))
    for layer in layers:
        # the map varies by 0.05 nat or more; rounding of float32 features leaves about 1e-6
        assert before[layer]["entropy"].std() > 0.02
        np.testing.assert_allclose(after[layer]["entropy"], before[layer]["entropy"], atol=1e-4)
    shrunk = after["conv1"]["feature_variance"] * factor**2
    np.testing.assert_allclose(shrunk, before["conv1"]["feature_variance"], rtol=1e-4)

    gradients = []  # the negative control: the raw gradient at the inner layer does change
    for net in (network, rescaled):
        inner = net.relu1(net.conv1(images)).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net[2:](inner).sum(), inner)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[1], factor * gradients[0], rtol=1e-4, atol=1e-5)


def test_measure__rescaling_single_channels_moves_the_layer_between():
    # A limit of the method: channels are weighted anew inside the feature distance of that layer alone.
    network, rescaled = small_cnn(seed=1), small_cnn(seed=1)
    factors = torch.tensor([0.1, 10.0, 1.0, 4.0, 0.25, 1.0])
    with torch.no_grad():
        rescaled.conv1.weight /= factors[:, None, None, None]
        rescaled.conv1.bias /= factors
        rescaled.conv2.weight *= factors[None, :, None, None]
    layers = ["conv1", "conv2", "fc1"]
    before, after = (measure_cnn(net, layers=layers) for net in (network, rescaled))
    for layer in ("conv2", "fc1"):
        np.testing.assert_allclose(after[layer]["entropy"], before[layer]["entropy"], atol=1e-4)
    assert abs(after["conv1"]["entropy"] - before["conv1"]["entropy"]).mean() > 0.01


def test_measure__entropy_meets_its_calibration_or_is_flagged():
    # Cheng et al., CVPR 2020, published code, sigma/train_sigma.py: a mean entropy of -2.8
    ds = measure_cnn()
    assert ds["converged"].all()
    np.testing.assert_allclose(ds["entropy"].mean("unit"), TARGET_ENTROPY, atol=5e-4)
    with pytest.warns(ConvergenceWarning, match="'fc1' does not meet the calibration for 3 of 3"):
        flagged = measure_cnn(calibration=0.9)  # beyond the optimum of a layer of equal gains, 0.626
    assert not flagged["converged"].any()
    assert (flagged["entropy"].mean("unit") < TARGET_ENTROPY - 0.386 + 0.9).all()
    assert flagged["noise_scale"].min() >= 0.001
    assert flagged["noise_scale"].max() <= 1


# -- the same noise for all


def test_measure__same_seed_same_bits_other_seed_others():
    first, again, other = (measure_cnn(method="auto", seed=seed) for seed in (0, 0, 1))
    assert_equal_arrays(first, again)
    assert abs(first["entropy"] - other["entropy"]).max() > 1e-3


def test_measure__is_independent_of_order_and_batch():
    images, names = random_images(5, seed=3), list("abcde")
    one_batch = measure_cnn(images=images, sample_ids=names)
    order = [3, 0, 4, 2, 1]
    shuffled = measure_cnn(images=images[order], sample_ids=[names[row] for row in order])
    split = measure_cnn(images=images, sample_ids=names, max_batch=2)
    for other in (shuffled.sel(sample=names), split):
        # kernels sum in another order for another batch: rounding of float32
        np.testing.assert_allclose(other["entropy"], one_batch["entropy"], atol=5e-5)
        np.testing.assert_allclose(other["gain"], one_batch["gain"], rtol=1e-4)


def test_measure__noise_follows_the_name_not_the_picture():
    images = random_images(1, seed=3).expand(2, -1, -1, -1)
    named = measure_cnn(images=images, sample_ids=["a", "b"])
    assert abs(named["gain"][0, 0] - named["gain"][0, 1]).max() > 1e-5  # the same picture, other noise
    swapped = measure_cnn(images=images, sample_ids=["b", "a"])
    np.testing.assert_allclose(swapped.sel(sample="a")["gain"], named.sel(sample="a")["gain"], rtol=1e-5)


def test_measure__names_samples_by_what_they_hold():
    images = random_images(2, seed=3)
    ds = measure_cnn(images=torch.cat([images, images[:1]]))
    first, second, repeated = ds["sample"].values.tolist()
    assert first != second
    assert repeated == f"{first}-2"
    assert measure_cnn(images=images[1:])["sample"].item() == second


def test_measure__takes_batches_as_well_as_one_tensor():
    images = random_images(5, seed=3)
    assert_equal_arrays(measure_cnn(images=iter(images.split(2))), measure_cnn(images=images))


def test_measure__unchanged_network_keeps_all_its_points():
    weights = small_cnn(seed=1).state_dict()
    foreground = np.zeros((4, 8, 8), bool)
    foreground[:, 2:6, 2:6] = True
    ds = measure_checkpoints(
        small_cnn, dict.fromkeys((0, 1, 5), weights), random_images(4, seed=3), network="s", role="student",
        layers="fc1", units=GRID, foreground=foreground, **FAST,
    )  # fmt: skip
    for epoch in (1, 2):
        assert_equal_arrays(ds.isel(epoch=epoch), ds.isel(epoch=0))
    found = analysis.find_points(ds, threshold=0.02)
    assert 0 < found["knowledge_point"].where(found["foreground"], False).sum() < foreground.sum()
    learning = analysis.measure_learning(found)
    assert (learning["rho"] == 1).all()
    assert learning["rho_mean"] == 1


# -- methods


def test_measure__auto_takes_the_path_where_the_gain_does_not_carry():
    images = random_images(6, seed=3)
    options = {"base_noise": 0.2, "images": images, "probes": 16, "draws": 4}  # large noise: kinks are met
    gain, path, auto = (measure_cnn(method=method, **options) for method in ("gain", "path", "auto"))
    outside = (auto["linearity"] < 0.8) | (auto["linearity"] > 1.25)
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(auto["method"] == schema.METHODS.index("path"), outside)
    chosen = outside.values[0]
    # the path's samples run in a smaller batch: rounding, over 40 steps
    for rows, other in ((chosen, path), (~chosen, gain)):
        np.testing.assert_allclose(auto["entropy"][0, rows], other["entropy"][0, rows], atol=1e-4)
    assert abs(path["entropy"] - gain["entropy"]).max() > 0.01


def test_measure__gains_of_a_path_derive_to_its_noise(monkeypatch):
    ends = []

    def descend_and_note(*args, **options):
        ends.append(descend(*args, **options))
        return ends[-1]

    monkeypatch.setattr("kdviz.measuring.blocks.descend", descend_and_note)
    ds = measure_cnn(method="path", probes=16, draws=4)
    assert (ds["gain"] > 0).all()
    # what was descended to, and what is stored; float32
    np.testing.assert_allclose(ds["noise_scale"][0] / 0.01, ends[0].noise_ratio, rtol=1e-6)
    ratio = gain_ratio(ds["gain"], ds["feature_variance"], ds["valid"], 0.01)
    # gains are stored in float32
    np.testing.assert_allclose(solve(ratio).noise_ratio, ds["noise_scale"] / 0.01, rtol=1e-6)
    np.testing.assert_allclose(analysis.derive_entropy(ds)["entropy"], ds["entropy"], atol=1e-6)


def test_measure__feature_loss_is_that_of_where_the_path_ended():
    network, images, names = small_cnn(seed=1).eval(), random_images(2, seed=3), ["a", "b"]
    ds = measure_cnn(network, images, method="path", sample_ids=names, draws=4)
    bench = Bench(
        FeatureReader(network, ["fc1"]),
        images,
        sample_ids=names,
        unit_index=GRID.index((3, 8, 8)),
        unit_count=16,
        base_noise=0.01,
        seed=0,
    )
    surrogates = estimate_gain(bench, probes=8, points=4)
    scale = torch.from_numpy(ds["noise_scale"].values[0])
    loss = measure_change(bench, scale, draws=32, purpose="check", surrogates=surrogates)["fc1"]
    expected = loss.squared.numpy() / ds["feature_variance"].values[0]
    np.testing.assert_allclose(ds["feature_loss"][0], expected, rtol=1e-5)  # stored in float32
    before = measure_cnn(network, images, method="gain", sample_ids=names, draws=4)["feature_loss"]
    assert abs(ds["feature_loss"] - before).min() > 5e-4  # it is 1e-7 for the same end


def test_measure__path_that_gives_up_is_flagged(monkeypatch):
    monkeypatch.setattr("kdviz.measuring.blocks.descend", partial(descend, longest=5))
    with pytest.warns(ConvergenceWarning, match="for 3 of 3 sample epochs"):
        assert not measure_cnn(method="path")["converged"].any()


def test_measure__path_and_gain_agree_where_noise_is_small():
    gain, path = (
        measure_cnn(method=method, probes=64, draws=8, base_noise=1e-3) for method in ("gain", "path")
    )
    # the descent's own noise with 8 draws, about 0.01 nat, against a map of 0.06
    assert np.sqrt(((gain["entropy"] - path["entropy"]) ** 2).mean()) < 0.025
    assert np.corrcoef(gain["entropy"].values.ravel(), path["entropy"].values.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("layers", [["inner.fc1"], ["inner.conv2", "inner.fc1"]])
def test_measure__spends_the_passes_it_says(layers):
    samples, probes, draws = 3, 8, 4
    spent = {}
    for method in ("gain", "path"):
        network = CountingPasses(small_cnn(seed=1))
        measure_cnn(network, layers=layers, method=method, probes=probes, draws=draws)
        tried = np.array([7, 2 * len(layers)])  # one sample alone and beside another, before the work
        spent[method] = np.array([network.forwards, network.backwards]) - tried
    checks = 32 + 4 * 2  # the solution, and each quartile with two draws
    clean_and_shared = 1 + draws + 32
    forwards = samples * (clean_and_shared + len(layers) * checks)
    of_pairs = 2 * (probes // 4)  # forward, and backward
    assert spent["gain"].tolist() == [
        forwards + samples * len(layers) * of_pairs,
        samples * len(layers) * (probes + of_pairs),
    ]
    more = (spent["path"] - spent["gain"]) / (samples * len(layers))
    assert 30 * draws < more[1] < 50 * draws  # about 36 steps
    assert more[0] == more[1] + 32  # and the check of where it ended


# -- degenerate cases


def test_measure__dead_feature_is_flagged():
    network = small_cnn(seed=1)
    with torch.no_grad():
        network.fc1.bias.fill_(-1e3)
    with pytest.warns(DegenerateWarning, match="'fc1' does not react to noise at all for 3 of 3") as noted:
        ds = measure_cnn(network, method="auto")
    assert not [warning for warning in noted if issubclass(warning.category, ConvergenceWarning)]
    assert (ds["feature_variance"] == 0).all()
    assert not ds["converged"].any()
    assert np.isfinite(ds["entropy"]).all()
    assert (ds["entropy"] == ds["entropy"][0, 0, 0]).all()
    np.testing.assert_allclose(ds["entropy"], TARGET_ENTROPY, atol=5e-4)
    assert np.isnan(ds["feature_loss"]).all()
    assert (ds["zero_gain"] == 16).all()
    schema.validate(ds)


def test_measure__ignored_units_are_counted_and_grow_freely():
    problem = linear_problem()
    with torch.no_grad():
        problem.network.linear.weight.view(-1, 3, 8, 8)[..., :2] = 0  # the first column of cells
    ds = measure(
        problem.network,
        problem.inputs,
        layers="linear",
        units=problem.units,
        feature="identity",
        progress=False,
    )
    ignored = ds["col"] == 0
    assert (ds["zero_gain"] == 4).all()
    assert (ds["gain"].where(ignored, drop=True) == 0).all()
    assert ds["entropy"].where(~ignored).max() < ds["entropy"].where(ignored).min()


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)])
def test_measure__constant_images(images):
    ds = measure_cnn(images=images)
    assert np.isfinite(ds["entropy"]).all()
    assert ds["converged"].all()


def test_measure__one_unit():
    ds = measure_cnn(images=random_images(1), units=units.grid(1))
    np.testing.assert_allclose(ds["entropy"], [[[TARGET_ENTROPY]]], atol=5e-4)
    np.testing.assert_allclose(
        ds["linearity_quartile"][0, 0], [ds["linearity_quartile"][0, 0, 0], *3 * [np.nan]]
    )


def test_measure__a_network_that_gives_nan_is_refused():
    network = small_cnn(seed=1)
    with torch.no_grad():
        network.conv1.weight.fill_(np.nan)
    with pytest.raises(ValueError, match=r"layer 'fc1' gives NaN .* at epoch 3; .* training diverged"):
        measure_cnn(network, epoch=3)


# -- the network is left as it was


def state_of(network):
    return {
        "tensors": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "modes": [module.training for module in network.modules()],
        "flags": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "hooks": [
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in network.modules()
        ],
        "random": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002
    }


def assert_same_state(network, before):
    after = state_of(network)
    for key in ("modes", "flags", "hooks"):
        assert after[key] == before[key], key
    assert after["tensors"].keys() == before["tensors"].keys()
    for name, tensor in before["tensors"].items():
        assert torch.equal(after["tensors"][name], tensor), name
    for ours, theirs in zip(after["gradients"], before["gradients"], strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert torch.equal(after["random"], before["random"])
    np.testing.assert_array_equal(after["numpy"], before["numpy"])


def network_with_state():
    """Batch norm, dropout, an in-place activation, mixed modes and flags, gradients of an earlier step."""
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(4 * 36, 16), FailsAtCall(0),
    )  # fmt: skip
    network(random_images(4, seed=2)).square().sum().backward()
    network[0].bias.grad = None
    network[0].weight.requires_grad_(False)
    network[3].eval()
    network[5].register_forward_hook(lambda *_: None)
    network[6].calls = 0
    return network


@pytest.mark.parametrize("method", ["gain", "path"])
def test_measure__leaves_the_network_as_it_was(method):
    network = network_with_state()
    before = state_of(network)
    measure_cnn(network, layers=["0", "5"], method=method)
    assert_same_state(network, before)


@pytest.mark.parametrize("call", [1, 2, 3, 12, 40])
def test_measure__leaves_the_network_as_it_was_when_it_raises(call):
    network = network_with_state()
    network[6].call = call
    before = state_of(network)
    with pytest.raises(KeyError, match="this forward pass fails"):
        measure_cnn(network, layers="6", feature="identity", method="path")
    assert_same_state(network, before)


def test_measure__reads_the_network_in_eval_mode():
    network = network_with_state()
    trained = measure_cnn(network, layers="5")
    assert_equal_arrays(trained, measure_cnn(network.eval(), layers="5"))


def test_measure__in_place_activation_behind_the_layer_changes_nothing():
    network, in_place = small_cnn(seed=1), small_cnn(seed=1)
    in_place.relu2 = nn.ReLU(inplace=True)
    layers = {"layers": ["conv2", "fc1"], "feature": "identity"}
    plain, other = measure_cnn(network, **layers), measure_cnn(in_place, **layers)
    for layer in plain:
        assert_equal_arrays(plain[layer], other[layer])


def test_measure__opens_compiled_networks():
    network = small_cnn(seed=1)
    plain, compiled = measure_cnn(network), measure_cnn(torch.compile(network))
    assert_equal_arrays(plain, compiled)
    assert compiled.attrs["weights_fingerprint"] == plain.attrs["weights_fingerprint"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_measure__works_inside_a_block_without_gradients(mode):
    network, images = small_cnn(seed=1), random_images(2, seed=3)
    with mode():
        inside = measure_cnn(network, images, method="path")
        assert not torch.is_grad_enabled()
    assert_equal_arrays(inside, measure_cnn(network, images, method="path"))


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu", 0)])
def test_measure__copies_no_network_that_is_on_the_device(monkeypatch, device):
    monkeypatch.setattr(nn.Module, "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    assert measure_cnn(device=device).attrs["device"] == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_measure__cuda_without_number_is_the_current_one(monkeypatch):
    network = small_cnn(seed=1).cuda()
    monkeypatch.setattr(nn.Module, "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    assert measure_cnn(network, device="cuda").attrs["device"] == "cuda:0"


def test_measure__works_in_double_precision():
    images = random_images(3, seed=3)
    names, options = ["a", "b", "c"], {"sample_ids": ["a", "b", "c"]}
    double = measure_cnn(small_cnn(seed=1).double(), images.double(), **options)
    assert double["sample"].values.tolist() == names
    np.testing.assert_allclose(double["entropy"], measure_cnn(images=images, **options)["entropy"], atol=1e-5)


def test_measure__names_the_layer_and_takes_modules():
    network = small_cnn(seed=1)
    by_name, by_module = measure_cnn(network), measure_cnn(network, layers=network.fc1)
    assert_equal_arrays(by_name, by_module)
    assert by_module.attrs["layer"] == "fc1"
    assert list(measure_cnn(network, layers=("fc1",))) == ["fc1"]


class WithExtraState(nn.Module):
    """The network behind it, with an entry in its state dict that is no tensor."""

    def __init__(self):
        super().__init__()
        self.inner, self.steps = small_cnn(seed=1), 0

    def forward(self, x):
        return self.inner(x)

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


def test_measure__takes_networks_with_extra_state(tmp_path):
    network, options = WithExtraState(), {"layers": "inner.fc1", "units": GRID, "method": "gain"} | FAST
    alone = measure_cnn(network, layers="inner.fc1")
    assert_equal_arrays(alone, measure_cnn())
    torch.save(network.state_dict(), tmp_path / "2.pt")
    network.steps = 9
    assert (
        measure_cnn(network, layers="inner.fc1").attrs["weights_fingerprint"]
        == (alone.attrs["weights_fingerprint"])
    )
    checkpoints = {1: network.state_dict(), 2: tmp_path / "2.pt"}
    images = random_images(3, seed=3)
    kept = measure_checkpoints(WithExtraState, checkpoints, images, network="s", role="student", **options)
    assert_equal_arrays(kept.isel(epoch=[1]), alone)


# -- what is refused, before any work


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": torch.full((1, 3, 8, 8), np.nan)}, ValueError, r"inputs hold NaN .* samples at \[0\]"),
        (
            {"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)},
            TypeError,
            "floating point.*torch.uint8",
        ),
        ({"images": torch.zeros(0, 3, 8, 8)}, ValueError, "inputs are empty"),
        ({"images": torch.zeros(3)}, ValueError, r"shape \(B, ...\), got \(3,\)"),
        ({"images": torch.zeros(2, 8, 8)}, ValueError, r"\(channels, height, width\), got \(8, 8\)"),
        (
            {"images": [np.zeros((1, 3, 8, 8))]},
            TypeError,
            "inputs must be .* got one of ndarray",
        ),
        ({"images": []}, ValueError, "inputs are empty"),
        ({"images": 5}, TypeError, "inputs must be .* got int"),
        ({"images": torch.zeros(1, 3, 8, 8).double()}, TypeError, r"inputs.to\(torch.float32\)"),
        (
            {"images": torch.zeros(1, 3, 8, 8).half()},
            TypeError,
            "inputs are torch.float16, too coarse",
        ),
        ({"images": torch.zeros(1, 3, 8, 8).bfloat16()}, TypeError, "inputs are torch.bfloat16"),
        (
            {"images": [torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9)]},
            ValueError,
            r"samples of one shape, got samples of \[\(3, 8, 8\), \(3, 8, 9\)\]",
        ),
        ({"units": units.grid(9)}, ValueError, "9 x 9 units does not fit inputs of 8 x 8 pixels"),
        ({"units": 16}, TypeError, "units must be .*units.grid.*got int"),
        (
            {"foreground": np.ones((3, 4, 4))},
            ValueError,
            r"foreground has shape \(3, 4, 4\); .*\(3, 8, 8\)",
        ),
        ({"foreground": np.full((3, 8, 8), np.nan)}, ValueError, "foreground: masks hold NaN"),
        ({"labels": [1, 2]}, ValueError, r"labels must be 3 integers, got shape \(2,\)"),
        ({"labels": [0.5, 1, 2]}, ValueError, "labels must be 3 integers, got .* float64"),
        ({"sample_ids": ["a", "b"]}, ValueError, "sample_ids must be 3 unique names, got 2, 2 different"),
        (
            {"sample_ids": ["a", "b", "a"]},
            ValueError,
            "3 unique names, got 3, 2 different",
        ),
        ({"method": "fast"}, ValueError, "method is 'fast'; allowed: auto, gain, path"),
        ({"probes": 1}, ValueError, "probes must be an integer of 2 or more, got 1"),
        ({"probes": 8.0}, ValueError, "probes must be an integer of 2 or more, got 8.0"),
        ({"draws": 1}, ValueError, "draws must be an integer of 2 or more, got 1"),
        ({"base_noise": 0.0}, ValueError, "base_noise must be a positive number, got 0.0"),
        ({"base_noise": "a"}, ValueError, "base_noise must be a positive number, got 'a'"),
        ({"weight": "x"}, ValueError, "weight must be a positive number, got 'x'"),
        ({"calibration": True}, ValueError, "calibration must be a positive number, got True"),
        ({"weight": -1.0}, ValueError, "weight must be a positive number, got -1.0"),
        ({"calibration": np.nan}, ValueError, "calibration must be a positive number, got nan"),
        ({"seed": 1.5}, ValueError, "seed must be an integer of 0 or more, got 1.5"),
        ({"max_batch": 0}, ValueError, "max_batch must be .*1 or more, got 0"),
        ({"max_batch": 2.5}, ValueError, "max_batch must be an integer of 1 or more, got 2.5"),
        ({"max_batch": "8"}, ValueError, "max_batch must be an integer of 1 or more, got '8'"),
        ({"max_batch": True}, ValueError, "max_batch must be an integer of 1 or more, got True"),
        ({"device": "banana"}, ValueError, "device 'banana' cannot be used here: Expected one of cpu"),
        ({"device": 3.5}, ValueError, "device 3.5 cannot be used here"),
        ({"layers": 3}, LayerError, "layers must be a name, a module or a sequence of them, got 3"),
        ({"layers": ["fc1", ["fc2"]]}, LayerError, "unknown layer"),
        ({"epoch": -1}, ValueError, "epoch must be an integer of 0 or more, got -1"),
        ({"feature": "gelu"}, ValueError, "feature is 'gelu'; did you mean 'relu'"),
        ({"layers": "fc7"}, LayerError, "unknown layer 'fc7'; did you mean 'fc"),
        ({"layers": []}, LayerError, r"layers must be .* got \[\]"),
    ],
)
def test_measure__refuses_bad_arguments(options, error, message):
    network = CountingPasses(small_cnn(seed=1)).inner
    calls = []
    network.conv1.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(error, match=message):
        measure_cnn(network, **options)
    assert not calls


def test_measure__misspelt_options_raise():
    with pytest.raises(TypeError, match="prob"):
        measure_cnn(prob=3)


# -- checkpoints


CHECKPOINTS = {0: 0, 2: 1, 5: 2}


def measure_epochs(checkpoints, images=None, **options):
    options = (
        {"network": "student", "role": "student", "layers": ["conv2", "fc1"], "units": GRID} | FAST | options
    )
    images = random_images(5, seed=3) if images is None else images
    return by_layer(measure_checkpoints(small_cnn, checkpoints, images, **options))


@pytest.fixture
def states():
    return {epoch: changed_cnn(step).state_dict() for epoch, step in CHECKPOINTS.items()}


def test_measure_checkpoints__equals_measuring_every_epoch(states):
    images = random_images(19, seed=3)  # two blocks
    together = measure_epochs(states, images)
    for position, (epoch, step) in enumerate(CHECKPOINTS.items()):
        alone = measure_cnn(changed_cnn(step), images, layers=["conv2", "fc1"], method="auto", epoch=epoch)
        for layer, ds in together.items():
            assert ds["epoch"][position] == epoch
            assert_equal_arrays(ds.isel(epoch=[position]), alone[layer])
    assert abs(together["fc1"]["entropy"].diff("epoch")).max() > 0.01


def test_measure_checkpoints__with_a_store_is_the_same(states, tmp_path):
    kept = measure_epochs(states, foreground=np.eye(5, 16, dtype=bool), labels=np.arange(5))
    stored = measure_epochs(
        states, foreground=np.eye(5, 16, dtype=bool), labels=np.arange(5), store=tmp_path / "run"
    )
    for layer in ("conv2", "fc1"):
        assert_equal_arrays(stored[layer], kept[layer], (*schema.MEASURED, "foreground", "label", "valid"))
        for name in ("weights_fingerprint", "input_fingerprint", "config", "seed", "network_role"):
            assert stored[layer].attrs[name] == kept[layer].attrs[name]
        assert open_run(tmp_path / "run").dataset("student", layer).equals(stored[layer])


def test_measure_checkpoints__stores_its_inputs_as_pictures(states, tmp_path):
    images = torch.zeros(2, 3, 8, 8)
    images[0, 0] = -1 + 3 * torch.arange(64.0).reshape(8, 8) / 63  # a ramp: -1 is black, 2 is white
    images[1, 2, 3, 4] = 0.51
    measure_epochs({0: states[0]}, images, store=tmp_path / "run")
    pictures = open_run(tmp_path / "run").samples["thumbnail"]
    assert pictures.dims == ("sample", "y_pixel", "x_pixel", "channel") and pictures.dtype == np.uint8
    ramp = np.rint(np.arange(64) * 255 / 63).reshape(8, 8)
    np.testing.assert_array_equal(pictures[0, :, :, 0], ramp)
    assert (pictures[0, :, :, 1:] == 85).all(), "0 is a third of the way from -1 to 2, in every image"
    assert pictures[1, 3, 4].values.tolist() == [85, 85, 128]  # 1.51 / 3 of 255 is 128.35


def test_draw_inputs__shrinks_large_images_and_leaves_out_other_channels():
    ramp = torch.arange(8.0).repeat_interleave(64).expand(1, 1, 256, 512)  # 8 steps of 64 columns
    pictures = draw_inputs(prepare_inputs(ramp, units.grid(1)))
    assert pictures.shape == (1, 64, 128, 1)
    expected = np.rint(np.arange(8) * 255 / 7).repeat(16)
    np.testing.assert_array_equal(pictures[0, :, :, 0], np.broadcast_to(expected, (64, 128)))
    assert draw_inputs(prepare_inputs(torch.zeros(1, 2, 8, 8), GRID)) is None
    flat = draw_inputs(prepare_inputs(torch.full((1, 3, 8, 8), 7.0), GRID))
    assert (flat == 0).all(), "one value has no range"


def test_measure_checkpoints__keeps_the_pictures_a_run_was_made_with(states, tmp_path):
    mine = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
    measure_epochs({0: states[0]}, store=tmp_path / "run", thumbnails=mine)
    measure_epochs({2: states[2]}, store=tmp_path / "run", network="baseline", role="baseline")
    np.testing.assert_array_equal(open_run(tmp_path / "run").samples["thumbnail"], mine[..., None])
    bare = prepare_inputs(random_images(5, seed=3), GRID).samples
    create_run(tmp_path / "bare", samples=bare)
    measure_epochs({0: states[0]}, store=tmp_path / "bare")
    assert "thumbnail" not in open_run(tmp_path / "bare").samples


@pytest.mark.parametrize(
    ("thumbnails", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), r"thumbnails must have shape \(5, H, W, 3\).*got \(4, 8, 8, 3\)"),
        (np.zeros((5, 8, 8, 3)), "uint8, got .* float64"),
        (np.zeros((5, 8, 8, 2), np.uint8), r"got \(5, 8, 8, 2\)"),
    ],
)
def test_measure_checkpoints__refuses_pictures_that_do_not_fit(states, tmp_path, thumbnails, message):
    with pytest.raises(ValueError, match=message):
        measure_epochs(states, store=tmp_path / "run", thumbnails=thumbnails)
    assert not (tmp_path / "run").exists()


def test_measure_checkpoints__pictures_need_a_store(states):
    with pytest.raises(ValueError, match="thumbnails are stored with a run: pass store"):
        measure_epochs(states, thumbnails=np.zeros((5, 8, 8), np.uint8))


def test_measure_checkpoints__reads_every_kind_of_checkpoint(states, tmp_path):
    paths = {0: tmp_path / "0.safetensors", 2: tmp_path / "2.pt", 5: states[5]}
    safetensors.torch.save_file(states[0], paths[0])
    torch.save(states[2], paths[2])
    from_files, from_memory = measure_epochs(paths), measure_epochs(states)
    for layer, ds in from_memory.items():
        assert_equal_arrays(from_files[layer], ds)
        assert from_files[layer].attrs["weights_fingerprint"] == ds.attrs["weights_fingerprint"]


def test_measure_checkpoints__finished_run_measures_nothing(states, tmp_path, monkeypatch):
    measure_epochs(states, store=tmp_path / "run")
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("measured again"))
    again = measure_epochs(states, store=tmp_path / "run")
    assert again["fc1"].sizes["epoch"] == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": 1}, StoreError, "seed"),
        ({"probes": 9}, StoreError, "probes"),
        ({"base_noise": 0.02}, StoreError, "base_noise"),
        ({"feature": "identity"}, StoreError, "feature"),
        ({"images": random_images(5, seed=4)}, StoreError, "other samples"),
        ({"images": random_images(4, seed=3)}, StoreError, "other samples"),
    ],
)
def test_measure_checkpoints__refuses_to_go_on_with_other_settings(states, tmp_path, change, error, message):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    with pytest.raises(error, match=message):
        measure_epochs(states, store=tmp_path / "run", layers="fc1", **change)


def test_measure_checkpoints__refuses_to_go_on_with_other_weights(states, tmp_path):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    states[5] = changed_cnn(3).state_dict()
    with pytest.raises(StoreError, match="weights_fingerprint"):
        measure_epochs(states, store=tmp_path / "run", layers="fc1")


NAMES = list("abcde")
MASKS = np.eye(5, 16, dtype=bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": random_images(5, seed=4)}, "other samples: input_fingerprint differ"),
        ({"foreground": ~MASKS}, "other samples: foreground"),
        ({"labels": np.arange(5)[::-1]}, "other samples: label differ"),
        ({"sample_ids": list("abcdf")}, "other samples: sample"),
    ],
)
@pytest.mark.parametrize("network", ["student", "another"])
def test_measure_checkpoints__refuses_a_run_of_other_inputs_before_any_work(
    states, tmp_path, monkeypatch, network, change, message
):
    options = {"sample_ids": NAMES, "layers": "fc1", "foreground": MASKS, "labels": np.arange(5)}
    measure_epochs(states, store=tmp_path / "run", **options)
    run = open_run(tmp_path / "run")
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("measured"))
    with pytest.raises(StoreError, match=message):
        measure_epochs(states, store=run, network=network, **(options | change))
    assert run.networks == ["student"]


def test_measure_checkpoints__refuses_masks_that_the_run_has_not(states, tmp_path):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    with pytest.raises(StoreError, match="other samples: foreground differ"):
        measure_epochs(states, store=open_run(tmp_path / "run"), layers="fc1", foreground=MASKS)


def test_measure_checkpoints__refuses_masks_without_the_void_that_the_run_has(states, tmp_path):
    void = np.where(~MASKS & (np.arange(MASKS.size).reshape(MASKS.shape) % 3 == 0), -1, MASKS.astype(int))
    options = {"store": tmp_path / "run", "layers": "fc1", "method": "gain"}
    done = measure_epochs({0: states[0]}, foreground=void, **options)
    np.testing.assert_array_equal(done["void"], void < 0)
    assert measure_epochs({0: states[0]}, foreground=void, **options).identical(done)
    with pytest.raises(StoreError, match="other samples: void differ"):
        measure_epochs({0: states[0]}, foreground=MASKS, **options)
    assert measure_epochs({0: states[0]}, **options).identical(done), "without masks those of the run stay"


def begin(states, path, monkeypatch, blocks, **options):
    """Measure some blocks, then stop as if out of memory."""
    done = []

    def measure_or_stop(*arguments):
        if len(done) == blocks:
            raise MemoryError
        done.append(1)
        return measure_block(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("kdviz.measuring.measurement.measure_block", measure_or_stop)
        with pytest.raises(MemoryError):
            measure_epochs(states, store=path, **options)


def test_measure_checkpoints__goes_on_with_other_samples_in_a_pass(states, tmp_path, monkeypatch):
    whole = measure_epochs(states)
    begin(states, tmp_path / "run", monkeypatch, blocks=1)
    continued = measure_epochs(states, store=tmp_path / "run", max_batch=2)
    smaller = measure_epochs(states, max_batch=2)
    for layer in whole:
        first, rest = {"epoch": [0]}, {"epoch": [1, 2]}
        assert_equal_arrays(continued[layer].isel(first), whole[layer].isel(first))
        assert_equal_arrays(continued[layer].isel(rest), smaller[layer].isel(rest))
        assert json.loads(continued[layer].attrs["config"])["micro_batch"] == 16
        # kernels sum in another order for another batch: rounding of float32, by path over 40 steps
        by_path = whole[layer]["method"] == schema.METHODS.index("path")
        for chosen, atol in ((~by_path, 1e-5), (by_path, 1e-4)):
            ours, theirs = (ds[layer]["entropy"].where(chosen) for ds in (continued, whole))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


class RunsCode:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_truncated(path):
    torch.save(small_cnn().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])


def write_truncated_safetensors(path):
    safetensors.torch.save_file(small_cnn().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("0.pt", lambda path: None, "there is no checkpoint at"),
        ("0.pt", write_truncated, "cannot read the checkpoint"),
        ("0.pt", lambda path: path.write_bytes(b"garbage" * 100), "cannot read the checkpoint"),
        ("0.pt", lambda path: path.write_bytes(b""), "cannot read the checkpoint"),
        ("0.safetensors", write_truncated_safetensors, "cannot read the checkpoint"),
        ("0.safetensors", lambda path: path.write_bytes(b"garbage" * 100), "cannot read the checkpoint"),
        ("0.pt", lambda path: torch.save([1, 2], path), "holds no weights"),
        ("0.pt", lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
        ("0.pt", lambda path: torch.save({"w": torch.ones(2)}, path), "does not fit the network"),
        ("0.pt", lambda path: torch.save(small_cnn(width=5).state_dict(), path), "does not fit the network"),
    ],
)
def test_measure_checkpoints__refuses_bad_files(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=message):
        measure_epochs({0: path})


@pytest.mark.parametrize("state", [{}, {"epoch": 3}])
def test_measure_checkpoints__refuses_a_state_dict_that_is_none(state):
    with pytest.raises(DataError, match="the state dict holds no weights"):
        measure_epochs({0: state})


def test_weight_distance__refuses_bad_files(tmp_path):
    initial = small_cnn().state_dict()
    (tmp_path / "bad.pt").write_bytes(b"garbage" * 100)
    for name, message in (("none.safetensors", "there is no checkpoint at"), ("bad.pt", "cannot read the")):
        with pytest.raises(DataError, match=message):
            weight_distance({1: tmp_path / name}, layer="fc1", initial=initial)


def test_measure_checkpoints__refuses_untrained_weights_among_others(states, monkeypatch):
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(TypeError, match="got None among several"):
        measure_epochs(states | {9: None})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": small_cnn().fc1}, LayerError, "layers and entry must be names, .* got a Linear"),
        ({"layers": ["fc1", small_cnn().fc2]}, LayerError, "must be names"),
        ({"entry": small_cnn().conv1}, LayerError, "must be names, .* got a Conv2d"),
        ({"probs": 3}, ValueError, "'probs'; did you mean 'probes'"),
        ({"micro_batch": 3}, ValueError, "'micro_batch'; allowed: method, probes"),
        ({"calibration": None}, ValueError, "calibration must be a positive number, got None"),
    ],
)
def test_measure_checkpoints__refuses_bad_options(states, options, error, message):
    with pytest.raises(error, match=message):
        measure_epochs(states, **options)


@pytest.mark.parametrize("checkpoint", [5, small_cnn()], ids=lambda value: type(value).__name__)
def test_measure_checkpoints__refuses_what_is_no_checkpoint(checkpoint):
    with pytest.raises(TypeError, match="must be a path or a state dict, got " + type(checkpoint).__name__):
        measure_epochs({0: checkpoint})


def test_measure_checkpoints__never_runs_pickled_code(tmp_path):
    torch.save({"w": RunsCode(tmp_path / "code-ran")}, tmp_path / "0.pt")
    with pytest.raises(DataError, match="holds no weights"):
        measure_epochs({0: tmp_path / "0.pt"})
    assert not (tmp_path / "code-ran").exists()
    torch.load(tmp_path / "0.pt", weights_only=False)["w"].close()
    assert (tmp_path / "code-ran").exists()  # the file would have done it


@pytest.mark.parametrize(
    ("checkpoints", "error", "message"),
    [
        ({}, TypeError, "checkpoints must map epochs to weights, got {}"),
        ({-1: {}}, ValueError, "epoch must be an integer of 0 or more, got -1"),
        ({True: {}}, ValueError, "epoch must be .* got True"),
        ({"1": {}, 2: {}}, ValueError, "epoch must be .* got '1'"),
        ({1.5: {}}, ValueError, "epoch must be .* got 1.5"),
        ([{}], TypeError, r"checkpoints must map epochs to weights, got \[{}\]"),
    ],
)
def test_measure_checkpoints__refuses_bad_epochs(checkpoints, error, message):
    with pytest.raises(error, match=message):
        measure_epochs(checkpoints)


def test_measure_checkpoints__names_the_epoch_whose_training_diverged(states):
    states[2]["conv1.weight"][:] = np.nan
    with pytest.raises(ValueError, match=r"layer 'conv2' gives NaN .* at epoch 2; .* training diverged"):
        measure_epochs(states)


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


# -- a feature is what it does


def make_feature(factor):
    return lambda output: (output - factor).relu()


def clipped(output, most):
    return output.clamp(0, most)


class Clipped:
    def __init__(self, most):
        self.most = most

    def __call__(self, output):
        return output.clamp(0, self.most)

    def clip(self, output):
        return self(output)


class Projected(nn.Module):
    """Has weights of its own, in float32."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(12, 3)

    def forward(self, output):
        return self.linear(output)


FEATURES = {
    "closure": (make_feature, 0.0, 0.125, r"make_feature\.<locals>\.<lambda>"),
    "partial": (lambda most: partial(clipped, most=most), 0.25, 0.5, "partial of clipped"),
    "large": (lambda most: partial(clipped, most=most), 20, 60, "partial of clipped"),  # beyond what comes
    "object": (Clipped, 0.25, 0.5, "Clipped"),
    "method": (lambda most: Clipped(most).clip, 0.25, 0.5, r"Clipped\.clip"),
    "module": (Projected, 0, 1, "Projected"),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_measure_checkpoints__another_callable_is_another_feature(states, tmp_path, kind):
    make, first, second, name = FEATURES[kind]
    options = {"layers": "fc1", "method": "gain", "store": tmp_path / "run"}
    done = measure_epochs({0: states[0]}, feature=make(first), **options)
    assert re.fullmatch(f"{name} [0-9a-f]{{8}}", done.attrs["feature"])
    assert_equal_arrays(measure_epochs({0: states[0]}, feature=make(first), **options), done)
    with pytest.raises(
        StoreError, match=f"already measured with feature .{name} [0-9a-f]{{8}}., now .{name}"
    ):
        measure_epochs({0: states[0]}, feature=make(second), **options)


IDENTIFY = """
import torch
from test_measuring import FEATURES, describe
torch.set_num_threads(2)
for make, first, second, _ in FEATURES.values():
    print(describe(make(first)), describe(make(second)))
"""


def describe(feature):
    inputs, settings = prepare_inputs(random_images(1), GRID), Settings.for_units(GRID, feature=feature)
    return Measurement(small_cnn, {0: None}, inputs, "fc1", settings).attrs("fc1")["feature"]


def test_measurement__another_process_knows_a_callable_again(tmp_path):
    here = "".join(
        f"{describe(make(one))} {describe(make(other))}\n" for make, one, other, _ in FEATURES.values()
    )
    found = subprocess.run(
        [sys.executable, "-c", IDENTIFY], capture_output=True, text=True, cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
    )  # fmt: skip
    assert found.stdout == here, found.stderr
    assert len(set(here.replace("\n", " ").split())) > 2 * len(FEATURES), "each has a hash of its own"


@dataclass
class Output:
    hidden: torch.Tensor
    pooled: torch.Tensor


class GivesMore(nn.Module):
    """Its layer gives an object of tensors, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = small_cnn(seed=1), Packed()

    def forward(self, x):
        return self.layer(self.inner.conv1(x)).pooled


class Packed(nn.Module):
    def forward(self, x):
        return Output(x, x.mean((2, 3)))


def test_measurement__features_are_told_by_every_part_of_an_output():
    inputs = prepare_inputs(random_images(2, seed=3), GRID)

    def tell(feature, network=GivesMore, layer="layer"):
        settings = Settings.for_units(GRID, feature=feature)
        return Measurement(network, {0: None}, inputs, layer, settings).attrs(layer)["feature"].split()[-1]

    told = [
        tell(feature)
        for feature in (
            lambda output: output.pooled,
            lambda output: output.hidden,
            lambda output: output.hidden.mean((2, 3)),
            lambda output: output.pooled * 2,
        )
    ]
    assert len(set(told)) == 4
    assert tell(lambda output: output.pooled.clone()) == told[0], "it does the same"
    bare = [tell(make, small_cnn, "fc1") for make in (torch.relu, nn.ReLU(), lambda out: out.clamp(min=0))]
    assert len(set(bare)) == 1
    others = (torch.sqrt, torch.log, torch.abs, torch.nn.functional.gelu, lambda out: out * (out > 1e-3))
    assert len({*bare, *(tell(one, small_cnn, "fc1") for one in others)}) == 6


def test_measure__several_layers_keep_the_name_of_a_callable():
    ds = measure(
        small_cnn(seed=1),
        random_images(2),
        layers=["conv2", "fc1"],
        units=GRID,
        feature=torch.sigmoid,
        **FAST,
    )
    assert ds.attrs["feature"] == "sigmoid"


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


class RootOfDistance(nn.Module):
    """Ends in a root, whose slope at zero is infinite: most features have a value and no gradient."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 5, bias=False)

    def forward(self, x):
        z = self.fc(x.flatten(1))
        return (z.relu() * (z > 1)).sqrt()


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


def test_measure_checkpoints__finished_is_seen_without_a_network(states, tmp_path):
    done = measure_epochs(states, store=tmp_path / "run")
    options = {"network": "student", "role": "student", "layers": ["conv2", "fc1"], "units": GRID} | FAST
    again = measure_checkpoints(
        lambda: pytest.fail("built a network"), states, random_images(5, seed=3), store=tmp_path / "run",
        **options,
    )  # fmt: skip
    assert_equal_arrays(by_layer(again)["fc1"], done["fc1"])


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


def test_measure__no_number_is_refused_before_the_work():
    network = nn.Sequential(OrderedDict(body=RootOfDistance(), root=nn.Identity()))
    with pytest.raises(ValueError, match="'root' gives NaN or infinite features or gradients, with small"):
        measure_cnn(network, random_images(3, seed=3), layers="root")


def test_measure__sample_without_a_number_is_named():
    images = random_images(3, seed=3)
    images[1] *= 1e8
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(192, 5)))
    with pytest.raises(ValueError, match=r"'fc' gives NaN or infinite .* for b; leave"):
        measure_cnn(
            network, images, layers="fc", sample_ids=list("abc"), feature=lambda out: (out + 1e3).sqrt()
        )


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


# -- another opinion, without gains


def test_measure__optimum_of_the_gains_is_that_of_sampled_losses():
    network, images = small_cnn(seed=1), random_images(2, seed=3)
    quiet = {"units": GRID, "base_noise": 1e-3, "progress": False}
    inputs, settings = prepare_inputs(images, GRID), Settings.for_units(GRID, base_noise=1e-3)
    same = Measurement(lambda: network, {0: None}, inputs, "fc1", settings)
    sampled = sampled_optimum.measure_entropy(same, steps=150)
    gains = kdviz.measure(network, images, layers="fc1", method="gain", probes=64, draws=8, **quiet)
    closed = kdviz.derive_entropy(gains, solver="optimum", calibration=None)
    # 0.02 nat are seen at 400 steps; shorter and so noisier here, against maps that spread over 0.2 nat
    # each has its own feature variance from a few draws, which shifts a whole map
    apart = closed["entropy"][0] - sampled
    shift = apart.mean("unit")
    assert float(abs(shift).max()) < 0.1
    assert float(abs(apart - shift).mean()) < 0.04
    assert np.corrcoef(sampled.ravel(), closed["entropy"].values.ravel())[0, 1] > 0.95
    other = kdviz.derive_entropy(gains, solver="optimum", weight=10.0, calibration=None)
    assert float(abs(other["entropy"][0] - sampled).mean()) > 0.1  # the weight is seen


def test_measure_checkpoints__state_dict_in_a_training_record_is_taken() -> None:
    weights = small_cnn(seed=1).state_dict()
    ours, theirs = (
        kdviz.measure_checkpoints(
            small_cnn,
            {0: checkpoint},
            random_images(1),
            network="n",
            role="student",
            layers="fc1",
            units=GRID,
            method="gain",
            probes=2,
            draws=2,
            progress=False,
        )
        for checkpoint in ({"epoch": 3, "state_dict": weights}, weights)
    )
    np.testing.assert_array_equal(ours["gain"].values, theirs["gain"].values)


# -- units of different size


def test_unit_gain__cells_of_other_sizes_are_kept_alike_and_coarsen_by_their_sizes():
    """Every pixel weighs alike: cells of 3 x 3, 3 x 2 and 2 x 2 pixels end at one entropy, merged or not."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(25 * 4, 2, bias=False))
    nn.init.constant_(network[1].weight, 0.1)
    images = torch.zeros(2, 1, 10, 10)
    ds = measure(network, images, layers="1", units=units.grid(4), feature="identity", progress=False)
    assert ds["unit_size"].values[0, :4].tolist() == [9, 6, 9, 6]
    np.testing.assert_allclose(ds["entropy"], ds["entropy"][0, 0, 0], atol=0.02)
    by_sum = kdviz.derive_entropy(ds, unit_gain="sum")["entropy"]
    assert float(by_sum.max() - by_sum.min()) > 0.1
    coarse = kdviz.derive_entropy(analysis.coarsen_grid(ds, 2))
    assert (coarse["unit_size"] == 25).all()
    np.testing.assert_allclose(coarse["entropy"], ds["entropy"][0, 0, 0], atol=0.02)
