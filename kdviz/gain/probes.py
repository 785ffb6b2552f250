"""Probe gains: how far noise on every unit spreads a feature, from random probes on the feature.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries, ``P`` probes,
``K`` noise draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from kdviz.gain.bench import Bench, noise_generator, noise_key


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
        """Return the surrogate of some samples."""
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
        # this way round, and not W^T times columns, which reads W six times as slowly where K is small
        return (self._project(shifts).mul_(2).transpose(1, 2) @ self.rows).transpose(0, 1)

    def _project(self, shifts: Tensor) -> Tensor:
        """``W delta``, shape ``(B, P, K)``: all changes at once, because reading ``W`` is what takes time."""
        return self.rows @ shifts.permute(1, 2, 0)


def estimate_gain(bench: Bench, *, probes: int = 40, points: int = 4) -> dict[str, Surrogate]:
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
    most = max(plan.points for plan in plans.values())
    for start in range(0, most, bench.together):
        group = range(start, min(start + bench.together, most))
        noises = bench.noise("probe-point", group)
        noisy = (bench.inputs + bench.base_noise * noises).flatten(0, 1).requires_grad_(True)
        features = bench.features(noisy)
        for layer, plan in plans.items():
            clean, nothing = bench.clean[layer], torch.zeros_like(bench.clean[layer])
            for turn, several in enumerate(zip_longest(*(plan.at(point, clean) for point in group))):
                asked = [at for at, probe in enumerate(several) if probe is not None]
                weights = torch.cat([nothing if probe is None else probe for probe in several])
                (gradient,) = torch.autograd.grad(features[layer], noisy, weights, retain_graph=True)
                bench.passes.backward += len(asked) * samples
                by_point = gradient.unflatten(0, (len(group), samples))
                for at in asked:
                    rows[layer][:, plan.start(group[at]) + turn] = by_point[at]
            here = rows[layer][:, plan.start(group.start) : plan.start(group.stop)]
            squares[layer].append(bench.reduce(here.square()).double() / plan.width)
        del features
    surrogates = {}
    for layer, plan in plans.items():
        contributions = torch.cat(squares[layer], 1).cpu()
        share = plan.best_share(rows[layer])
        factor = (share / (plan.count * plan.width)).sqrt().to(rows[layer].dtype)
        rows[layer] *= bench.send(factor)[:, None, None]
        error = plan.standard_error(contributions)
        surrogates[layer] = Surrogate(contributions.mean(1), error, rows[layer], share)
    return surrogates


def count_probes(width: int, probes: int, points: int) -> tuple[int, int]:
    """Return the noise points and the probes that a layer of some width gets, see :func:`estimate_gain`."""
    if width <= probes:
        points = max(2, min(points, probes // width))  # two at least, or there is no error to report
        return points, points * width
    return min(points, probes), probes


class _ProbePlan:
    """Which probes a layer of width ``D`` gets at which noise point."""

    def __init__(self, bench: Bench, width: int, probes: int, draws: int) -> None:
        self.width = width
        self.exact = width <= probes
        self.points, self.count = count_probes(width, probes, draws)
        if self.exact:
            self._starts = [width * point for point in range(self.points + 1)]
            return
        self.order = 1 << (width - 1).bit_length()
        rows = np.random.default_rng(noise_key(bench.seed, str(width), "probe-rows", 0))
        self._rows = np.array_split(rows.choice(self.order, size=probes, replace=False), self.points)
        self._starts = np.cumsum([0, *map(len, self._rows)]).tolist()
        signs = [
            torch.randint(0, 2, (width,), generator=noise_generator(bench.seed, name, "probe-signs", 0))
            for name in bench.sample_ids
        ]
        self._signs = bench.send((torch.stack(signs) * 2 - 1).to(bench.inputs.dtype))

    def start(self, point: int) -> int:
        """Return the place of the first probe of a noise point, or their number if there is no such point."""
        return self._starts[min(point, self.points)]

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
            yield self._signs * _hadamard_row(int(row), self.order, self._signs)[: self.width]

    def standard_error(self, contributions: Tensor) -> Tensor:
        """Return the standard error of the mean of ``(B, P, U)`` contributions over ``P``.

        Two things are left to chance. Rows are drawn without replacement, so their part ends when all are
        used. Noise points are not; because a few say too little about each unit, their part is taken as one
        multiple for all units of a sample: of the rows' variance, or of the squared gain where every row is
        used.
        """
        if self.exact:
            by_point = contributions.unflatten(1, (self.points, self.width)).mean(2)
            mean, variance = by_point.mean(1), by_point.var(1) / self.points
            square = mean.square().sum(1, keepdim=True)
            return mean * (variance.sum(1, keepdim=True) / square).nan_to_num(0).sqrt()
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
        """Return the multiple of the surrogate that explains most, ``(B,)``, from raw rows ``(B, P, N)``.

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


def _hadamard_row(row: int, order: int, like: Tensor) -> Tensor:
    """Row of Sylvester's Hadamard matrix of `order`, a power of 2, by doubling; of a kind with `like`."""
    signs = like.new_ones(1)
    while len(signs) < order:
        signs = torch.cat([signs, -signs if row & len(signs) else signs])
    return signs
