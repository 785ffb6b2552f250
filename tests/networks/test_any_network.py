"""Networks that kdviz did not make: measured right, and as the plain network to the bit."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from any_measurements import GRID, IMAGES, Wrapped, measure, pool
from torch import nn
from torch.nn.utils import parametrizations

import kdviz
from kdviz.gain import Bench, SharedLoss
from kdviz.testing import random_images, small_cnn


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
    return SharedLoss(surrogate.gain, surrogate.gain_error, torch.zeros(len(surrogate.gain)))


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
    # the least noise that is well above the rounding of every sample
    assert (measure(small_cnn(seed=1), base_noise=5e-6)["gain"] > 0).any()
