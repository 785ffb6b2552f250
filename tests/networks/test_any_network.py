"""Networks that kdviz did not make: handled, or refused with one sentence that says what to do."""

import random
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import kdviz
from kdviz import units
from kdviz.errors import DegenerateWarning, KdvizWarning, LayerError
from kdviz.gain import Bench
from kdviz.testing import random_images, small_cnn

GRID = units.grid(4)
FAST = {"units": GRID, "method": "gain", "probes": 4, "draws": 2, "progress": False}
IMAGES = random_images(3, seed=3)


def measure(network, images=IMAGES, **options):
    return kdviz.measure(network, images, **(FAST | {"layers": "fc1"} | options))


def measured_jacobian(network, images, layer, feature, *, grid, points=2, base_noise=0.01):
    """Gains from whole Jacobians at the noise points of the measurement, taken without its code paths.

    The layer is found by a hook of this function and the Jacobian built by one vector a feature entry.
    """
    network = network.eval()
    index = torch.as_tensor(grid.index(tuple(images.shape[1:])).copy()).flatten()
    ids = [f"s{at}" for at in range(len(images))]

    class Silent:
        def __call__(self, inputs):
            return {}

    bench = Bench(
        Silent(), images, sample_ids=ids, unit_index=index.view(images.shape[1:]).numpy(),
        unit_count=grid.count, base_noise=base_noise, seed=0,
    )  # fmt: skip
    gains = []
    for sample in range(len(images)):
        total = torch.zeros(grid.count, dtype=torch.float64)
        for point in range(points):
            (noise,) = bench.noise("probe-point", range(point, point + 1))
            channels, height, width = images.shape[1:]
            in_shape = noise.view(len(images), height, width, channels).permute(0, 3, 1, 2)
            noisy = images + base_noise * in_shape

            def read(x):
                kept = []
                module = network.get_submodule(layer)
                handle = module.register_forward_hook(lambda _, __, out: kept.append(feature(out)))
                network(x)
                handle.remove()
                return kept[0].flatten()

            jacobian = torch.autograd.functional.jacobian(read, noisy[sample : sample + 1]).flatten(1)
            squares = jacobian.double().square().mean(0)
            total.index_add_(0, index, squares / points)
        gains.append(total)
    return torch.stack(gains).numpy()


def keep_probe_gains(bench, layer, surrogate, *args, **options):
    return surrogate.gain, surrogate.gain_error


def assert_gains_are_jacobians(network, images, layer, feature, *, grid=GRID):
    """The measured gains equal those of whole Jacobians, and are of some size."""
    ids = [f"s{at}" for at in range(len(images))]
    width = measured_width(network, images, layer, feature)
    options = {"units": grid, "probes": max(2, width), "draws": 2, "method": "gain", "progress": False}
    with patch("kdviz.measuring.blocks.share_loss", keep_probe_gains):
        ds = kdviz.measure(network, images, layers=layer, feature=feature, sample_ids=ids, **options)
    expected = measured_jacobian(network, images, layer, feature, grid=grid)
    assert (expected.max(1) > 0).all()
    # float32 through some dozen layers; convolutions sum in another order for another batch
    np.testing.assert_allclose(ds["gain"][0], expected, rtol=2e-3, atol=1e-4 * expected.max())
    return ds


def measured_width(network, images, layer, feature):
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(feature(out)))
    was = network.training
    with torch.no_grad():
        network.eval()(images[:1])
    network.train(was)
    handle.remove()
    return kept[0][0].numel()


def pool(output):
    """Eight numbers a sample: the mean and a fixed weighting of slices of the output."""
    flat = output.flatten(1)
    return torch.stack([part.mean(1) for part in flat.tensor_split(8, 1)], 1)


# -- networks of other packages


def torchvision_networks():
    import kdviz.models  # noqa: F401  (lets torchvision be imported beside a CPU build of torch)

    return pytest.importorskip("torchvision").models


def vision(name, **options):
    torch.manual_seed(0)
    return torchvision_networks().get_model(name, weights=None, **options)


def small_vision_transformer():
    torch.manual_seed(0)
    return torchvision_networks().VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )


