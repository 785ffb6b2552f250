"""Measure how strongly noise on every input unit moves a layer's feature: the expensive part.

The *gain* of unit ``u`` is the mean-squared feature change per unit of squared input noise on it,

    ``G_u(x) = 1/D  E_e sum_{j in u} sum_k (d h_k / d x_j)^2``   at ``x + tau0 e``,  ``e ~ N(0, I)``.

For small noise, Eq. (4) of Zhang et al. (TPAMI 2022) depends on the network through it alone. Two
estimates are offered: :func:`estimate_gain` (random probes on the feature, one backward pass each), which
:func:`share_loss` completes by what noise does to the mean of the feature, and :func:`descend` (the
authors' own descent on sampled losses). :func:`measure_change` checks a solution with forward passes only.
Nothing here knows datasets, files or particular networks.

All noise is keyed by (seed, sample id, purpose, draw): the same for every epoch, network and role, so
that two measurements differ by what the networks do and not by the noise.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries, ``P`` probes,
``K`` noise draws.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdviz.entropy import NOISE_RATIO_LIMITS, STEP_RATE
from kdviz.features import FeatureReader

LONGEST_DESCENT = 200
_HELD_DRAWS = 8  # noise draws of one batch held at once
_LEAST_SHARE = 0.05  # of its probe gain that a unit keeps whatever a noisy slope says


@dataclass
class Passes:
    """Network passes spent, one pass being one forward or one backward of one sample."""

    forward: int = 0
    backward: int = 0


class Bench:
    """One batch of inputs on one network, ready to be shaken.

    Samples are rows of ``N`` numbers here, images in the channels-last order in which convolutions are
    fastest; :meth:`features` gives them their shape back.

    Parameters
    ----------
    reader
        Features of a frozen network.
    inputs
        Shape ``(B, ...)``, floating point, finite, on the network's device.
    sample_ids
        ``B`` stable names; they key the noise.
    unit_index
        Shape of one sample, int64: the unit of every element, -1 for elements that get no noise.
    unit_count
        Number of units ``U``.
    base_noise
        ``tau0``, in the units of `inputs`.
    seed
        Measurement seed.

    Attributes
    ----------
    inputs
        Shape ``(B, N)``.
    clean
        Features without noise, ``{layer: (B, D)}``.
    passes
        Network passes spent so far.
    """

    def __init__(
        self,
        reader: FeatureReader,
        inputs: Tensor,
        *,
        sample_ids: Sequence[str],
        unit_index: NDArray[np.int64],
        unit_count: int,
        base_noise: float,
        seed: int,
    ) -> None:
        self.reader = reader
        self.shape = tuple(inputs.shape[1:])
        self.inputs = _flatten(inputs)
        self.sample_ids = tuple(sample_ids)
        self.unit_count = unit_count
        self.base_noise = base_noise
        self.seed = seed
        self.passes = Passes()
        unit = _flatten(torch.as_tensor(unit_index.copy()).expand(1, *self.shape))[0]
        unit = torch.where(unit < 0, unit_count, unit)  # one spare unit takes what belongs to none
        self._unit_on_cpu = unit  # where noise scales are kept, in double precision
        self._unit = unit.to(inputs.device)
        with torch.no_grad():
            self.clean = self.features(self.inputs)

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        """Read the layers of `inputs`, ``(B, N)`` or a whole number of such batches, counting the passes."""
        self.passes.forward += len(inputs)
        return self.reader(_unflatten(inputs, self.shape))

    def noise(self, purpose: str, draws: range) -> Tensor:
        """Draw standard normal noise ``(K, B, N)``, keyed by seed, sample, purpose and draw."""
        noise = torch.empty(len(draws), *self.inputs.shape, dtype=torch.float32)
        for draw, batch in zip(draws, noise, strict=True):
            for name, row in zip(self.sample_ids, batch, strict=True):
                row.normal_(generator=_generator(self.seed, name, purpose, draw))
        return noise.to(self.inputs)

    def spread(self, per_unit: Tensor) -> Tensor:
        """Give every input element the value of its unit: ``(B, U)`` to ``(B, N)``."""
        padded = torch.cat([per_unit, per_unit.new_zeros(len(per_unit), 1)], 1).to(self.inputs.dtype)
        return padded[:, self._unit_on_cpu].to(self.inputs.device)

    def reduce(self, per_element: Tensor) -> Tensor:
        """Sum element values over units: ``(..., N)`` to ``(..., U)``."""
        sums = per_element.new_zeros(*per_element.shape[:-1], self.unit_count + 1)
        return sums.index_add_(-1, self._unit, per_element)[..., :-1]

    def select(self, rows: Sequence[int]) -> "Bench":
        """Give the same bench for some of its samples; passes go on being counted here."""
        if list(rows) == list(range(len(self.inputs))):
            return self
        part = copy.copy(self)
        part.inputs = self.inputs[list(rows)]
        part.sample_ids = tuple(self.sample_ids[row] for row in rows)
        part.clean = {layer: clean[list(rows)] for layer, clean in self.clean.items()}
        return part

    def squared_change(self, features: Tensor, layer: str) -> Tensor:
        """Mean squared difference to the clean feature, ``(B,)``, float64."""
        return (features - self.clean[layer]).square().mean(1).double()


@dataclass(frozen=True)
class Surrogate:
    """Quadratic stand-in for the squared feature change, from probe gradients.

    ``Q(delta) = share |W delta|^2 / (P D)`` with the probe gradients ``W`` as rows. Its mean under unit-wise
    noise is known exactly, ``share sum_u sigma_u^2 G_u``, and it costs no network pass, so it serves as a
    control variate for everything that is sampled: ``E[f] = mean(f - Q) + E[Q]`` stays unbiased.

    How much that helps depends on the layer. Where few directions matter, ``W^T W / (P D)`` is close to
    ``J^T J / D`` and most of the chance goes; where many do, it is mostly noise of its own. ``share`` is the
    multiple that explains most, so that the variance never grows by much.

    Attributes
    ----------
    gain, gain_error
        Shape ``(B, U)``, float64: mean over probes and its standard error.
    rows
        Shape ``(B, P, N)``: ``J^T v sqrt(share / (P D))`` of every probe.
    share
        Shape ``(B,)``, float64, between 0 and 1.
    """

    gain: Tensor
    gain_error: Tensor
    rows: Tensor
    share: Tensor

    def select(self, samples: Tensor) -> "Surrogate":
        """Give the surrogate of some samples."""
        return Surrogate(
            self.gain[samples], self.gain_error[samples], self.rows[samples], self.share[samples]
        )

    def predict(self, noise_scale: Tensor) -> Tensor:
        """Predict the mean squared feature change, ``sum_u sigma_u^2 G_u``: ``(B, U)`` to ``(B,)``."""
        return (noise_scale.square() * self.gain).sum(1)

    def mean(self, noise_scale: Tensor) -> Tensor:
        """Mean of ``Q`` under noise of standard deviation ``(B, U)``; shape ``(B,)``, float64."""
        return self.share * self.predict(noise_scale)

    def value(self, shifts: Tensor) -> Tensor:
        """``Q`` of ``K`` input changes ``(K, B, N)``; shape ``(K, B)``, float64."""
        return self._project(shifts).square().sum(1).T.double()

    def slope(self, shifts: Tensor) -> Tensor:
        """Gradient of ``Q`` with respect to each of ``K`` input changes; the shape of `shifts`."""
        return (self.rows.transpose(1, 2) @ self._project(shifts).mul_(2)).permute(2, 0, 1)

    def _project(self, shifts: Tensor) -> Tensor:
        """``W delta``, shape ``(B, P, K)``: all changes at once, because reading ``W`` is what takes time."""
        return self.rows @ shifts.permute(1, 2, 0)


def estimate_gain(bench: Bench, *, probes: int = 64, points: int = 8) -> dict[str, Surrogate]:
    """Estimate the gain of every unit from random probes on the feature.

    ``E_v |J_u^T v|^2 / D = G_u`` for probes with ``E[v v^T] = I``. The probes are rows of a randomised
    Hadamard matrix, taken without replacement, or the unit vectors themselves once `probes` reaches
    ``D``: then exact at each noise point, at two points at least, so ``2 D`` passes where ``D`` exceeds half
    of `probes`.

    Parameters
    ----------
    bench
        Inputs and network.
    probes
        Backward passes a sample and layer; positive.
    points
        Noise points at ``tau0`` among which the probes are shared out, one forward pass each: the mean over
        them sees the kinks of the network that the clean input hides. Positive.

    Returns
    -------
    dict
        ``{layer: Surrogate}``.
    """
    plans = {layer: _ProbePlan(bench, clean.shape[1], probes, points) for layer, clean in bench.clean.items()}
    samples, elements = bench.inputs.shape
    rows = {layer: bench.inputs.new_empty(samples, plan.count, elements) for layer, plan in plans.items()}
    squares: dict[str, list[Tensor]] = {layer: [] for layer in plans}
    for point in range(max(plan.points for plan in plans.values())):
        (noise,) = bench.noise("probe-point", range(point, point + 1))
        noisy = (bench.inputs + bench.base_noise * noise).requires_grad_(True)
        features = bench.features(noisy)
        for layer, plan in plans.items():
            gradients = []
            for probe in plan.at(point, features[layer]):
                gradients += torch.autograd.grad(features[layer], noisy, probe, retain_graph=True)
                bench.passes.backward += len(noisy)
            if gradients:
                here = torch.stack(gradients, 1)
                done = sum(part.shape[1] for part in squares[layer])
                rows[layer][:, done : done + len(gradients)] = here
                squares[layer].append(bench.reduce(here.square()).double().cpu() / plan.width)
        del features
    surrogates = {}
    for layer, plan in plans.items():
        contributions = torch.cat(squares[layer], 1)
        share = plan.best_share(rows[layer])
        rows[layer] *= (share / (plan.count * plan.width)).sqrt().to(rows[layer])[:, None, None]
        error = plan.standard_error(contributions)
        surrogates[layer] = Surrogate(contributions.mean(1), error, rows[layer], share)
    return surrogates


class _ProbePlan:
    """Which probes a layer of width ``D`` gets at which noise point."""

    def __init__(self, bench: Bench, width: int, probes: int, draws: int) -> None:
        self.width = width
        self.exact = width <= probes
        if self.exact:
            self.points = max(2, min(draws, probes // width))  # two at least, or there is no error to report
            self.count = self.points * width
            return
        self.points, self.count = min(draws, probes), probes
        self.order = 1 << (width - 1).bit_length()
        rows = np.random.default_rng(_key(bench.seed, str(width), "probe-rows", 0))
        self._rows = np.array_split(rows.choice(self.order, size=probes, replace=False), self.points)
        signs = [
            torch.randint(0, 2, (width,), generator=_generator(bench.seed, name, "probe-signs", 0))
            for name in bench.sample_ids
        ]
        self._signs = (torch.stack(signs) * 2 - 1).to(bench.inputs)

    def at(self, draw: int, like: Tensor) -> Iterator[Tensor]:
        """Yield the probes of one noise point, each of the shape ``(B, D)`` of `like`."""
        if draw >= self.points:
            return
        if self.exact:
            for k in range(self.width):
                probe = torch.zeros_like(like)
                probe[:, k] = self.width**0.5
                yield probe
            return
        for row in self._rows[draw]:
            yield self._signs * _hadamard_row(int(row), self.order)[: self.width].to(self._signs)

    def standard_error(self, contributions: Tensor) -> Tensor:
        """Give the standard error of the mean of ``(B, P, U)`` contributions over ``P``.

        Two things are left to chance. Rows are drawn without replacement, so their part ends when all are
        used. Noise points are not; their part is taken as one multiple of the rows' variance for all units
        of a sample, because eight points say too little about each.
        """
        if self.exact:
            by_point = contributions.unflatten(1, (self.points, self.width)).mean(2)
            return (by_point.var(1) / self.points).sqrt()
        if self.points == self.count:
            return (contributions.var(1) / self.count).sqrt()
        groups = contributions.split([len(rows) for rows in self._rows], 1)
        deviations = [(group - group.mean(1, keepdim=True)).square().sum(1) for group in groups]
        within = torch.stack(deviations).sum(0) / (self.count - self.points)
        between = torch.stack([group.mean(1) for group in groups]).var(0)
        by_chance = within * float(np.mean([1 / len(rows) for rows in self._rows]))
        excess = (between - by_chance).sum(1, keepdim=True) / within.sum(1, keepdim=True)
        of_points = excess.nan_to_num(0).clamp(min=0) / self.points
        return (within * (1 / self.count - 1 / self.order + of_points)).sqrt()

    def best_share(self, rows: Tensor) -> Tensor:
        """Give the multiple of the surrogate that explains most, ``(B,)``, from raw rows ``(B, P, N)``.

        It is ``tr(A A') / tr(A'^2)`` for ``A = J^T J / D`` and its estimate ``A'``. Both follow from the mean
        squared products of different rows and of rows with themselves, since `P` of `order` are drawn.
        """
        if self.exact:  # all rows there are, so the estimate is the matrix itself
            return torch.ones(len(rows), dtype=torch.float64)
        squares = (rows @ rows.transpose(1, 2)).double().cpu().square()
        own = squares.diagonal(dim1=1, dim2=2).mean(1)
        others = (squares.sum((1, 2)) / self.count - own) / (self.count - 1)
        true = others + (own - others) / self.order
        estimated = others + (own - others) / self.count
        return (true / estimated).nan_to_num(0).clamp(0, 1)


@dataclass(frozen=True)
class Change:
    """How noise changed a feature.

    Attributes
    ----------
    squared
        Shape ``(B,)``, float64: mean squared change over feature entries and draws.
    mean
        Shape ``(B, D)``: mean change over draws, which noise of mean zero leaves behind in a curved network.
    """

    squared: Tensor
    mean: Tensor


def measure_change(
    bench: Bench,
    noise_scale: Tensor,
    *,
    draws: int,
    purpose: str,
    surrogates: dict[str, Surrogate],
) -> dict[str, Change]:
    """Feature change under unit-wise noise, Eq. (4)'s first term: forward passes only.

    Parameters
    ----------
    bench
        Inputs and network.
    noise_scale
        Shape ``(B, U)``, standard deviations in input units.
    draws
        Noise draws, keyed by `purpose`, so that another purpose gives independent ones.
    surrogates
        Control variates of the layers to measure.

    Returns
    -------
    dict
        ``{layer: Change}``.
    """
    noise_scale = noise_scale.cpu().double()
    scale = bench.spread(noise_scale)
    plain = {layer: torch.zeros(len(scale), dtype=torch.float64) for layer in surrogates}
    explained = copy.deepcopy(plain)
    mean = {layer: torch.zeros_like(bench.clean[layer]) for layer in surrogates}
    with torch.no_grad():
        for start in range(0, draws, _HELD_DRAWS):
            shifts = bench.noise(purpose, range(start, min(start + _HELD_DRAWS, draws))).mul_(scale)
            for shift in shifts:
                features = bench.features(bench.inputs + shift)
                for layer in surrogates:
                    plain[layer] += bench.squared_change(features[layer], layer).cpu() / draws
                    mean[layer] += (features[layer] - bench.clean[layer]) / draws
            for layer, surrogate in surrogates.items():
                explained[layer] += surrogate.value(shifts).sum(0).cpu() / draws
    changes = {}
    for layer, surrogate in surrogates.items():
        squared = _corrected(plain[layer], explained[layer], surrogate.mean(noise_scale))
        changes[layer] = Change(squared, mean[layer])
    return changes


def _corrected(plain: Tensor, explained: Tensor, expected: Tensor) -> Tensor:
    """Apply a control variate to mean squares, which are not negative."""
    corrected = plain - explained + expected
    return torch.where(corrected > 0, corrected, plain)


def share_loss(
    bench: Bench,
    layer: str,
    surrogate: Surrogate,
    noise_scale: Tensor,
    drift: Tensor,
    *,
    pairs: int = 16,
) -> tuple[Tensor, Tensor]:
    """Share the squared feature change under some noise among the units that cause it.

    Probe gains see how much the feature *spreads*, and nothing of how far noise *drifts* its mean: kinks and
    max pooling turn noise of mean zero into a change of mean ``m = E[f' - f*]``, in a trained network up to
    half of the loss and on other units. With ``E |f' - f*|^2 = V + |m|^2``, ``V`` goes to the units by their
    probe gains, ``|m|^2`` by its own slope

        ``d|m|^2 / d sigma_u^2 = E[eps_u J'_u^T m] / sigma_u``,   ``J'`` at ``x + sigma eps``,

    from antithetic pairs, whose difference is free of all that is linear in the noise. Both parts are scaled
    to the loss measured here, so that ``sum_u sigma_u^2 gain_u`` equals it. A linear network has no drift
    and keeps its probe gains.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    noise_scale
        Shape ``(B, U)``: the noise at which to look, best half-way along the descent.
    drift
        Shape ``(B, D)``: an estimate of ``m`` from other draws, up to a factor.
    pairs
        Antithetic pairs, two forward and two backward passes each; at least 2.

    Returns
    -------
    gain, gain_error
        Shape ``(B, U)``, float64; a unit keeps at least a twentieth of its probe gain.
    """
    noise_scale = noise_scale.cpu().double()
    scale, clean, width = bench.spread(noise_scale), bench.clean[layer], drift.shape[1]
    slopes = []
    loss = torch.zeros(len(scale), dtype=torch.float64)
    explained, own_squares = loss.clone(), loss.clone()
    drift_sum = torch.zeros_like(clean)
    for pair in range(pairs):
        (noise,) = bench.noise("pairs", range(pair, pair + 1))
        shift = scale * noise
        slope, even = torch.zeros_like(shift), torch.zeros_like(clean)
        for sign in (1, -1):
            noisy = (bench.inputs + sign * shift).requires_grad_(True)
            feature = bench.features(noisy)[layer]
            (gradient,) = torch.autograd.grad((feature * drift).sum(), noisy)
            bench.passes.backward += len(noisy)
            slope += sign * gradient / 2
            even += (feature.detach() - clean) / 2
            loss += bench.squared_change(feature.detach(), layer).cpu() / (2 * pairs)
        slopes.append(bench.reduce(slope.mul_(noise)).double().cpu() / (width * noise_scale))
        explained += surrogate.value(shift[None])[0].cpu() / pairs
        own_squares += even.square().mean(1).double().cpu()
        drift_sum += even
    loss = _corrected(loss, explained, surrogate.mean(noise_scale))
    squared_drift = (drift_sum.square().mean(1).double().cpu() - own_squares) / (pairs * (pairs - 1))
    squared_drift = squared_drift.clamp(min=0).minimum(loss)
    slope, slope_error = torch.stack(slopes).mean(0), torch.stack(slopes).std(0) / pairs**0.5
    by_slope = (noise_scale.square() * slope).sum(1)
    of_slope = torch.where(by_slope > squared_drift, squared_drift / by_slope, 1.0)[:, None]
    of_gain = (loss[:, None] - of_slope * by_slope[:, None]) / surrogate.predict(noise_scale)[:, None]
    of_gain = of_gain.nan_to_num(0, 0, 0)
    gain = of_gain * surrogate.gain + of_slope * slope
    error = ((of_gain * surrogate.gain_error).square() + (of_slope * slope_error).square()).sqrt()
    return gain.maximum(_LEAST_SHARE * of_gain * surrogate.gain), error


@dataclass(frozen=True)
class Descent:
    """End of a sampled descent.

    Attributes
    ----------
    noise_ratio
        Shape ``(B, U)``, float64: ``sigma / tau0`` where the mean of its log meets the target.
    time
        Shape ``(B,)``, float64, in steps, interpolated.
    converged
        Shape ``(B,)``, bool.
    gain_error
        Shape ``(B, U)``, float64: standard error of the gain that this path amounts to, from the spread
        over draws.
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
    weight: float = 7.0,
    target: float = 0.386,
    draws: int = 8,
    longest: int = LONGEST_DESCENT,
) -> Descent:
    """Run the authors' descent on sampled losses, with few draws and little noise.

    A step is ``sigma -= lr dL/dsigma`` with their learning rate ``n tau0^2 / 256``, their clamp, and fresh
    noise [1]_. One draw's gradient, ``eps J^T (f' - f*)``, is dominated by the noise on the *other* units;
    the surrogate takes out what it can predict of that disturbance.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    feature_variance
        Shape ``(B,)``, the mean squared feature change at ``tau0``; positive.
    weight, target
        As in :func:`kdviz.entropy.solve`.
    draws
        Pass pairs a step.
    longest
        Steps after which a sample is given up; the target is usually met near step 36.

    Returns
    -------
    Descent
        Interpolated to the target between two steps; samples stop on their own.

    References
    ----------
    .. [1] Cheng et al., CVPR 2020, published code, ``sigma/train_sigma.py``.
    """
    samples, units = surrogate.gain.shape
    rate = STEP_RATE * units * bench.base_noise**2
    lower, upper = (limit * bench.base_noise for limit in NOISE_RATIO_LIMITS)
    scale = torch.full((samples, units), bench.base_noise, dtype=torch.float64)
    mean_log = torch.zeros(samples, dtype=torch.float64)
    end, time = scale.clone(), torch.full((samples,), float(longest), dtype=torch.float64)
    converged = torch.zeros(samples, dtype=torch.bool)
    squared_error = torch.zeros_like(scale)  # of the sum over steps of the gain that each step amounts to
    running = torch.arange(samples)
    for step in range(longest):
        here = scale[running]
        fresh = range(step * draws, (step + 1) * draws)
        slope, slope_error = _loss_slope(bench, layer, surrogate, here, fresh)
        squared_error[running] += (slope_error / (2 * here)).square()
        gradient = slope / feature_variance[running, None] - weight / (units * here)
        moved = (here - rate * gradient).clamp(lower, upper)
        reached = (moved / bench.base_noise).log().mean(1)
        done = reached >= target
        share = (target - mean_log[running]) / (reached - mean_log[running])
        rows = running[done]
        end[rows] = here[done].log().lerp(moved[done].log(), share[done, None]).exp()
        time[rows] = step + share[done]
        converged[rows] = True
        scale[running], mean_log[running] = moved, reached
        if done.any():
            running = running[~done]
            bench, surrogate = bench.select((~done).nonzero().flatten().tolist()), surrogate.select(~done)
        if not len(running):
            break
    end[running] = scale[running]
    return Descent(end / bench.base_noise, time, converged, squared_error.sqrt() / time.ceil()[:, None])


def _loss_slope(
    bench: Bench, layer: str, surrogate: Surrogate, noise_scale: Tensor, draws: range
) -> tuple[Tensor, Tensor]:
    """Estimate ``dE/dsigma``, ``(B, U)``, of the mean squared feature change, and its standard error."""
    noises = bench.noise("descent", draws)
    shifts = bench.spread(noise_scale) * noises
    surprise = torch.stack([_change_gradient(bench, layer, shift) for shift in shifts])
    surprise -= surrogate.slope(shifts)
    per_unit = bench.reduce(surprise.mul_(noises)).double().cpu()
    slope = 2 * noise_scale * surrogate.gain * surrogate.share[:, None] + per_unit.mean(0)
    return slope, per_unit.std(0) / len(draws) ** 0.5


def _change_gradient(bench: Bench, layer: str, shift: Tensor) -> Tensor:
    """Gradient of the mean squared feature change with respect to the input change, by one pass pair."""
    shift = shift.detach().requires_grad_(True)
    change = bench.squared_change(bench.features(bench.inputs + shift)[layer], layer)
    (gradient,) = torch.autograd.grad(change.sum(), shift)
    bench.passes.backward += len(shift)
    return gradient


def minimise_sampled(
    bench: Bench,
    layer: str,
    feature_variance: Tensor,
    *,
    weight: float = 7.0,
    steps: int = 400,
    draws: int = 16,
) -> Tensor:
    """Minimise Eq. (4) by plain Monte Carlo: no gain, no surrogate, no small-noise assumption.

    The independent check of the closed forms, and the way to noise too large for them. Adam on ``log sigma``
    with a learning rate that falls to zero; the mean of the last half of the steps is returned.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    feature_variance
        Shape ``(B,)``; positive.
    weight
        Entropy weight in the mean form.
    steps, draws
        Steps, and fresh pass pairs in each.

    Returns
    -------
    Tensor
        Shape ``(B, U)``, float64: ``sigma / tau0`` at the minimum.
    """
    samples, units = len(bench.inputs), bench.unit_count
    log_ratio = torch.zeros(samples, units, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([log_ratio], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    total = torch.zeros(samples, units, dtype=torch.float64)
    limits = np.log(NOISE_RATIO_LIMITS)
    for step in range(steps):
        slope = torch.zeros_like(total)
        ratio = log_ratio.detach().exp()
        scale = bench.spread(ratio * bench.base_noise)
        for noise in bench.noise("sampled", range(step * draws, (step + 1) * draws)):
            per_element = noise * _change_gradient(bench, layer, scale * noise)
            slope += bench.reduce(per_element).double().cpu() / draws
        log_ratio.grad = slope * ratio * bench.base_noise / feature_variance[:, None] - weight / units
        adam.step()
        schedule.step()
        with torch.no_grad():
            log_ratio.clamp_(*limits)
        if step >= steps // 2:
            total += log_ratio.detach() / (steps - steps // 2)
    return total.exp()


def _generator(seed: int, name: str, purpose: str, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(_key(seed, name, purpose, draw))


def _key(seed: int, name: str, purpose: str, draw: int) -> int:
    text = f"{seed}|{name}|{purpose}|{draw}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _flatten(samples: Tensor) -> Tensor:
    """``(B, ...)`` to ``(B, N)``, images channels last."""
    return (samples.permute(0, 2, 3, 1) if samples.ndim == 4 else samples).flatten(1).contiguous()


def _unflatten(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`_flatten` for samples of `shape`, without a copy."""
    if len(shape) != 3:
        return rows.view(-1, *shape)
    channels, height, width = shape
    return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


def _hadamard_row(row: int, order: int) -> Tensor:
    """Row of Sylvester's Hadamard matrix of `order`, a power of 2, by doubling."""
    signs = torch.ones(1)
    while len(signs) < order:
        signs = torch.cat([signs, -signs if row & len(signs) else signs])
    return signs
