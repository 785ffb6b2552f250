"""The authors' procedure as they ran it, written from the description of their code and nothing of kdviz.

Cheng et al., CVPR 2020, ``sigma/train_sigma.py``: noise scales start at the base noise, are clamped before
every forward pass and moved by plain gradient descent on ``MSE / sigma_f^2 - weight * mean(H)``, with fresh
noisy copies in every step. After 60 of 80 steps the descent stops if the mean entropy has passed the target,
else the weight grows by half for the last 20. The scales with mean entropy nearest to the target are kept.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BASE_NOISE, RATE, WEIGHT, LOWEST, HIGHEST = 0.01, 1e-4, 7.0, 0.001, 1.0
STEPS, PATIENCE, DRAWS = 80, 60, 96
PASSES = DRAWS + 2 * STEPS * DRAWS
HALF_LOG_TWO_PI_E = 0.5 * math.log(2 * math.pi * math.e)
TARGET = math.log(BASE_NOISE) + HALF_LOG_TWO_PI_E + 0.386  # -2.8 nat

Head = Callable[[Tensor], Tensor]  # from samples, the first axis, to features


@dataclass
class Descent:
    """Where one descent on one image came to.

    Attributes
    ----------
    kept
        Entropies of the step nearest to the target, as the authors keep them; ``(units,)`` float64, nat.
    at_target
        Entropies interpolated to the target between two steps: the same without the chance of where a step
        falls.
    passes
        Single-sample network passes up to the end.
    """

    kept: Tensor
    at_target: Tensor
    passes: int


class _Reached(Exception):
    """Ends a pass at its layer."""


def cut_head(
    network: nn.Module,
    layer: str,
    *,
    relu: bool = True,
    entry: str | None = None,
    given: Tensor | None = None,
    unit: float = 1.0,
) -> Head:
    """Return what maps inputs to the output of `layer`, with the ReLU that the authors put on every feature.

    With `entry`, the inputs are what comes out of that module, in units of `unit`, and the network is given
    `given`, of one sample.
    """

    def head(inputs: Tensor) -> Tensor:
        found: list[Tensor] = []

        def stop(module: nn.Module, args: object, output: Tensor) -> None:
            found.append(output.relu() if relu else output)
            raise _Reached

        with ExitStack() as hooks:
            hooks.enter_context(network.get_submodule(layer).register_forward_hook(stop))
            hooks.enter_context(suppress(_Reached))
            if entry is None or given is None:
                network(inputs)
            else:
                replace = network.get_submodule(entry).register_forward_hook(lambda *_: unit * inputs)
                hooks.enter_context(replace)
                network(given.expand(len(inputs), *given.shape))
        return found[0]

    return head


def share_cells(side: int, cells: int) -> Tensor:
    """Name the unit of every pixel, ``(side, side)``: a grid of `cells` x `cells`."""
    cell = torch.arange(side) * cells // side
    return cell[:, None] * cells + cell[None, :]


def descend(
    head: Head,
    sample: Tensor,
    unit: Tensor,
    *,
    seed: int,
    draws: int = DRAWS,
    to_the_end: bool = True,
    weight: float = WEIGHT,
    base_noise: float = BASE_NOISE,
    steps: int = STEPS,
    patience: int = PATIENCE,
) -> Descent:
    """Run the procedure on one sample.

    What is kept is settled at the first step past the target, because the mean entropy only grows; with
    `to_the_end` False the steps after it are left out. The rate is theirs for their 256 units and base noise;
    for others it makes the same part of the scale a step.

    Parameters
    ----------
    sample
        What noise falls on, such as an image ``(C, H, W)``.
    unit
        The unit of every element, -1 for those of none; of a shape that spreads to that of `sample`.
    """
    generator = torch.Generator().manual_seed(seed)
    units = int(unit.max()) + 1
    rate = RATE * (units / 256) * (base_noise / BASE_NOISE) ** 2
    target = math.log(base_noise) + TARGET - math.log(BASE_NOISE)
    layout = torch.channels_last if sample.ndim == 3 else torch.contiguous_format
    with torch.no_grad():
        clean = head(sample[None]).flatten(1)

    def feature_error(sigma: Tensor) -> Tensor:
        noise = torch.randn((draws, *sample.shape), generator=generator)
        scale = torch.cat([sigma, sigma.new_zeros(1)])[unit]
        noisy = (sample + scale * noise).contiguous(memory_format=layout)
        return (head(noisy).flatten(1) - clean).square().mean()

    sigma = torch.full((units,), base_noise, requires_grad=True)
    with torch.no_grad():
        variance = feature_error(sigma)
    passes, kept, distance = draws, sigma.detach().clone(), math.inf
    at_target: Tensor | None = None
    before, mean_before = kept, -math.inf
    for step in range(steps):
        with torch.no_grad():
            sigma.clamp_(LOWEST, HIGHEST)
        now = sigma.detach().clone()
        mean = float(_entropy(now).mean())
        if abs(mean - target) < distance:
            kept, distance = now, abs(mean - target)
        if at_target is None and mean >= target:
            at_target = _entropy(before).lerp(_entropy(now), (target - mean_before) / (mean - mean_before))
            if not to_the_end:
                break
        if step == patience:
            if at_target is not None:
                break
            weight *= 1.5
        before, mean_before = now, mean
        (slope,) = torch.autograd.grad(feature_error(sigma), sigma)
        passes += 2 * draws
        with torch.no_grad():
            sigma -= rate * (slope / variance - weight / (units * sigma))
    return Descent(_entropy(kept), _entropy(kept) if at_target is None else at_target, passes)


def _entropy(sigma: Tensor) -> Tensor:
    return sigma.double().log() + HALF_LOG_TWO_PI_E
