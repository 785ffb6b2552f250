"""Slow replica of the authors' estimation procedure for one image, in float64, step by step.

Their published code: noise scales start at the base noise, are clamped before each forward pass and moved by
plain SGD on ``MSE / sigma_f^2 - weight * mean(H)``. After 60 of 80 steps it stops if the mean entropy has
passed the target, else the weight grows by half for the last 20. The noise scales nearest to the target
are kept. Their learning rate 1e-4 belongs to 256 units and base noise 0.01; it is n tau0^2 / 256 here.
"""

import copy
import math

import torch

STEPS = 80
PATIENCE = 60
LOWEST, HIGHEST = 0.1, 100.0  # in units of the base noise: their clamp [0.001, 1] at 0.01


def run(error_slope, feature_variance, n_units, *, base_noise=0.01, weight=7.0, target=0.386):
    """Run the loop; `error_slope(sigma)` gives dMSE/dsigma. Returns the kept sigma and its step."""
    learning_rate = n_units * base_noise**2 / 256
    target_entropy = math.log(base_noise) + 0.5 * math.log(2 * math.pi * math.e) + target
    sigma = torch.full((n_units,), base_noise, dtype=torch.float64)
    kept, kept_step, kept_distance, largest = None, None, math.inf, -math.inf
    for step in range(STEPS):
        sigma = sigma.clamp(LOWEST * base_noise, HIGHEST * base_noise)
        mean_entropy = float((sigma.log() + 0.5 * math.log(2 * math.pi * math.e)).mean())
        largest = max(largest, mean_entropy)
        if abs(mean_entropy - target_entropy) < kept_distance:
            kept, kept_step, kept_distance = sigma.clone(), step, abs(mean_entropy - target_entropy)
        if step == PATIENCE:
            if largest > target_entropy:
                break
            weight = 1.5 * weight
        slope = error_slope(sigma) / feature_variance - weight / n_units / sigma
        sigma = sigma - learning_rate * slope
    return kept, kept_step


def linear_slope(gain):
    """Exact expected slope of a linear map: MSE = sum of sigma^2 gain."""
    return lambda sigma: 2 * sigma * gain


class Sampler:
    """Slopes and variances of a network from fresh noise, `draws` copies of one image at a time."""

    def __init__(self, network, image, unit_index, *, draws=96, seed=0):
        self.network = copy.deepcopy(network).double().eval()
        self.image = image.double()
        self.unit_index = torch.as_tensor(unit_index.copy())
        self.draws = draws
        self.generator = torch.Generator().manual_seed(seed)
        self.clean = self.network(self.image[None]).relu().detach()

    def mean_squared_error(self, sigma):
        noise = torch.randn((self.draws, *self.image.shape), generator=self.generator, dtype=torch.float64)
        noisy = self.image + sigma[self.unit_index] * noise
        return (self.network(noisy).relu() - self.clean).square().mean()

    def __call__(self, sigma):
        sigma = sigma.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.mean_squared_error(sigma), sigma)
        return slope

    def feature_variance(self, n_units, base_noise=0.01):
        sigma = torch.full((n_units,), base_noise, dtype=torch.float64)
        return float(self.mean_squared_error(sigma).detach())
