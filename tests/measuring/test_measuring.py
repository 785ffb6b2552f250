from functools import partial

import numpy as np
import pytest
import torch
from reference import sampled_optimum
from small_measurements import (
    FAST,
    GRID,
    TARGET_ENTROPY,
    CountingPasses,
    FailsAtCall,
    assert_equal_arrays,
    measure_cnn,
)
from torch import nn

import kdviz
from kdviz import analysis, schema, units
from kdviz.entropy import gain_ratio, solve
from kdviz.errors import (
    ConvergenceWarning,
    DegenerateWarning,
    LayerError,
)
from kdviz.gain import Bench, descend, estimate_gain, measure_change
from kdviz.measuring import Measurement, Settings, measure, measure_checkpoints
from kdviz.networks.features import FeatureReader
from kdviz.networks.inputs import prepare_inputs
from kdviz.testing import linear_problem, random_images, small_cnn

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


def test_measure__auto_takes_the_path_where_the_gain_does_not_carry(monkeypatch):
    images = random_images(6, seed=3)
    options = {"base_noise": 0.3, "images": images, "probes": 16, "draws": 4}  # large noise: kinks are met
    gain, path, auto = (measure_cnn(method=method, **options) for method in ("gain", "path", "auto"))
    outside = (auto["linearity"] < 0.8) | (auto["linearity"] > 1.25)
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(auto["method"] == schema.METHODS.index("path"), outside)
    chosen = outside.values[0]
    # the path's samples run in a smaller batch: rounding, over 40 steps
    for rows, other in ((chosen, path), (~chosen, gain)):
        np.testing.assert_allclose(auto["entropy"][0, rows], other["entropy"][0, rows], atol=1e-4)
    assert abs(path["entropy"] - gain["entropy"]).max() > 0.01
    monkeypatch.setattr("kdviz.measuring.blocks.FITTING", -np.inf)  # as if units were wrong behind their sum
    assert (measure_cnn(method="auto", **options)["method"] == schema.METHODS.index("path")).all()


class Quantised(nn.Module):
    """Steps whose gradient pretends to be that of the unrounded feature (straight-through)."""

    def __init__(self, network, step):
        super().__init__()
        self.network, self.step, self.out = network, step, nn.Identity()

    def forward(self, x):
        feature = self.network(x)
        rounded = (feature / self.step).round() * self.step
        return self.out(feature + (rounded - feature).detach())


def test_measure__auto_sees_gradients_that_are_not_those_of_the_network():
    problem = linear_problem(features=48)
    network = Quantised(problem.network, step=0.1)  # a tenth of the spread of the feature
    ds = measure(
        network, problem.inputs, layers="out", units=problem.units, feature="identity", progress=False
    )
    assert ((ds["linearity"] > 0.8) & (ds["linearity"] < 1.25)).all()  # the sum of the gains is right
    assert (ds["method"] == schema.METHODS.index("path")).all()


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
    surrogates = estimate_gain(bench, probes=8, points=2)
    scale = torch.from_numpy(ds["noise_scale"].values[0])
    loss = measure_change(bench, scale, pairs=4, surrogates=surrogates)["fc1"]
    expected = loss.numpy() / ds["feature_variance"].values[0]
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
    of_pairs = 2 * 4  # four pairs at least; they are used at the base noise, half-way and at the solution
    checks = of_pairs + 4  # the solution, and each quartile
    clean_and_shared = 1 + draws // 2 + of_pairs
    forwards = samples * (clean_and_shared + len(layers) * checks)
    assert spent["gain"].tolist() == [
        forwards + samples * len(layers) * of_pairs,
        samples * len(layers) * (probes + 2 * of_pairs),
    ]
    more = (spent["path"] - spent["gain"]) / (samples * len(layers))
    assert 30 * draws < more[1] + 2 * of_pairs < 50 * draws  # about 36 steps
    # no pairs half-way, but the feature variance of more pairs, and the check of where it ended
    assert more[0] + of_pairs == more[1] + 2 * of_pairs + 2 * 32 + of_pairs


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
        ({"images": torch.full((1, 3, 8, 8), np.nan)}, ValueError, "inputs hold NaN .* in samples 0$"),
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
            r"samples of one shape, got samples of \(3, 8, 8\), \(3, 8, 9\); resize",
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
        ({"base_noise": 0.0}, ValueError, "base_noise must be a positive number, .* got 0.0"),
        ({"base_noise": "a"}, ValueError, "base_noise must be a positive number, .* got 'a'"),
        ({"weight": "x"}, ValueError, "weight must be a positive number, .* got 'x'"),
        ({"calibration": True}, ValueError, "calibration must be a positive number, .* got True"),
        ({"weight": -1.0}, ValueError, "weight must be a positive number, .* got -1.0"),
        ({"calibration": np.nan}, ValueError, "calibration must be a positive number, .* got nan"),
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


@pytest.mark.parametrize("method", ["gain", "path"])
@pytest.mark.parametrize(("grid", "height", "width"), [((3, 3), 20, 20), ((2, 5), 7, 13)])
def test_unit_gain__a_grid_that_does_not_divide_shows_no_unit_where_pixels_weigh_alike(
    grid, height, width, method
):
    """Columns of 7 pixels have 7/6 of the gain of those of 6, and the very entropy of every other unit."""
    cut = units.grid(*grid)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 16))
    signs = torch.randint(0, 2, network[1].weight.shape, generator=torch.Generator().manual_seed(0))
    network[1].weight.data = 2.0 * signs - 1  # every pixel is as loud, in another direction
    ds = measure(
        network,
        torch.zeros(2, 3, height, width),
        layers="1",
        units=cut,
        feature="identity",
        method=method,
        foreground=np.arange(2 * cut.count).reshape(2, -1) % 2 == 0,
        progress=False,
    )
    parts = np.bincount(cut.index((3, height, width)).ravel())
    assert len({*parts}) > 1
    # by the path gains are those that end at the same noise: all a little smaller, in the same proportion
    np.testing.assert_allclose(ds["gain"][0] / parts, 1.0, rtol=1e-5 if method == "gain" else 0.03)
    np.testing.assert_allclose(ds["entropy"], TARGET_ENTROPY, atol=0.002)
    assert not kdviz.find_points(ds, threshold=0.01)["knowledge_point"].any()
