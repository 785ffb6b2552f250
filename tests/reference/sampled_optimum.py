"""Eq. (4) of Zhang et al., TPAMI 2022, minimised by plain Monte Carlo: no gain, no surrogate, no small noise.

The second opinion on the closed forms: Adam on ``log sigma`` with a learning rate that falls to zero; the
mean of the last half of the steps is kept. It takes ``2 * steps * draws`` passes a sample.
"""

import numpy as np
import torch

from kdviz.entropy import NOISE_RATIO_LIMITS, entropy_of
from kdviz.measuring.blocks import make_benches

VARIANCE_DRAWS = 64


def minimise(bench, layer, feature_variance, *, weight=7.0, steps=400, draws=16):
    """Return ``sigma / tau0``, ``(B, U)``; `weight` is in the mean form and nothing is calibrated."""
    samples, units = len(bench.inputs), bench.unit_count
    log_ratio = torch.zeros(samples, units, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([log_ratio], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    total = torch.zeros(samples, units, dtype=torch.float64)
    for step in range(steps):
        slope = torch.zeros_like(total)
        ratio = log_ratio.detach().exp()
        scale = bench.expand(ratio * bench.base_noise)
        for several in bench.noise("sampled", range(step * draws, (step + 1) * draws)).split(bench.together):
            shifts = (scale * several).requires_grad_(True)
            features = bench.features((bench.inputs + shifts).flatten(0, 1))
            loss = bench.squared_change(features[layer], layer).sum()
            (gradient,) = torch.autograd.grad(loss, shifts)
            slope += bench.reduce(several * gradient).double().sum(0) / draws
        of_entropy = weight * bench.unit_size / bench.unit_size.sum()
        log_ratio.grad = slope * ratio * bench.base_noise / feature_variance[:, None] - of_entropy
        adam.step()
        schedule.step()
        with torch.no_grad():
            log_ratio.clamp_(*np.log(NOISE_RATIO_LIMITS))
        if step >= steps // 2:
            total += log_ratio.detach() / (steps - steps // 2)
    return total.exp()


def measure_entropy(measurement, *, steps=400, draws=16):
    """Return entropies, ``(B, U)``, NaN where padded, of a measurement of one layer and epoch."""
    (layer,), (epoch,), inputs = measurement.names, measurement.epochs, measurement.inputs
    settings, entropies = measurement.settings, np.full((len(inputs.ids), inputs.units.count), np.nan)
    row = 0
    with measurement.reading(epoch) as reader:
        for bench in make_benches(reader, inputs, range(len(inputs.ids)), settings):
            variance = torch.zeros(len(bench.inputs), dtype=torch.float64)
            with torch.no_grad():
                for noise in bench.noise("sampled-variance", range(VARIANCE_DRAWS)):
                    features = bench.features(bench.inputs + bench.base_noise * noise)
                    variance += bench.squared_change(features[layer], layer) / VARIANCE_DRAWS
            ratio = minimise(bench, layer, variance, weight=settings.weight, steps=steps, draws=draws)
            rows = slice(row, row + len(ratio))
            entropies[rows, : ratio.shape[1]] = entropy_of(ratio.numpy() * settings.base_noise)
            row = rows.stop
    return entropies
