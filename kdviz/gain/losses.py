"""The squared change of a feature under noise: measured, and shared among the units that cause it.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kdviz.gain.bench import Bench
from kdviz.gain.probes import Surrogate

_HELD_DRAWS = 16  # noise draws of one batch held at once
_PLENTY = 2**10  # units in the last place, of inputs and of features, beyond which rounding is nothing
_LEAST_SHARE = 0.05  # of its probe gain that a unit keeps whatever a noisy slope says


@dataclass(frozen=True)
class Change:
    """How noise changed a feature.

    Attributes
    ----------
    squared
        Shape ``(B,)``, float64: mean squared change over feature entries and draws.
    mean
        Shape ``(B, D)``: mean change over draws, which noise of mean zero leaves in a curved network.
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
            for several in shifts.split(bench.together):
                features = bench.features((bench.inputs + several).flatten(0, 1))
                for layer in surrogates:
                    for feature in features[layer].split(len(scale)):
                        plain[layer] += bench.squared_change(feature, layer).cpu() / draws
                        mean[layer] += (feature - bench.clean[layer]) / draws
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


def measure_rounding(bench: Bench, changes: dict[str, Change]) -> dict[str, Tensor]:
    """Share of rounding in the squared change of a feature at the base noise, by float arithmetic alone.

    Every input is moved by one unit in the last place, up or down: as much as the rounding of noisy inputs
    and within the network does the feature change then. To that comes the rounding of the feature itself.

    Parameters
    ----------
    bench
        Inputs and network.
    changes
        From :func:`measure_change` at the base noise.

    Returns
    -------
    dict
        ``{layer: (B,)}``, float64: 0 of none, 1 of nothing else; infinite where a feature moves by rounding
        and not by the noise. Costs one pass forward, which is spared, and 0 told, where noise and change are
        1,024 units in the last place or more.
    """
    inputs, fine = bench.inputs, torch.finfo(bench.inputs.dtype).eps * _PLENTY
    enough = bench.base_noise > fine * float(inputs.abs().max())
    for layer, change in changes.items():
        size = bench.clean[layer].square().mean(1).double().cpu()
        enough &= bool((change.squared >= fine**2 * size).all())
    if enough:
        return {layer: torch.zeros_like(change.squared) for layer, change in changes.items()}
    step = _spacing(inputs) * bench.noise("rounding", range(1))[0].sign()
    with torch.no_grad():
        stirred = bench.features(inputs + step)
    shares = {}
    for layer, change in changes.items():
        moved = bench.squared_change(stirred[layer], layer).cpu()
        held = 2 / 12 * _spacing(bench.clean[layer]).double().square().mean(1).cpu()
        nothing = torch.where(moved > 0, torch.inf, 0.0)  # of a dead feature
        shares[layer] = torch.where(change.squared > 0, (moved + held) / change.squared, nothing)
    return shares


def _spacing(values: Tensor) -> Tensor:
    """Distance of numbers to the next larger ones."""
    return values.abs().nextafter(torch.full_like(values, torch.inf)) - values.abs()


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
    so that ``sum_u sigma_u^2 gain_u`` equals the loss measured here; what a noisy slope would make less than
    a twentieth of a unit's scaled probe gain is then lifted to that. A linear network has no drift and keeps
    its probe gains, but for the scale.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    noise_scale
        Shape ``(B, U)``, positive: the noise at which to look, best half-way along the descent.
    drift
        Shape ``(B, D)``: an estimate of ``m`` from other draws. Its size does not matter unless it is so
        small that its slope falls short of ``|m|^2``.
    pairs
        Antithetic pairs, two forward and two backward passes each; at least 2.

    Returns
    -------
    gain, gain_error
        Shape ``(B, U)``, float64. The error is that of probes and pairs; the chance in `drift` and in the two
        scales is not in it.
    """
    noise_scale = noise_scale.cpu().double()
    scale, clean, width = bench.spread(noise_scale), bench.clean[layer], drift.shape[1]
    slopes = []
    loss = torch.zeros(len(scale), dtype=torch.float64)
    explained, own_squares = loss.clone(), loss.clone()
    drift_sum = torch.zeros_like(clean)
    for start in range(0, pairs, _HELD_DRAWS):
        noises = bench.noise("pairs", range(start, min(start + _HELD_DRAWS, pairs)))
        explained += surrogate.value(scale * noises).sum(0).cpu() / pairs
        for several in noises.split(bench.together):
            slope = torch.zeros_like(several)
            even = clean.new_zeros(len(several), *clean.shape)
            for sign in (1, -1):
                noisy = torch.addcmul(bench.inputs, scale, several, value=sign).flatten(0, 1)
                feature = bench.features(noisy.requires_grad_(True))[layer]
                (gradient,) = torch.autograd.grad(feature, noisy, drift.repeat(len(several), 1))
                bench.passes.backward += len(noisy)
                slope += sign / 2 * gradient.unflatten(0, several.shape[:2])
                by_noise = feature.detach().unflatten(0, several.shape[:2])
                even += (by_noise - clean) / 2
                for one in by_noise:
                    loss += bench.squared_change(one, layer).cpu() / (2 * pairs)
            slopes += [*bench.reduce(slope.mul_(several)).double().cpu() / (width * noise_scale)]
            own_squares += even.square().mean(2).double().cpu().sum(0)
            drift_sum += even.sum(0)
    loss = _corrected(loss, explained, surrogate.mean(noise_scale))
    squared_drift = (drift_sum.square().mean(1).double().cpu() - own_squares) / (pairs * (pairs - 1))
    squared_drift = squared_drift.clamp(min=0).minimum(loss)
    slope, slope_error = torch.stack(slopes).mean(0), torch.stack(slopes).std(0) / pairs**0.5
    by_slope = (noise_scale.square() * slope).sum(1)
    of_slope = torch.where(by_slope > squared_drift, squared_drift / by_slope, 1.0)[:, None]
    predicted = surrogate.predict(noise_scale)[:, None]
    of_gain = (loss[:, None] - of_slope * by_slope[:, None]) / predicted
    of_gain = torch.where(predicted == 0, 0, of_gain)  # no probe gain to scale
    gain = of_gain * surrogate.gain + of_slope * slope
    error = ((of_gain * surrogate.gain_error).square() + (of_slope * slope_error).square()).sqrt()
    return gain.maximum(_LEAST_SHARE * of_gain * surrogate.gain), error