def small_swin():
    torch.manual_seed(0)
    return torchvision_networks().SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=5
    )


def small_densenet():
    torch.manual_seed(0)
    return torchvision_networks().DenseNet(8, (2, 2), 16, num_classes=5, memory_efficient=False)


TORCHVISION = {
    "resnet18": (lambda: vision("resnet18", num_classes=5), "layer2", pool, 32),
    "vgg11_bn": (lambda: vision("vgg11_bn").features, "14", pool, 32),
    "alexnet": (lambda: vision("alexnet", num_classes=5), "features.6", pool, 64),
    "densenet": (small_densenet, "features.denseblock2", pool, 32),
    "squeezenet": (lambda: vision("squeezenet1_1", num_classes=5), "features.5", pool, 32),
    "mobilenet_v3_small": (lambda: vision("mobilenet_v3_small", num_classes=5), "features.6", pool, 32),
    "efficientnet_b0": (lambda: vision("efficientnet_b0", num_classes=5), "features.3", pool, 32),
    "convnext_tiny": (lambda: vision("convnext_tiny", num_classes=5), "features.3", pool, 32),
    "googlenet": (
        lambda: vision("googlenet", num_classes=5, aux_logits=True, init_weights=False),
        "inception4a", pool, 64,
    ),
    "vit": (small_vision_transformer, "encoder.layers.encoder_layer_1", pool, 32),
    "swin": (small_swin, "features.3", pool, 32),
    "lraspp": (
        lambda: vision("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=3),
        "backbone", lambda output: pool(output["low"]), 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_measure__torchvision_network_has_the_gains_of_its_jacobian(name):
    make, layer, feature, size = TORCHVISION[name]
    network = make()
    assert_gains_are_jacobians(network, random_images(2, size=size, seed=4), layer, feature)


def small_transformers_vit():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=4,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def small_transformers_resnet():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    return transformers.ResNetForImageClassification(config)


TRANSFORMERS = {
    "vit": (small_transformers_vit, "vit", lambda output: pool(output.last_hidden_state)),
    "resnet": (small_transformers_resnet, "resnet", lambda output: pool(output["last_hidden_state"])),
    "resnet-logits": (small_transformers_resnet, "classifier", lambda output: output),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_measure__transformers_network_has_the_gains_of_its_jacobian(name):
    make, layer, feature = TRANSFORMERS[name]
    assert_gains_are_jacobians(make(), random_images(2, size=32, seed=4), layer, feature)


# -- what is handled: as the plain network, to the bit


def assert_measures_alike(ours, theirs, **options):
    one, other = measure(ours, **options), measure(theirs, **options)
    for name in ("gain", "entropy", "feature_variance", "linearity"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert (one["gain"] > 0).any()


class Wrapped(nn.Module):
    """The small network with something done around one of its parts."""

    def __init__(self, before=lambda x: x, after=lambda x: x, parameters=True):
        super().__init__()
        self.inner = small_cnn(seed=1)
        self.before, self.after = before, after

    def forward(self, x):
        conv = self.inner.relu2(self.inner.conv2(self.inner.relu1(self.inner.conv1(self.before(x)))))
        return self.inner.fc1(self.after(self.inner.flatten(self.inner.pool(conv))))


class CompiledForward(Wrapped):
    @torch.compile(backend="eager")
    def forward(self, x):
        return super().forward(x)


def compiled_by_method():
    network = Wrapped()
    network.compile(backend="eager")
    return network


def compiled_part():
    network = Wrapped()
    network.inner.conv1 = torch.compile(network.inner.conv1, backend="eager")
    network.inner.fc1 = torch.compile(network.inner.fc1, backend="eager")
    return network


COMPILED = {
    "whole": lambda: torch.compile(Wrapped(), backend="eager"),
    "part": compiled_part,
    "method": compiled_by_method,
    "decorated": CompiledForward,
}


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("called_before", [False, True])
def test_measure__compiled_network_is_the_plain_one(kind, called_before):
    network = COMPILED[kind]()
    if called_before:  # compiled now as a measurement will call it, but without its hooks
        network.eval().requires_grad_(False)
        with torch.no_grad():
            network(IMAGES[:1])
    assert kdviz.list_layers(network) == kdviz.list_layers(Wrapped())
    assert_measures_alike(network, Wrapped(), layers="inner.fc1")


def test_measure__part_compiled_by_torch_is_found_under_its_plain_name_and_torchs():
    network = compiled_part()
    by_name = measure(network, layers="inner.conv1")
    assert by_name.attrs["layer"] == "inner.conv1"
    assert measure(network, layers="inner._orig_mod.conv1").attrs["layer"] == "inner.conv1"
    assert measure(network, layers=network.inner.conv1).attrs["layer"] == "inner.conv1"


def in_place_at_the_start():
    network = Wrapped(before=nn.ReLU(inplace=True))
    return network, Wrapped(before=nn.ReLU())


def traced_by_fx():
    return torch.fx.symbolic_trace(small_cnn(seed=1)), small_cnn(seed=1)


def parametrised(add):
    network, plain = small_cnn(seed=1), small_cnn(seed=1)
    for name in ("conv2", "fc1"):
        add(network.get_submodule(name))
        network(IMAGES)  # in training mode: spectral norm improves its vectors
    network.eval()
    with torch.no_grad():
        for name in ("conv2", "fc1"):
            plain.get_submodule(name).weight.copy_(network.get_submodule(name).weight)
    network.train()
    return network, plain


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return parametrised(nn.utils.weight_norm)


def frozen_weights():
    network = small_cnn(seed=1).requires_grad_(False)
    return network, small_cnn(seed=1)


def tied_weights():
    network, plain = small_cnn(channels=6, seed=1), small_cnn(channels=6, seed=1)
    network.conv2.weight = network.conv1.weight
    with torch.no_grad():
        plain.conv2.weight.copy_(plain.conv1.weight)
    return network, plain


def checkpointed():
    from torch.utils.checkpoint import checkpoint

    network = small_cnn(seed=1)
    network.conv2.forward = lambda x, f=network.conv2.forward: checkpoint(f, x, use_reentrant=False)
    return network, small_cnn(seed=1)


LIKE_THE_PLAIN = {
    "in-place-first": (in_place_at_the_start, {"layers": "inner.fc1"}),
    "fx": (traced_by_fx, {}),
    "weight-norm": (lambda: parametrised(parametrizations.weight_norm), {}),
    "old-weight-norm": (old_weight_norm, {}),
    "spectral-norm": (lambda: parametrised(parametrizations.spectral_norm), {}),
    "frozen": (frozen_weights, {}),
    "tied": (tied_weights, {"images": random_images(2, channels=6, seed=3)}),
    "checkpointed": (checkpointed, {}),
}


@pytest.mark.parametrize("kind", LIKE_THE_PLAIN)
def test_measure__is_that_of_the_plain_network(kind):
    make, options = LIKE_THE_PLAIN[kind]
    images = options.get("images", IMAGES).clone()
    assert_measures_alike(*make(), **(options | {"images": images}))
    assert torch.equal(images, options.get("images", IMAGES))


def test_measure__layer_outside_of_scripted_code():
    class Half(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body, self.head = body, nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x))

    torch.manual_seed(0)
    plain = Half(small_cnn(seed=1))
    scripted = Half(torch.jit.script(small_cnn(seed=1)))
    scripted.head = plain.head
    assert_measures_alike(scripted, plain, layers="head", feature="identity")


def test_measure__network_without_parameters():
    ds = measure(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), layers="1", feature="identity", probes=8)
    # three outputs, each the mean of one channel: a unit of 4 pixels moves it by 4 / 64^2
    np.testing.assert_allclose(ds["gain"], 4 / 64**2, rtol=1e-4)  # a loss of float32 sets the scale


def test_measure__samples_one_by_one_where_batch_norm_keeps_no_statistics():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten()
    )
    options = {"layers": "3", "sample_ids": ["a", "b", "c"]}
    with pytest.raises(ValueError, match=r"'3' depends on the other samples .* with max_batch=1"):
        measure(network, **options)
    together = measure(network, max_batch=1, **options)
    for at, name in enumerate("abc"):
        alone = measure(network, IMAGES[at : at + 1], layers="3", sample_ids=[name])
        np.testing.assert_array_equal(together["gain"][:, at], alone["gain"][:, 0])


def test_measure__hooks_of_the_user_run_and_stay():
    network, seen = small_cnn(seed=1), []
    network.conv2.register_forward_hook(lambda module, args, output: seen.append(1) or 2 * output)
    louder = small_cnn(seed=1)
    with torch.no_grad():
        louder.conv2.weight *= 2
        louder.conv2.bias *= 2
    ours, theirs = measure(network, layers="conv2"), measure(louder, layers="conv2")
    np.testing.assert_allclose(ours["gain"], theirs["gain"], rtol=1e-5)  # float32
    assert seen
    assert len(network.conv2._forward_hooks) == 1


def test_measure__one_module_under_two_names_is_found_under_both():
    network = small_cnn(seed=1)
    network.fc1.again = network.conv1
    np.testing.assert_array_equal(
        measure(network, layers="fc1.again")["gain"], measure(small_cnn(seed=1), layers="conv1")["gain"]
    )


def test_measure__rounding_that_differs_with_the_batch_is_no_dependence(monkeypatch):
    # matrix products of one sample and of two sum in another order on many processors
    plain = nn.functional.linear
    monkeypatch.setattr(F, "linear", lambda x, *weights: plain(x, *weights) * (1 + 2e-7 * (len(x) > 1)))
    assert (measure(small_cnn(seed=1), base_noise=3e-6)["gain"] > 0).any()


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


class RunsOutAt(nn.Module):
    """Raises at one forward pass, counted over all networks of the class."""

    call, calls = 0, 0
    error: type[Exception] = torch.OutOfMemoryError
    message = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def __init__(self):
        super().__init__()
        self.inner = small_cnn(seed=1)

    def forward(self, x):
        type(self).calls += 1
        if self.calls == self.call:
            raise self.error(self.message)
        return self.inner(x)


NO_MEMORY = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    (RuntimeError, "could not create a primitive"),
    (MemoryError, ""),
]


@pytest.mark.parametrize(("error", "message"), NO_MEMORY)
@pytest.mark.parametrize("call", [1, 15])
def test_measure__out_of_memory_says_what_to_lower(monkeypatch, error, message, call):
    for name, value in (("call", call), ("calls", 0), ("error", error), ("message", message)):
        monkeypatch.setattr(RunsOutAt, name, value)
    with pytest.raises(MemoryError, match="out of memory with max_batch=8; pass max_batch=4 "):
        measure(RunsOutAt(), layers="inner.fc1", max_batch=8)
    monkeypatch.setattr(RunsOutAt, "calls", 0)
    with pytest.raises(MemoryError, match="out of memory with max_batch=1; take smaller images "):
        measure(RunsOutAt(), layers="inner.fc1", max_batch=1)


def test_measure__other_runtime_errors_stay_what_they_are(monkeypatch):
    for name, value in (("call", 15), ("calls", 0), ("error", RuntimeError), ("message", "shapes differ")):
        monkeypatch.setattr(RunsOutAt, name, value)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(RunsOutAt(), layers="inner.fc1")


def test_measure_checkpoints__goes_on_with_less_memory(monkeypatch, tmp_path):
    options = FAST | {"network": "n", "role": "student", "layers": "inner.fc1", "store": tmp_path / "run"}
    states = {epoch: RunsOutAt().state_dict() for epoch in (0, 1)}
    for name, value in (("call", 100), ("calls", 0)):
        monkeypatch.setattr(RunsOutAt, name, value)
    with pytest.raises(MemoryError, match="pass max_batch=8 "):
        kdviz.measure_checkpoints(RunsOutAt, states, IMAGES, **options)
    assert RunsOutAt.calls == 100
    ds = kdviz.measure_checkpoints(RunsOutAt, states, IMAGES, max_batch=8, **options)
    np.testing.assert_allclose(ds["gain"][1], ds["gain"][0], rtol=1e-5)  # the same weights
    assert RunsOutAt.calls < 200  # the first epoch was not measured again


# -- the network is left as it was found


def hooks_of(module):
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
    )
    return [list(getattr(module, kind).items()) for kind in kinds]


