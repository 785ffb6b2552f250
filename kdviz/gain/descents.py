"""The authors' own descent on sampled losses, with few draws.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdviz.entropy import NOISE_RATIO_LIMITS, STEP_RATE
from kdviz.gain.bench import Bench
from kdviz.gain.probes import Surrogate

LONGEST_DESCENT = 200


@dataclass(frozen=True)
class Descent:
    """End of a sampled descent.

    Attributes
    ----------
    noise_ratio
        Shape ``(B, U)``, float64: ``sigma / tau0`` where the mean of its log meets the calibration.
    time
        Shape ``(B,)``, float64, in steps, interpolated.
    converged
        Shape ``(B,)``, bool.
    gain_error
        Shape ``(B, U)``, float64: standard error of the gain that this path amounts to, from the spread
        over draws and the error of the feature variance. A deviation fades on the way, the sooner the
        larger the gain; that of the variance, common to all units, moves where the calibration is met.
    """

    noise_ratio: Tensor
    time: Tensor
    converged: Tensor
    gain_error: Tensor


def descend(
    bench: Bench,
    layer: str,
    surrogate: Surrogate,
    feature_variance: Tensor,
    *,
    variance_error: Tensor | float = 0.0,
    weight: float = 7.0,
    calibration: float = 0.386,
    draws: int = 8,
    longest: int = LONGEST_DESCENT,
) -> Descent:
    """Run the authors' descent on sampled losses, with few draws and little noise.

    A step is ``sigma -= lr dL/dsigma`` with their learning rate ``N tau0^2 / 256``, their clamp, and fresh
    noise [1]_; a unit of several parts takes the mean of their steps. One draw's gradient, ``eps J^T (f' -
    f*)``, is dominated by the noise on the *other* units; the surrogate takes out what it can predict of that
    disturbance.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    feature_variance
        Shape ``(B,)``, the mean squared feature change at ``tau0``; positive.
    variance_error
        Shape ``(B,)``, its standard error.
    weight, calibration
        As in :func:`kdviz.entropy.solve`.
    draws
        Pass pairs a step.
    longest
        Steps after which a sample is given up; the calibration is usually met near step 36.

    Returns
    -------
    Descent
        Interpolated to the calibration between two steps; samples stop on their own.

    References
    ----------
    .. [1] Cheng et al., CVPR 2020, published code, ``sigma/train_sigma.py``.
    """
    samples, units = surrogate.gain.shape
    size, parts = bench.unit_size, bench.unit_size.sum()
    rate = STEP_RATE * parts * bench.base_noise**2
    lower, upper = (limit * bench.base_noise for limit in NOISE_RATIO_LIMITS)
    scale = torch.full((samples, units), bench.base_noise, dtype=torch.float64)
    mean_log = torch.zeros(samples, dtype=torch.float64)
    end, time = scale.clone(), torch.full((samples,), float(longest), dtype=torch.float64)
    converged = torch.zeros(samples, dtype=torch.bool)
    unsure = variance_error / feature_variance
    deviations, gain_error = _Deviations(samples, units), torch.zeros_like(scale)
    running, of_mean = torch.arange(samples), size / parts
    for step in range(longest):
        here = scale[running]
        slope, slope_error = _loss_slope(bench, layer, surrogate, here, step, draws)
        pull = slope / (size * feature_variance[running, None])
        gradient = pull - weight / (parts * here)
        free = here - rate * gradient
        moved = free.clamp(lower, upper)
        inside, strength = free == moved, rate / (size * feature_variance[running, None])
        deviations.carry(
            running,
            left=inside * (1 - rate * (pull / here + weight / (parts * here.square()))),
            chance=inside * strength * slope_error,
            by_variance=inside * rate * pull,
            by_gain=2 * strength * here,
        )
        reached = (moved / bench.base_noise).log() @ of_mean
        done = reached >= calibration
        part = (calibration - mean_log[running]) / (reached - mean_log[running])
        rows = running[done]
        end[rows] = here[done].log().lerp(moved[done].log(), part[done, None]).exp()
        time[rows] = step + part[done]
        speed = (moved / here).log()[done]
        gain_error[rows] = deviations.of_gain(rows, moved[done], speed, of_mean, unsure[rows])
        converged[rows] = True
        scale[running], mean_log[running] = moved, reached
        if done.any():
            running = running[~done]
            bench, surrogate = bench.select((~done).nonzero().flatten().tolist()), surrogate.select(~done)
        if not len(running):
            break
    end[running] = scale[running]
    still = torch.zeros_like(end[running])
    gain_error[running] = deviations.of_gain(running, end[running], still, of_mean, unsure[running])
    return Descent(end / bench.base_noise, time, converged, gain_error)


class _Deviations:
    """How far noise scales may be off, to first order, carried along a descent; all ``(B, U)``, float64.

    Attributes
    ----------
    chance
        Variance of the scale by draws.
    by_variance, by_gain
        Derivatives of the scale, turned to be positive: by the log of the feature variance, and by the gain
        of the unit.
    """

    def __init__(self, samples: int, units: int) -> None:
        self.chance, self.by_variance, self.by_gain = torch.zeros(3, samples, units, dtype=torch.float64)

    def carry(
        self, rows: Tensor, *, left: Tensor, chance: Tensor, by_variance: Tensor, by_gain: Tensor
    ) -> None:
        """Go one step: what is `left` of deviations so far, and what comes to them."""
        left = left.clamp(0, 1)
        self.chance[rows] = left.square() * self.chance[rows] + chance.square()
        self.by_variance[rows] = left * self.by_variance[rows] + by_variance
        self.by_gain[rows] = left * self.by_gain[rows] + by_gain

    def of_gain(self, rows: Tensor, scale: Tensor, speed: Tensor, of_mean: Tensor, unsure: Tensor) -> Tensor:
        """Return the standard error of the gain that explains them, had only the gain been off.

        `speed` is by how much the log of each scale grew in the last step, `of_mean` ``(U,)`` what each
        counts in the mean that is calibrated, `unsure` ``(B,)`` the relative error of the feature variance:
        it is common to all units, and moves where the calibration is met. What the chance of single units
        moves there is left to :func:`kdviz.entropy.solve`.
        """
        growth = (speed @ of_mean)[:, None]
        by_mean = torch.where(growth > 0, speed / growth, 0)  # of the log, while the mean grows by 1
        common = unsure[:, None] * self.by_variance[rows] / scale
        common -= by_mean * (common @ of_mean)[:, None]
        return (self.chance[rows] + (scale * common).square()).sqrt() / self.by_gain[rows]


def _loss_slope(
    bench: Bench, layer: str, surrogate: Surrogate, noise_scale: Tensor, step: int, draws: int
) -> tuple[Tensor, Tensor]:
    """Estimate ``dE/dsigma``, ``(B, U)``, of the mean squared feature change, and its standard error."""
    fresh, following = (range(start * draws, (start + 1) * draws) for start in (step, step + 1))
    noises = bench.noise("descent", fresh)
    shifts = bench.expand(noise_scale) * noises
    surprise = torch.cat(
        [_change_gradients(bench, layer, several) for several in shifts.split(bench.together)]
    )
    surprise -= surrogate.slope(shifts)
    changes = bench.reduce(surprise.mul_(noises)).double()
    bench.draw_ahead("descent", following)
    per_unit = changes.cpu()
    slope = 2 * noise_scale * surrogate.gain * surrogate.share[:, None] + per_unit.mean(0)
    return slope, per_unit.std(0) / draws**0.5


def _change_gradients(bench: Bench, layer: str, shifts: Tensor) -> Tensor:
    """Gradients of the mean squared feature change with respect to input changes ``(K, B, N)``."""
    shifts = shifts.detach().requires_grad_(True)
    noisy = (bench.inputs + shifts).flatten(0, 1)
    change = bench.squared_change(bench.features(noisy)[layer], layer)
    (gradients,) = torch.autograd.grad(change.sum(), shifts)
    bench.passes.backward += len(noisy)
    return gradients
