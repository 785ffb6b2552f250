"""Noise scales and entropies in closed form, from the measured gain of every unit.

Everything here is NumPy and instant: the network was already measured by :mod:`kdviz.gain`. With
``tau0`` the base noise, ``G_u`` the gain of unit ``u``, ``n_u`` its size in parts (pieces of a word, pixels
of a cell), ``N`` the parts of all valid units and ``sigma_f^2`` the feature variance at ``tau0``, all that
matters is the *gain ratio* ``r_u = N tau0^2 (G_u / n_u) / sigma_f^2`` (1 on average over the parts for a
linear layer). The result is the *noise ratio* ``s_u = sigma_u / tau0``; the entropy is
``H_u = log(s_u tau0) + log(2 pi e) / 2``.

With sizes, every part is a unit of the published objective and the parts of one unit share their noise.
Without, every unit counts once, however large it is: a word of three pieces then moves the feature as three
and is counted as one, so that in an untrained network such words hold all the knowledge points.

Two solvers of Eq. (4) of Zhang et al., TPAMI 2022, in the mean form of the authors' code:

``descent``
    The authors' gradient descent from ``s = 1`` in continuous time, stopped when the mean of
    ``log s`` meets the calibration. With ``v`` the time, ``s^2 = exp(-2 r v) + w v phi(2 r v)`` where
    ``phi(x) = (1 - exp(-x)) / x``; ``v = 2 t / 256`` after ``t`` of their steps.
``optimum``
    The minimiser itself, ``s^2 = w / (2 r)``.

Symbols: ``...`` any leading axes (epoch, sample), ``U`` units, ``w`` the entropy weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize.elementwise import find_root

from kdviz.arguments import finite_number, one_of, positive_number

Array = NDArray[np.float64]
Solver = Literal["descent", "optimum"]
UnitGain = Literal["mean", "sum"]

STEP_RATE = 1 / 256  # learning rate 1e-4 over n tau0^2 = 256 x 0.01^2: the authors' setting, for every grid
AUTHORS_STEPS = 80
NOISE_RATIO_LIMITS = (0.1, 100.0)  # the authors' clamp [0.001, 1] at tau0 = 0.01
ENTROPY_OF_UNIT_NOISE = 0.5 * np.log(2 * np.pi * np.e)
_LONGEST_DESCENT = 2.0**16 * 2 * STEP_RATE


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes
    ----------
    noise_ratio
        Shape ``(..., U)``, ``s``, NaN at invalid units.
    log_error
        Shape ``(..., U)``, standard error of ``log s`` for the given errors of the gain ratios, which are
        taken as independent: that of the unit's own, and of all others by where the calibration is met.
    converged
        Shape ``(...)``, bool: the calibration was met.
    time
        Shape ``(...)``, the authors' steps until it is met (``descent``), or the weight that meets it
        (``optimum``).
    """

    noise_ratio: Array
    log_error: Array
    converged: NDArray[np.bool_]
    time: Array


def gain_ratio(
    gain: ArrayLike, feature_variance: ArrayLike, valid: ArrayLike, base_noise: float, size: ArrayLike = 1.0
) -> Array:
    """Make gains dimensionless: ``r_u = N tau0^2 (G_u / n_u) / sigma_f^2``.

    Parameters
    ----------
    gain
        Shape ``(..., U)``.
    feature_variance
        Shape ``(...)``, measured at `base_noise`. Where it is zero the feature is dead: every unit is
        discarded alike and all ratios are 0.
    valid
        Bool, broadcastable to `gain`; False at padded units.
    base_noise
        ``tau0``, in input units.
    size
        Broadcastable to `gain`, positive at valid units: parts of each unit. Equal sizes cancel.
    """
    valid = np.broadcast_to(np.asarray(valid, bool), np.shape(gain))
    size = np.where(valid, size, np.nan)
    variance = np.asarray(feature_variance, np.float64)[..., None]
    scale = np.divide(base_noise**2, variance, out=np.zeros(variance.shape), where=variance > 0)
    return np.asarray(gain, np.float64) / size * np.nansum(size, -1, keepdims=True) * scale


