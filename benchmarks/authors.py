"""The authors' procedure as they ran it, written from the description of their code and nothing of kdviz.

Cheng et al., CVPR 2020, ``sigma/train_sigma.py``: noise scales start at the base noise, are clamped before
every forward pass and moved by plain gradient descent on ``MSE / sigma_f^2 - weight * mean(H)``, with fresh
noisy copies in every step. After 60 of 80 steps the descent stops if the mean entropy has passed the target,
else the weight grows by half for the last 20. The scales with mean entropy nearest to the target are kept.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BASE_NOISE, RATE, WEIGHT, LOWEST, HIGHEST = 0.01, 1e-4, 7.0, 0.001, 1.0
STEPS, PATIENCE, DRAWS = 80, 60, 96
PASSES = DRAWS + 2 * STEPS * DRAWS
HALF_LOG_TWO_PI_E = 0.5 * math.log(2 * math.pi * math.e)
TARGET = math.log(BASE_NOISE) + HALF_LOG_TWO_PI_E + 0.386  # -2.8 nat


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


def cut_head(network: nn.Module, layer: str) -> nn.Module:
    """Return the part of a small VGG up to `layer`, with the ReLU that the authors put on every feature."""
    block, last = layer.split(".")
    part = getattr(network, block)
    until = part[: list(dict(part.named_children())).index(last) + 1]
    below = [] if block == "features" else [network.features, nn.Flatten()]
    return nn.Sequential(*below, until, nn.ReLU())


def descend(
    head: nn.Module, image: Tensor, *, cells: int, seed: int, draws: int = DRAWS, to_the_end: bool = True
) -> Descent:
    """Run the procedure on one image ``(C, H, W)`` with a grid of `cells` x `cells` units.

    What is kept is settled at the first step past the target, because the mean entropy only grows; with
    `to_the_end` False the steps after it are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    cell = torch.arange(image.shape[-1]) * cells // image.shape[-1]
    unit = cell[:, None] * cells + cell[None, :]
    units, weight = cells * cells, WEIGHT
    with torch.no_grad():
        clean = head(image[None]).flatten(1)

    def feature_error(sigma: Tensor) -> Tensor:
        noise = torch.randn((draws, *image.shape), generator=generator)
        noisy = (image + sigma[unit] * noise).contiguous(memory_format=torch.channels_last)
        return (head(noisy).flatten(1) - clean).square().mean()

    sigma = torch.full((units,), BASE_NOISE, requires_grad=True)
    with torch.no_grad():
        variance = feature_error(sigma)
    passes, kept, distance = draws, sigma.detach().clone(), math.inf
    at_target: Tensor | None = None
    before, mean_before = kept, -math.inf
    for step in range(STEPS):
        with torch.no_grad():
            sigma.clamp_(LOWEST, HIGHEST)
        now = sigma.detach().clone()
        mean = float(_entropy(now).mean())
        if abs(mean - TARGET) < distance:
            kept, distance = now, abs(mean - TARGET)
        if at_target is None and mean >= TARGET:
            at_target = _entropy(before).lerp(_entropy(now), (TARGET - mean_before) / (mean - mean_before))
            if not to_the_end:
                break
        if step == PATIENCE:
            if at_target is not None:
                break
            weight *= 1.5
        before, mean_before = now, mean
        (slope,) = torch.autograd.grad(feature_error(sigma), sigma)
        passes += 2 * draws
        with torch.no_grad():
            sigma -= RATE * (slope / variance - weight / (units * sigma))
    return Descent(_entropy(kept), _entropy(kept) if at_target is None else at_target, passes)


def _entropy(sigma: Tensor) -> Tensor:
    return sigma.double().log() + HALF_LOG_TWO_PI_E
