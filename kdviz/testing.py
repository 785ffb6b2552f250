"""Small seeded problems with known answers, for examples and tests.

Everything is made from a seed without touching torch's global random state. Nothing here measures anything;
the gains of stored runs are invented.

Symbols: ``B`` samples, ``U`` units, ``D`` features, ``C`` channels.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from kdviz import schema
from kdviz.store import Run, create_run
from kdviz.units import Grid, grid

_TWO_PI_E = 2 * np.pi * np.e


@dataclass(frozen=True)
class LinearProblem:
    """A linear layer whose gains and entropies are known exactly; made by :func:`linear_problem`.

    Attributes
    ----------
    network
        Flattens the input and applies one linear layer, named ``"linear"``.
    inputs
        Shape ``(B, C, size, size)``, float32.
    units
        Grid of ``U`` units over the inputs.
    gain
        Shape ``(U,)``, float64; equal for all samples: the squared weights on the unit over ``D``.
    layer
        Name of the layer to measure, with ``feature="identity"``.
    """

    network: nn.Module
    inputs: Tensor
    units: Grid
    gain: NDArray[np.float64]
    layer: str = "linear"

    def optimum_entropy(self, *, weight: float = 7.0, base_noise: float = 0.01) -> NDArray[np.float64]:
        """Entropy in nat of every unit, ``(U,)``, where Eq. (4) of the TPAMI 2022 paper is smallest.

        ``sigma_u^2 = weight / 2 * base_noise^2 * mean(gain) / gain_u``, for the entropy averaged over units.
        """
        variance = weight / 2 * base_noise**2 * self.gain.mean() / self.gain
        return 0.5 * np.log(_TWO_PI_E * variance)


def linear_problem(
    *, samples: int = 2, features: int = 6, cells: int = 4, size: int = 8, channels: int = 3, seed: int = 0
) -> LinearProblem:
    """Make a linear layer with random weights, some units much louder than others.

    Parameters
    ----------
    samples, features
        ``B`` and ``D``.
    cells
        The units are a grid of ``cells`` x ``cells``.
    size, channels
        Inputs are ``(channels, size, size)``.
    seed
        Same seed, same bits.

    Examples
    --------
    >>> import kdviz
    >>> problem = kdviz.testing.linear_problem(features=6)
    >>> ds = kdviz.measure(problem.network, problem.inputs, layers=problem.layer, units=problem.units,
    ...                    feature="identity", progress=False)
    >>> bool(abs(ds.gain / problem.gain - 1).max() < 1e-5)
    True
    """
    units = grid(cells)
    generator = torch.Generator().manual_seed(seed)
    index = torch.as_tensor(units.index((channels, size, size)).copy()).flatten()
    loudness = torch.randn(units.count, generator=generator).mul(0.5).exp()
    weight = torch.randn(features, len(index), generator=generator) * loudness[index] / len(index) ** 0.5
    network = _build(seed, lambda: OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(len(index), features)))
    with torch.no_grad():
        network.get_parameter("linear.weight").copy_(weight)
    squares = weight.double().square().sum(0).numpy()
    gain = np.bincount(index.numpy(), squares, minlength=units.count) / features
    inputs = torch.randn(samples, channels, size, size, generator=generator)
    return LinearProblem(network, inputs, units, gain)


def small_cnn(
    *, channels: int = 3, size: int = 8, width: int = 6, features: int = 12, classes: int = 4, seed: int = 0
) -> nn.Sequential:
    """Make a small convolutional network with random weights, in training mode.

    Its layers are conv1, relu1, conv2, relu2, pool, flatten, fc1, relu3, fc2; only ReLU and max pooling stand
    between, so that rescaling one layer down and the next one up keeps its function.

    Parameters
    ----------
    channels, size
        Inputs are ``(channels, size, size)``; `size` is even.
    width, features, classes
        Channels of both convolutions, outputs of ``fc1`` and of ``fc2``.
    seed
        Same seed, same bits.

    Examples
    --------
    >>> import kdviz
    >>> network = kdviz.testing.small_cnn(size=8, classes=4)
    >>> network(kdviz.testing.random_images(2, size=8)).shape
    torch.Size([2, 4])
    """
    return _build(
        seed,
        lambda: OrderedDict(
            conv1=nn.Conv2d(channels, width, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, width, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(width * (size // 2) ** 2, features),
            relu3=nn.ReLU(),
            fc2=nn.Linear(features, classes),
        ),
    )


def random_images(samples: int, *, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """Draw standard normal images, ``(samples, channels, size, size)``, float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, channels, size, size, generator=generator)


TEXTS = (
    "a deliciously nonsensical comedy about a city coming apart at its seams .",
    "too slick and <b>manufactured</b> to claim street credibility",
    "it 's a charming and often affecting journey , & never dull .",
    "unflinchingly bleak and desperate",
    "superb",
)


@dataclass(frozen=True)
class InventedRun:
    """A stored run whose gains nobody measured and whose knowledge points are known; see `invent_text_run`.

    Attributes
    ----------
    run
        Teacher, student and baseline of seed 0, at one layer.
    layer
        Its name.
    points
        By network, ``(epochs, samples, units)``, bool: the units whose gain is far above all others.
    """

    run: Run
    layer: str
    points: Mapping[str, NDArray[np.bool_]]