def solve(
    ratio: ArrayLike,
    *,
    solver: Solver = "descent",
    weight: float = 7.0,
    calibration: float | None = 0.386,
    feature_loss: float | None = None,
    ratio_error: ArrayLike = 0.0,
    size: ArrayLike = 1.0,
) -> Solution:
    """Find the noise ratio of every unit.

    Parameters
    ----------
    ratio
        Gain ratios, shape ``(..., U)``, non-negative; NaN marks units that take no part.
    solver
        ``"descent"`` or ``"optimum"``, see the module.
    weight
        Entropy weight ``w`` in the mean form; the authors use 7, and 6 for ResNets.
    calibration
        Calibration: mean of ``log s`` over the units, in nat above the entropy at ``tau0``. None keeps
        the weight: `descent` then ends after the authors' 80 steps, `optimum` at the plain minimiser.
    feature_loss
        Calibrate on the predicted normalised feature loss ``mean(s^2 r)`` instead, such as 1.5: the
        literal constraint of Eq. (1) with ``tau = 1.5 sigma_f^2``. Replaces `calibration`.
    ratio_error
        Standard error of `ratio`, broadcastable to it.
    size
        As in `gain_ratio`: means over units, in `calibration` and `feature_loss`, count each so many times.

    Returns
    -------
    Solution
        Units of zero gain grow freely under `descent`; `optimum` sets them to the upper clamp and leaves
        them out of its calibration mean. A sample without any gain ratio is NaN and not converged.

    Raises
    ------
    ValueError
        For an unknown solver, a weight or feature loss that is not positive, or a negative gain ratio.
    """
    one_of("solver", solver, get_args(Solver))
    positive_number("weight", weight)
    if feature_loss is not None:
        positive_number("feature_loss", feature_loss)
    if calibration is not None:
        finite_number("calibration", calibration)
    ratio = np.asarray(ratio, np.float64)
    if np.any(ratio < 0):
        raise ValueError(f"gain ratios must not be negative, the smallest is {np.nanmin(ratio):.3g}")
    error = np.broadcast_to(np.asarray(ratio_error, np.float64), ratio.shape)
    size = np.broadcast_to(np.asarray(size, np.float64), ratio.shape)
    run = _descend if solver == "descent" else _minimise
    return run(ratio, error, size, weight, calibration, feature_loss)


def invert_descent(noise_ratio: ArrayLike, time: ArrayLike, *, weight: float) -> Array:
    """Find the gain ratio for which the descent ends at a given noise ratio.

    This is how a sampled descent is stored as gains: `solve` with the same weight and calibration gives
    its noise ratios back.

    Parameters
    ----------
    noise_ratio
        Shape ``(..., U)``.
    time
        Shape ``(...)``, in the authors' steps.
    weight
        Entropy weight of that descent.

    Returns
    -------
    ndarray
        Shape ``(..., U)``; zero where the noise ratio reached or passed that of a unit without gain.
    """
    squared = np.asarray(noise_ratio, np.float64) ** 2
    v = 2 * STEP_RATE * np.asarray(time, np.float64)[..., None]
    low = np.full(squared.shape, 1e-12)
    high = np.maximum(weight / squared, 1.0) * 4 / np.minimum(v, 1.0)
    for _ in range(200):  # bisection on a monotone function, to machine precision
        middle = np.sqrt(low * high)
        above = _squared_ratio(middle, v, weight) > squared
        low, high = np.where(above, middle, low), np.where(above, high, middle)
        if np.all(high <= low * (1 + 1e-14)):
            break
    return np.where(squared >= 1 + weight * v, 0.0, np.sqrt(low * high))


