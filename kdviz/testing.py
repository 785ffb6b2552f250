"""Small seeded problems with known answers, for examples and tests.

Everything is made from a seed without touching torch's global random state. Nothing here measures anything.

Symbols: ``B`` samples, ``U`` units, ``D`` features, ``C`` channels.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdviz.units import Grid, grid


@dataclass(frozen=True)
class LinearProblem:
    """A linear layer whose gains are known exactly; made by :func:`linear_problem`.

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


def _build(seed: int, make_layers: Callable[[], OrderedDict[str, nn.Module]]) -> nn.Sequential:
    """Initialise layers from `seed`, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(make_layers())