def invent_text_run(
    path: str | os.PathLike[str], *, texts: Sequence[str] = TEXTS, seed: int = 0
) -> InventedRun:
    """Write a run of words with invented gains, for trying how words are shown.

    Every third word is foreground. Texts shorter than the longest are padded, as measured ones are.

    Parameters
    ----------
    path
        Run directory to make.
    texts
        Words are split at blanks.
    seed
        Same seed, same bits.

    Raises
    ------
    StoreError
        If the directory cannot be made or holds other samples.
    """
    words = [text.split() for text in texts]
    valid = np.arange(max(map(len, words))) < np.array([len(text) for text in words])[:, None]
    tokens = np.full(valid.shape, "", dtype=object)
    tokens[valid] = [word for text in words for word in text]
    foreground = valid & (np.arange(valid.shape[1]) % 3 == 1)
    samples = {"token": tokens.astype(str), "valid": valid, "foreground": foreground}
    return _invent_run(path, samples, "text", "hidden", ("negative", "positive"), seed)


def invent_cloud_run(
    path: str | os.PathLike[str], *, samples: int = 4, points: int = 300, seed: int = 0
) -> InventedRun:
    """Write a run of points in space with invented gains, for trying how clouds are shown.

    Boxes and rings, two thirds of the points, in a ball of background points.

    Parameters
    ----------
    path
        Run directory to make.
    samples, points
        Numbers of clouds and of points of each.
    seed
        Same seed, same bits.

    Raises
    ------
    StoreError
        If the directory cannot be made or holds other samples.
    """
    rng = np.random.default_rng([seed, 1])
    foreground = np.zeros((samples, points), bool)
    foreground[:, : 2 * points // 3] = True
    cloud = rng.normal(size=(samples, points, 3))
    cloud *= rng.random((samples, points, 1)) ** (1 / 3) / np.linalg.norm(cloud, axis=2, keepdims=True)
    for index, (one, inside) in enumerate(zip(cloud, foreground, strict=True)):
        count = int(inside.sum())
        if index % 2:
            turn, lift = 2 * np.pi * rng.random((2, count))
            out = 0.6 + 0.15 * np.cos(lift)
            one[inside] = np.stack([out * np.cos(turn), out * np.sin(turn), 0.15 * np.sin(lift)], axis=1)
        else:
            box = rng.uniform(-1, 1, (count, 3))
            box[np.arange(count), rng.integers(0, 3, count)] = rng.choice((-1.0, 1.0), count)
            one[inside] = box * (0.55, 0.35, 0.7)
    places = {axis: cloud[..., place].astype(np.float32) for place, axis in enumerate("xyz")}
    masks = {"valid": np.ones_like(foreground), "foreground": foreground}
    return _invent_run(path, places | masks, "cloud", "fc1", ("box", "ring"), seed)


def _invent_run(
    path: str | os.PathLike[str],
    samples: dict[str, NDArray],
    modality: str,
    layer: str,
    classes: tuple[str, str],
    seed: int,
) -> InventedRun:
    valid, foreground = samples.pop("valid"), samples.pop("foreground")
    count, units = valid.shape
    names = [f"{modality}-{index}" for index in range(count)]
    described = xr.Dataset(
        {"valid": (("sample", "unit"), valid), "foreground": (("sample", "unit"), foreground)},
        coords={
            "sample": names,
            "unit": np.arange(units),
            "label": ("sample", np.arange(count) % 2),
            **{name: (("sample", "unit"), values) for name, values in samples.items()},
        },
    )
    attrs = schema.make_attrs(
        dataset_id=f"invented {modality}",
        modality=modality,
        config={"classes": [*classes], "threshold": 0.25},
    )
    run = create_run(path, samples=described, attrs=attrs)
    points = {}
    networks = {"teacher": (9,), f"student-{layer}-s0": (0, 2, 5), "baseline-s0": (0, 2, 5)}
    for place, (network, epochs) in enumerate(networks.items()):
        rng = np.random.default_rng([seed, place])
        share = np.where(foreground, 0.5, 0.1)
        points[network] = valid & (rng.random((len(epochs), count, units)) < share)
        _invent_network(run, network, layer, epochs, valid, points[network], rng)
    return InventedRun(run, layer, points)


def _invent_network(
    run: Run,
    network: str,
    layer: str,
    epochs: tuple[int, ...],
    valid: NDArray[np.bool_],
    points: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:
    """Write one network: a gain of about 1, at its points of about 40."""
    role = network.partition("-")[0]
    attrs = schema.make_attrs(
        network_role=role, training_seed=0, seed=0, base_noise=0.01, weight=6.0, calibration=0.386,
        solver="descent", distilled_layer=layer if role == "student" else None,
    )  # fmt: skip
    gain = np.where(points, 40.0, 1.0) * np.exp(0.05 * rng.standard_normal(points.shape))
    gain = np.where(valid, gain, np.nan).astype(np.float32)
    variance = (1e-4 * np.nansum(gain, axis=-1)).astype(np.float32)
    names = ("gain", "gain_error", "feature_variance", "method")
    run.create_group(network, layer, epochs=epochs, attrs=attrs, block=len(valid), variables=names)
    for index, epoch in enumerate(epochs):
        now = slice(index, index + 1)
        block = xr.Dataset(
            {
                "gain": (("epoch", "sample", "unit"), gain[now]),
                "gain_error": (("epoch", "sample", "unit"), 0.01 * gain[now]),
                "feature_variance": (("epoch", "sample"), variance[now]),
                "method": (("epoch", "sample"), np.zeros((1, len(valid)), np.int8)),
                "valid": (("sample", "unit"), valid),
            },
            coords={
                "epoch": [epoch],
                "sample": run.samples["sample"].values,
                "unit": run.samples["unit"].values,
            },
        )
        run.write_block(network, layer, index, 0, block)
    if role != "teacher":
        moved = xr.DataArray(np.sqrt(epochs).astype(np.float32), dims="epoch", coords={"epoch": [*epochs]})
        run.write_variable(network, layer, moved.rename("weight_distance"))


def _build(seed: int, make_layers: Callable[[], OrderedDict[str, nn.Module]]) -> nn.Sequential:
    """Initialise layers from `seed`, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(make_layers())
