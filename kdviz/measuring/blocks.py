"""One batch through the engine, and the decision which method each of its samples needs.

Symbols: ``B`` samples, ``U`` units, ``Q`` = 4 gain quartiles.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdviz.arguments import name_some
from kdviz.entropy import Solution, entropy_of, gain_ratio, invert_descent, solve
from kdviz.gain import (
    Bench,
    Surrogate,
    descend,
    estimate_gain,
    measure_change,
    measure_rounding,
    measure_variance,
    share_loss,
)
from kdviz.measuring.settings import Settings
from kdviz.networks.features import FeatureReader, to_device
from kdviz.networks.inputs import Inputs
from kdviz.networks.preparing import device_of
from kdviz.schema import METHODS, QUARTILES, VARIABLES

PATH_PAIRS = 32  # for the feature variance of a path, which few pairs miss where a feature is almost dead
LINEAR = (0.8, 1.25)  # linearity within which the gain alone is trusted, as far as sums can tell
FITTING = 5.0  # misfit up to which it is, as far as units can tell
ROUNDING = 0.01  # share of rounding in the change of a feature, up to which gains are right to a few per cent

Arrays = dict[str, NDArray]


def measure_block(
    reader: FeatureReader, inputs: Inputs, rows: range, settings: Settings
) -> dict[str, Arrays]:
    """Measure the samples at `rows`, ``settings.micro_batch`` at a time, padded ones one by one.

    What is measured one by one takes several noise draws into a pass instead.

    Returns
    -------
    dict
        ``{layer: {variable: array}}`` with the measured variables of :mod:`kdviz.schema` without the epoch
        axis.
    """
    collected: dict[str, list[Arrays]] = {layer: [] for layer in reader.layers}
    for bench in make_benches(reader, inputs, rows, settings):
        for layer, arrays in _measure_batch(bench, settings):
            collected[layer].append(_pad(arrays, inputs.units.count))
    return {
        layer: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for layer, parts in collected.items()
    }


def _measure_batch(bench: Bench, settings: Settings) -> Iterator[tuple[str, Arrays]]:
    """Measure layer by layer; what was held for them is free again before the next batch."""
    surrogates = estimate_gain(bench, probes=settings.probes, points=settings.points)
    base = torch.full((len(bench.inputs), bench.unit_count), settings.base_noise, dtype=torch.float64)
    changes = measure_change(bench, base, pairs=settings.pairs, surrogates=surrogates)
    rounding = measure_rounding(bench, changes)
    for layer, surrogate in surrogates.items():
        _require_resolved(bench, layer, rounding[layer])
        yield layer, _measure_layer(bench, layer, surrogate, changes[layer], settings)


def make_benches(reader: FeatureReader, inputs: Inputs, rows: range, settings: Settings) -> Iterator[Bench]:
    """Prepare the samples at `rows` for noise, batch by batch."""
    device = device_of(reader.network)
    sizes = inputs.samples.get("unit_size") if settings.unit_gain == "mean" else None
    for part, batch in inputs.batches(rows, settings.micro_batch):
        given = to_device(batch, device)
        values = reader.enter(given)
        count = int(inputs.samples["valid"].values[part.start].sum())
        yield Bench(
            reader,
            values,
            sample_ids=inputs.ids[part.start : part.stop],
            unit_index=inputs.units.index(tuple(values.shape[1:]), part.start),
            unit_count=count,
            base_noise=settings.base_noise,
            seed=settings.seed,
            given=None if values is given else given,
            together=1 if inputs.units.length(part.start) is None else settings.micro_batch,
            unit_size=None if sizes is None else sizes.values[part.start, :count],
            turned=inputs.units.is_turned(tuple(values.shape[1:])),
        )


def measure_noise_unit(reader: FeatureReader, inputs: Inputs) -> float:
    """Return the root mean square, over the units of all samples, of what noise falls on.

    One number for a network and checkpoint, from passes through its entry alone; the same for any order and
    batching of the samples.
    """
    squares, count, device = [], 0, device_of(reader.network)
    reader.noise_unit = 1.0
    for part, batch in inputs.batches(range(len(inputs.ids)), 1):
        given = to_device(batch, device)
        values = reader.enter(given)[0].double().cpu()
        inside = torch.as_tensor(inputs.units.index(tuple(values.shape), part.start) >= 0)
        squares.append(float(values[inside].square().sum()))
        count += int(inside.sum())
    size = (math.fsum(squares) / count) ** 0.5
    if not 0 < size < math.inf:
        raise ValueError(f"entry gives values of root mean square {size}, to which noise cannot be scaled")
    return float(np.float32(size))  # as it is stored


def _pad(arrays: Arrays, units: int) -> Arrays:
    """Lengthen what has one value a unit to the run's number of units, with NaN."""
    return arrays | {
        name: np.pad(values, ((0, 0), (0, units - values.shape[1])), constant_values=np.nan)
        for name, values in arrays.items()
        if VARIABLES[name].dims[-1] == "unit"
    }