def entropy_of(noise_scale: ArrayLike) -> Array:
    """Entropy in nat of one coordinate of Gaussian noise of the given standard deviation (Eq. 2)."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(noise_scale, np.float64)) + ENTROPY_OF_UNIT_NOISE


def _phi(x: Array) -> Array:
    """``(1 - exp(-x)) / x``, 1 at 0."""
    return np.where(x == 0, 1.0, -np.expm1(-x) / np.maximum(x, 1e-300))


def _squared_ratio(ratio: Array, v: Array, weight: float) -> Array:
    return np.exp(-2 * ratio * v) + weight * v * _phi(2 * ratio * v)


def _shares(size: Array, among: NDArray[np.bool_]) -> Array:
    """Share of every unit in the size of those `among` which a mean is taken, 0 for the others."""
    counted = np.where(among, size, 0.0)
    total = counted.sum(-1, keepdims=True)
    return counted / np.where(total > 0, total, 1.0)


def _descend(
    ratio: Array,
    error: Array,
    size: Array,
    weight: float,
    calibration: float | None,
    feature_loss: float | None,
) -> Solution:
    leading = ratio.shape[:-1]
    ratio, error, size = (values.reshape(-1, ratio.shape[-1]) for values in (ratio, error, size))
    usable = np.isfinite(ratio)
    known = np.where(usable, ratio, 0.0)
    shares = _shares(size, usable)
    lower, upper = np.square(NOISE_RATIO_LIMITS)

    def excess(v: Array, rows: NDArray[np.intp]) -> Array:
        squared = np.clip(_squared_ratio(known[rows], v[:, None], weight), lower, upper)
        reached = squared * known[rows] if feature_loss is not None else 0.5 * np.log(squared)
        return (reached * shares[rows]).sum(-1) - goal

    goal = feature_loss if feature_loss is not None else calibration
    if goal is None:
        v, converged = np.full(len(ratio), 2 * STEP_RATE * AUTHORS_STEPS), np.ones(len(ratio), bool)
    else:
        v, converged = _first_crossing(excess, len(ratio))
    converged &= usable.any(-1)
    v_column = v[:, None]
    free = _squared_ratio(known, v_column, weight)
    squared = np.clip(free, lower, upper)
    x = 2 * known * v_column
    slope = 2 * v_column * (weight * v_column * _phi_slope(x) - np.exp(-x))  # d(s^2)/dr at fixed time
    moves = usable & (free == squared)  # what is clamped does not
    own = np.where(moves, slope * error / (2 * squared), 0.0)
    per_time = np.where(moves, weight / (2 * squared) - known, 0.0)  # d(log s)/dv
    added, growth = own, per_time
    if feature_loss is not None:
        added = squared * (2 * known * own + np.where(usable, error, 0.0))
        growth = 2 * squared * known * per_time
    mean_growth = (shares * growth).sum(-1, keepdims=True)
    met = converged[:, None] & (mean_growth != 0) & (goal is not None)
    speed = np.divide(per_time, mean_growth, out=np.zeros_like(per_time), where=met)
    log_error = np.where(usable, _settle(own, shares * added, speed), np.nan)
    noise_ratio = np.where(usable, np.sqrt(squared), np.nan)
    return Solution(
        noise_ratio.reshape(*leading, -1),
        log_error.reshape(*leading, -1),
        converged.reshape(leading),
        (v / (2 * STEP_RATE)).reshape(leading),
    )


def _settle(own: Array, added: Array, speed: Array) -> Array:
    """Return the standard error of the log of noise ratios, ``(S, U)``, once a mean over units is met again.

    Units are off by their `own`, independent of each other; `added` is what that adds to the mean, and
    `speed` how far units move while it grows by 1, 0 where no mean is held. All ``(S, U)``.
    """
    others = np.nansum(np.square(added), -1, keepdims=True) - np.square(added)
    return np.sqrt(np.square(own - speed * added) + np.square(speed) * np.maximum(others, 0))


def _phi_slope(x: Array) -> Array:
    """Return the derivative of `_phi`: ``(exp(-x) (1 + x) - 1) / x^2``, -1/2 at 0."""
    small = x < 1e-3
    safe = np.where(small, 1.0, x)
    return np.where(small, -0.5 + x / 3, (np.exp(-safe) * (1 + safe) - 1) / safe**2)


def _first_crossing(
    excess: Callable[[Array, NDArray[np.intp]], Array], samples: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Find for every sample the first time at which `excess` changes sign.

    Times are scanned by doubling, so that two crossings within a factor of two may be missed; samples
    without a crossing get the longest time and are not converged.
    """
    everyone = np.arange(samples)
    low, high = np.zeros(samples), np.full(samples, _LONGEST_DESCENT)
    start = np.sign(excess(low, everyone))
    converged = start == 0
    high[converged] = 0.0
    open_ = everyone[~converged]
    time = 2 * STEP_RATE
    while len(open_) and time <= _LONGEST_DESCENT:
        crossed = np.sign(excess(np.full(len(open_), time), open_)) != start[open_]
        high[open_[crossed]], low[open_[~crossed]] = time, time
        converged[open_[crossed]] = True
        open_ = open_[~crossed]
        time *= 2
    searched = everyone[converged & (high > 0)]
    if len(searched):
        found = find_root(excess, (low[searched], high[searched]), args=(searched,))
        high[searched] = found.x
    return high, converged


def _minimise(
    ratio: Array,
    error: Array,
    size: Array,
    weight: float,
    calibration: float | None,
    feature_loss: float | None,
) -> Solution:
    usable = np.isfinite(ratio) & (ratio > 0)
    any_usable = usable.any(-1)
    safe = np.where(usable, ratio, 1.0)
    if feature_loss is not None:
        # Units without gain count in the mean s^2 r and add nothing to it; the others must make up for them.
        share = np.where(usable, _shares(size, np.isfinite(ratio)), 0.0).sum(-1)
        chosen = 2 * feature_loss / np.where(any_usable, share, 1.0)
    elif calibration is not None:
        mean_log = (np.log(safe) * _shares(size, usable)).sum(-1)
        chosen = 2 * np.exp(2 * calibration + mean_log)
    else:
        chosen = np.full(ratio.shape[:-1], weight)
    lower, upper = NOISE_RATIO_LIMITS
    free = np.sqrt(chosen[..., None] / (2 * safe))
    clamped = usable & ((free < lower) | (free > upper))
    noise_ratio = np.where(usable, np.clip(free, lower, upper), np.where(np.isnan(ratio), np.nan, upper))
    own, shares = np.where(usable & ~clamped, -error / (2 * safe), 0.0), _shares(size, usable)
    held = calibration is not None and feature_loss is None
    speed = np.where(usable & ~clamped & held, 1.0, 0.0)
    log_error = np.where(np.isnan(ratio), np.nan, _settle(own, shares * own, speed))
    return Solution(noise_ratio, log_error, any_usable & ~clamped.any(-1), chosen)