def state_of(network):
    """Everything a measurement could change, as values that compare, tensors by their bytes."""

    def bits(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    legacy = np.random.get_state()  # noqa: NPY002
    return {
        "modes": [module.training for module in network.modules()],
        "hooks": [hooks_of(module) for module in network.modules()],
        "parameters": [(name, id(p), bits(p)) for name, p in network.named_parameters()],
        "flags": [parameter.requires_grad for parameter in network.parameters()],
        "gradients": [(id(p.grad), bits(p.grad)) for p in network.parameters()],
        "buffers": [(name, id(b), bits(b)) for name, b in network.named_buffers()],
        "torch": bits(torch.random.get_rng_state()),
        "numpy": (legacy[1].tobytes(), *legacy[2:]),
        "python": random.getstate(),
        "gradients-on": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


class Interrupted(nn.Module):
    """Draws from every global source, and raises at one call."""

    def __init__(self):
        super().__init__()
        self.calls, self.at, self.error = 0, 0, None

    def forward(self, x):
        self.calls += 1
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        if self.calls == self.at:
            raise self.error
        return x


def eventful_network():
    """Batch norm, dropout, spectral norm, tied and frozen weights, hooks, gradients of an earlier step."""
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(192, 16)), nn.BatchNorm1d(16), Interrupted(),
    )  # fmt: skip
    network[4].weight = network[0].weight
    network(random_images(4, seed=2)).square().sum().backward()
    network[0].bias.grad = None
    network[1].bias.requires_grad_(False)
    network[3].eval()
    network[6].register_forward_hook(lambda *_: None)
    network[4].register_full_backward_hook(lambda *_: None)
    network[8].calls = 0
    return network