def _measure_layer(
    bench: Bench, layer: str, surrogate: Surrogate, variance: Tensor, settings: Settings
) -> Arrays:
    """Measure one layer; `surrogate` and `variance` were taken at the base noise."""
    size = bench.unit_size.numpy()
    _require_finite(bench, layer, surrogate.gain, variance)
    gain, gain_error = surrogate.gain.numpy().copy(), surrogate.gain_error.numpy().copy()
    misfit = np.zeros(len(gain))
    if settings.method != "path":  # the path finds the drift by itself
        first = _solve(gain, gain_error, variance.numpy(), size, settings)
        half_way = torch.from_numpy(first.noise_ratio**0.5 * settings.base_noise)
        shared = share_loss(bench, layer, surrogate, half_way, pairs=settings.pairs)
        _require_finite(bench, layer, shared.gain, shared.gain_error, shared.misfit)
        gain, gain_error, misfit = (part.numpy() for part in (shared.gain, shared.gain_error, shared.misfit))
    solution = _solve(gain, gain_error, variance.numpy(), size, settings)
    loss, linearity, by_quartile = _check(bench, layer, surrogate, gain, solution, settings)
    converged = solution.converged.copy()
    method = np.full(len(gain), METHODS.index("gain"), np.int8)
    alive = variance.numpy() > 0
    fits = (linearity >= LINEAR[0]) & (linearity <= LINEAR[1]) & (misfit <= FITTING)
    by_path = {"gain": np.zeros_like(alive), "auto": ~fits, "path": np.ones_like(alive)}[settings.method]
    rows = np.flatnonzero(alive & by_path)
    if len(rows):
        part, chosen = bench.select(rows.tolist()), torch.from_numpy(rows)
        known = {layer: surrogate.select(chosen)}
        variance = variance.clone()
        variance[rows], variance_error = measure_variance(part, layer, known[layer], pairs=PATH_PAIRS)
        _require_finite(bench, layer, variance)
        descent = descend(
            part,
            layer,
            known[layer],
            variance[chosen],
            variance_error=variance_error,
            weight=settings.weight,
            calibration=settings.calibration,
            draws=settings.draws,
        )
        ratio = invert_descent(descent.noise_ratio.numpy(), descent.time.numpy(), weight=settings.weight)
        of_ratio = variance.numpy()[rows, None] * size / size.sum() / settings.base_noise**2
        gain[rows], gain_error[rows] = ratio * of_ratio, descent.gain_error.numpy()
        method[rows] = METHODS.index("path")
        converged[rows] = descent.converged.numpy()
        scale = descent.noise_ratio * settings.base_noise
        found = measure_change(part, scale, pairs=settings.pairs, surrogates=known)
        loss[rows] = found[layer]
    final = _solve(gain, gain_error, variance.numpy(), size, settings)
    noise_scale = final.noise_ratio * settings.base_noise
    with np.errstate(divide="ignore", invalid="ignore"):
        feature_loss = np.where(alive, loss / variance.numpy(), np.nan)
    return {
        "gain": gain,
        "gain_error": gain_error,
        "entropy": entropy_of(noise_scale),
        "entropy_error": final.log_error,
        "noise_scale": noise_scale,
        "feature_variance": variance.numpy(),
        "feature_loss": feature_loss,
        "linearity": linearity,
        "linearity_quartile": by_quartile,
        "method": method,
        "converged": converged & final.converged & alive,
        "zero_gain": (gain == 0).sum(1),
    }


def _solve(
    gain: NDArray[np.float64],
    error: NDArray[np.float64],
    variance: NDArray[np.float64],
    size: NDArray[np.float64],
    settings: Settings,
) -> Solution:
    ratio, ratio_error = (gain_ratio(one, variance, True, settings.base_noise, size) for one in (gain, error))
    weight, calibration = settings.weight, settings.calibration
    return solve(ratio, weight=weight, calibration=calibration, ratio_error=ratio_error, size=size)


def _check(
    bench: Bench,
    layer: str,
    surrogate: Surrogate,
    gain: NDArray[np.float64],
    solution: Solution,
    settings: Settings,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Measured loss at the solution, and its ratio to the predicted one, in all and by gain quartile."""
    unit_gain = torch.from_numpy(gain)
    rank = unit_gain.argsort(stable=True, dim=1).argsort(dim=1)
    quartile = rank * QUARTILES // bench.unit_count

    def measure(scale: Tensor, pairs: int, signs: Sequence[int] = (1, -1)) -> tuple[Tensor, Tensor]:
        change = measure_change(bench, scale, pairs=pairs, surrogates={layer: surrogate}, signs=signs)
        return change[layer], (scale.square() * unit_gain).sum(1)

    scale = torch.from_numpy(solution.noise_ratio * settings.base_noise)
    loss, predicted = measure(scale, settings.pairs)
    by_quartile = [_ratio(*measure(scale * (quartile == q), 1, (1,))) for q in range(QUARTILES)]
    return loss.numpy(), _ratio(loss, predicted), np.stack(by_quartile, 1)


def _require_finite(bench: Bench, layer: str, *measured: Tensor) -> None:
    """Stop where a sample has no number for what was measured, ``(B, ...)``, rather than store it."""
    fine = [values.isfinite().view(len(values), -1).all(1) for values in measured]
    bad = ~torch.stack(fine).all(0)
    if bad.any():
        names = [bench.sample_ids[row] for row in bad.nonzero().flatten().tolist()]
        raise ValueError(
            f"layer {layer!r} gives NaN or infinite features or gradients under small noise for "
            f"{name_some(names)}; leave these samples out, or measure another layer"
        )


def _require_resolved(bench: Bench, layer: str, rounding: Tensor) -> None:
    """Stop where the base noise moves the feature of a sample hardly more than rounding does."""
    if (bad := rounding > ROUNDING).any():
        names = [bench.sample_ids[row] for row in bad.nonzero().flatten().tolist()]
        raise ValueError(
            f"base_noise={bench.base_noise:g} moves layer {layer!r} hardly more than the rounding of "
            f"{bench.inputs.dtype} does, for {name_some(names)}; pass a larger base_noise, leave these "
            "samples out, or measure in float64: network.double() and inputs.double()"
        )


def _ratio(measured: Tensor, predicted: Tensor) -> NDArray[np.float64]:
    return torch.where(predicted > 0, measured / predicted, torch.nan).numpy()
