"""Small networks and layers of known gain, ready to be shaken."""

import torch

from kdviz.gain import Bench, Surrogate, measure_change
from kdviz.networks.features import FeatureReader, resolve_layers
from kdviz.testing import random_images, small_cnn
from kdviz.units import grid

BASE_NOISE = 0.01


def make_bench(network, inputs, layers, *, cells=4, feature="relu", seed=0, ids=None, base_noise=BASE_NOISE):
    network.eval().requires_grad_(False)
    units = grid(cells)
    return Bench(
        FeatureReader(network, resolve_layers(network, layers), feature),
        inputs,
        sample_ids=ids or [f"image-{row}" for row in range(len(inputs))],
        unit_index=units.index(tuple(inputs.shape[1:])),
        unit_count=units.count,
        base_noise=base_noise,
        seed=seed,
    )


def linear_bench(problem, *, seed=0, ids=None):
    return make_bench(
        problem.network,
        problem.inputs,
        ["linear"],
        cells=problem.units.rows,
        feature="identity",
        seed=seed,
        ids=ids,
    )


def cnn_bench(*, layers=("fc1",), samples=2, seed=0, **options):
    return make_bench(small_cnn(seed=1), random_images(samples, seed=3), list(layers), seed=seed, **options)


def equal_noise(bench, size=None):
    scale = bench.base_noise if size is None else size
    return torch.full((len(bench.inputs), bench.unit_count), scale, dtype=torch.float64)


def variance_of(bench, surrogates, *, pairs=16):
    return measure_change(bench, equal_noise(bench), pairs=pairs, surrogates=surrogates)


def zeros_like(surrogate):
    parts = (surrogate.gain, surrogate.gain_error, surrogate.rows, surrogate.share)
    return Surrogate(*(torch.zeros_like(part) for part in parts))


def relative_difference(ours, theirs):
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1e-12)).max())