STAGES = {  # at which call of the last layer, and what happens there
    "done": (0, None),
    "trial": (1, KeyError("stage")),
    "trial-gradient": (3, RuntimeError("stage")),
    "clean": (7, KeyboardInterrupt("stage")),
    "probes": (8, KeyboardInterrupt("stage")),
    "variance": (15, SystemExit("stage")),
    "check": (60, torch.OutOfMemoryError("stage")),
    "path": (110, KeyboardInterrupt("stage")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_measure__leaves_everything_as_found_at_every_stage(stage):
    network = eventful_network()
    network[8].at, network[8].error = STAGES[stage]
    before = state_of(network)
    options = {"feature": "identity", "method": "path", "probes": 4, "draws": 2, "progress": False}

    def work():
        kdviz.measure(network, IMAGES, layers="8", units=GRID, **options)

    if network[8].error is None:
        work()
        assert network[8].calls > 110  # or a stage would not be reached
    else:
        with pytest.raises((type(network[8].error), MemoryError), match="stage"):
            work()
    assert state_of(network) == before


@pytest.mark.parametrize(
    "options",
    [
        {"layers": "9"},
        {"layers": "3", "feature": "gelu"},
        {"layers": "8", "images": IMAGES.double()},
        {"layers": "8", "images": random_images(2, channels=4)},
        {"layers": "8", "feature": lambda output: output.argmax(1)},
        {"layers": "8", "feature": lambda output: None},
    ],
    ids=["layer", "name", "dtype", "channels", "gradient", "callable"],
)
def test_measure__leaves_everything_as_found_when_it_refuses(options):
    network = eventful_network()
    before = state_of(network)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        measure(network, **options)
    assert state_of(network) == before


def test_measure__never_merges_what_eval_would_merge():
    class Merging(nn.Linear):
        """Changes its weights when the mode changes, as low-rank adapters do."""

        def train(self, mode=True):
            if mode != self.training:
                with torch.no_grad():
                    self.weight *= 2 if mode else 0.5
            return super().train(mode)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), Merging(192, 5))
    before = network[1].weight.clone()
    measure(network, layers="1", feature="identity")
    assert torch.equal(network[1].weight, before)
    assert network[1].training


# -- inputs of an unusual kind


@pytest.mark.parametrize("base_noise", [None, 2.55])
def test_measure__pixels_of_0_to_255_are_pointed_at(base_noise):
    images = torch.randint(0, 256, (3, 3, 8, 8)).float()
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        measure(small_cnn(seed=1), images, base_noise=base_noise)
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
