"""The squared change of a feature under noise: measured, and shared among the units that cause it.

Symbols: ``B`` samples, ``N`` elements of one input, ``U`` units, ``D`` feature entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdviz.gain.bench import Bench
from kdviz.gain.probes import Surrogate

_HELD_DRAWS = 16  # noise draws of one batch held at once
_PLENTY = 2**10  # units in the last place, of inputs and of features, beyond which rounding is nothing
_NEGLIGIBLE = 0.02  # relative difference of gains that is no misfit, however sure
_LEAST_SHARE = 0.05  # of its probe gain that a unit keeps whatever a noisy slope says


def measure_change(
    bench: Bench,
    noise_scale: Tensor,
    *,
    pairs: int,
    surrogates: dict[str, Surrogate],
    signs: Sequence[int] = (1, -1),
) -> dict[str, Tensor]:
    """Mean squared feature change under unit-wise noise, Eq. (4)'s first term: forward passes only.

    The draws are those of :func:`share_loss`, at every `noise_scale`: what they happen to be cancels where
    losses are divided by each other, as by the feature variance.

    Parameters
    ----------
    bench
        Inputs and network.
    noise_scale
        Shape ``(B, U)``, standard deviations in input units.
    pairs
        Antithetic pairs of noise; positive.
    surrogates
        Control variates of the layers to measure.
    signs
        Of the members of each pair that are used.

    Returns
    -------
    dict
        ``{layer: (B,)}``, float64.
    """
    noise_scale = noise_scale.cpu().double()
    drawn = _draw_changes(bench, noise_scale, pairs, surrogates, signs)
    return {
        layer: _corrected(plain.mean(0), explained.mean(0), surrogates[layer].mean(noise_scale))
        for layer, (plain, explained) in drawn.items()
    }


def measure_variance(bench: Bench, layer: str, surrogate: Surrogate, *, pairs: int) -> tuple[Tensor, Tensor]:
    """Mean squared feature change at the base noise, as from :func:`measure_change`, and its chance.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    pairs
        As in :func:`measure_change`; at least 2.

    Returns
    -------
    tuple of Tensor
        The mean and its standard error, each ``(B,)``, float64.
    """
    base = torch.full_like(surrogate.gain, bench.base_noise)
    plain, explained = _draw_changes(bench, base, pairs, {layer: surrogate})[layer]
    mean = _corrected(plain.mean(0), explained.mean(0), surrogate.mean(base))
    error = torch.where(mean == plain.mean(0), plain.std(0), (plain - explained).std(0))
    return mean, error / pairs**0.5


def _draw_changes(
    bench: Bench,
    noise_scale: Tensor,
    pairs: int,
    surrogates: dict[str, Surrogate],
    signs: Sequence[int] = (1, -1),
) -> dict[str, tuple[Tensor, Tensor]]:
    """Squared feature changes of every pair, and what of them the surrogates tell: ``(pairs, B)`` each."""
    scale = bench.expand(noise_scale)
    plain: dict[str, list[Tensor]] = {layer: [] for layer in surrogates}
    explained: dict[str, list[Tensor]] = {layer: [] for layer in surrogates}
    with torch.no_grad():
        for start in range(0, pairs, _HELD_DRAWS):
            noises = bench.noise("pairs", range(start, min(start + _HELD_DRAWS, pairs)))
            for several in noises.split(bench.together):
                by_sign: dict[str, list[Tensor]] = {layer: [] for layer in surrogates}
                for sign in signs:
                    noisy = torch.addcmul(bench.inputs, scale, several, value=sign)
                    features = bench.features(noisy.flatten(0, 1))
                    for layer, squares in by_sign.items():
                        squares.append(bench.squared_change(features[layer], layer))
                for layer, squares in by_sign.items():
                    plain[layer].append(torch.stack(squares).mean(0).view(len(several), -1))
            for layer, surrogate in surrogates.items():
                explained[layer].append(surrogate.value(scale * noises))
    return {layer: (torch.cat(plain[layer]).cpu(), torch.cat(explained[layer]).cpu()) for layer in surrogates}


def _corrected(plain: Tensor, explained: Tensor, expected: Tensor) -> Tensor:
    """Apply a control variate to mean squares, which are not negative."""
    corrected = plain - explained + expected
    return torch.where(corrected > 0, corrected, plain)


def measure_rounding(bench: Bench, changes: dict[str, Tensor]) -> dict[str, Tensor]:
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
        enough &= bool((change >= fine**2 * size).all())
    if enough:
        return {layer: torch.zeros_like(change) for layer, change in changes.items()}
    step = _spacing(inputs) * bench.noise("rounding", range(1))[0].sign()
    with torch.no_grad():
        stirred = bench.features(inputs + step)
    shares = {}
    for layer, change in changes.items():
        moved = bench.squared_change(stirred[layer], layer).cpu()
        held = 2 / 12 * _spacing(bench.clean[layer]).double().square().mean(1).cpu()
        nothing = torch.where(moved > 0, torch.inf, 0.0)  # of a dead feature
        shares[layer] = torch.where(change > 0, (moved + held) / change, nothing)
    return shares


def _spacing(values: Tensor) -> Tensor:
    """Distance of numbers to the next larger ones."""
    return values.abs().nextafter(torch.full_like(values, torch.inf)) - values.abs()


@dataclass(frozen=True)
class SharedLoss:
    """What every unit causes of a squared feature change.

    Attributes
    ----------
    gain, gain_error
        Shape ``(B, U)``, float64: the gain and its standard error, that of probes and pairs.
    misfit
        Shape ``(B,)``, float64: how far slopes that take every unit by itself are from `gain`, in squares
        above those that chance makes, in standard errors of these. Near 0 or below where the gains are right,
        with a long tail of few pairs; where it is large, units are wrong however right their sum. Of a single
        unit it says nothing.
    """

    gain: Tensor
    gain_error: Tensor
    misfit: Tensor


def share_loss(
    bench: Bench, layer: str, surrogate: Surrogate, noise_scale: Tensor, *, pairs: int = 10
) -> SharedLoss:
    """Share the squared feature change under some noise among the units that cause it.

    Probe gains see how much the feature *spreads*, and nothing of how far noise *drifts* it: kinks and max
    pooling turn noise of mean zero into a change that is not, in a trained network up to half of the loss and
    on other units. Antithetic noise tells the two apart: with ``f(x +- sigma eps) - f* = c +- o``, ``c`` the
    common and ``o`` the opposite change, ``E |f' - f*|^2 = E |o|^2 + E |c|^2``. The first goes to the units
    by their probe gains, the second by its own slope

        ``d E|c|^2 / d sigma_u^2 = E[eps_u (J_+ - J_-)_u^T c] / (2 sigma_u)``,

    which is free of all that is linear in the noise and so of most chance. Where that slope tells more than
    ``E |c|^2`` it is scaled down to it, where it tells less the probe gains take the rest, so that
    ``sum_u sigma_u^2 gain_u`` equals the loss measured here; what a noisy slope would make less than a
    twentieth of a unit's scaled probe gain is then lifted to that. In a linear network nothing is common, and
    it keeps its probe gains, but for the scale.

    The same passes give the slope of ``E |f' - f*|^2`` as a whole, which takes every unit by itself. It is
    too noisy for a gain, but all units together tell whether the gains are right.

    Parameters
    ----------
    bench, layer
        Inputs and network.
    surrogate
        Of this layer, from :func:`estimate_gain`.
    noise_scale
        Shape ``(B, U)``, positive: the noise at which to look, best half-way along the descent.
    pairs
        Antithetic pairs, two forward and four backward passes each; at least 2.
    """
    noise_scale = noise_scale.cpu().double()
    scale, clean = bench.expand(noise_scale), bench.clean[layer]
    width, by_unit = clean.shape[1], bench.send(noise_scale)
    by_common: list[Tensor] = []  # slopes of each pair, (B, U)
    by_all: list[Tensor] = []
    opposite_loss, common_loss, explained = torch.zeros(
        3, len(scale), dtype=torch.float64, device=scale.device
    )
    for start in range(0, pairs, _HELD_DRAWS):
        noises = bench.noise("pairs", range(start, min(start + _HELD_DRAWS, pairs)))
        explained += surrogate.value(scale * noises).sum(0) / pairs
        for several in noises.split(bench.together):
            shifts = scale * several
            noisy = [(bench.inputs + sign * shifts).flatten(0, 1).requires_grad_(True) for sign in (1, -1)]
            features = [bench.features(inputs)[layer] for inputs in noisy]
            changes = [one.detach().unflatten(0, several.shape[:2]) - clean for one in features]
            common = (changes[0] + changes[1]) / 2
            for part, part_loss in ((common, common_loss), (changes[0] - common, opposite_loss)):
                part_loss += part.square().mean(2).sum(0).double() / pairs
            drift = _opposite_gradient(noisy, features, [common, common], keep=True)
            whole = _opposite_gradient(noisy, features, changes) - surrogate.slope(shifts) * (width / 2)
            bench.passes.backward += 4 * len(noisy[0])
            for gradient, slopes in ((drift, by_common), (whole, by_all)):
                slopes += [*bench.reduce(gradient.mul_(several)).double() / (width * by_unit)]
    common_loss = common_loss.cpu()
    loss = common_loss + _corrected(opposite_loss.cpu(), explained.cpu(), surrogate.mean(noise_scale))
    slope, slope_error = _mean_and_error(by_common)
    told = (noise_scale.square() * slope).sum(1)
    of_slope = torch.where(told > common_loss, common_loss / told, 1.0)[:, None]
    predicted = surrogate.predict(noise_scale)[:, None]
    of_gain = (loss[:, None] - of_slope * told[:, None]) / predicted
    of_gain = torch.where(predicted == 0, 0, of_gain)  # no probe gain to scale
    gain = of_gain * surrogate.gain + of_slope * slope
    error = ((of_gain * surrogate.gain_error).square() + (of_slope * slope_error).square()).sqrt()
    gain = gain.maximum(_LEAST_SHARE * of_gain * surrogate.gain)
    whole, whole_error = _mean_and_error(by_all)
    whole += surrogate.share[:, None] * surrogate.gain
    chance = whole_error.square() + error.square() + (_NEGLIGIBLE * gain).square()
    misfit = _misfit(whole - gain, chance, noise_scale.square())
    return SharedLoss(gain, error, misfit)


def _opposite_gradient(
    noisy: list[Tensor], features: list[Tensor], weights: list[Tensor], *, keep: bool = False
) -> Tensor:
    """Half the difference of what the two members of pairs give as gradient, ``(K, B, N)``."""
    shape, flat = weights[0].shape[:2], [weight.flatten(0, 1) for weight in weights]
    plus, minus = torch.autograd.grad(features, noisy, flat, retain_graph=keep)
    return (plus - minus).div_(2).unflatten(0, shape)


def _mean_and_error(draws: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of independent draws, and its standard error."""
    stacked = torch.stack(draws).cpu()
    return stacked.mean(0), stacked.std(0) / len(draws) ** 0.5


def _misfit(difference: Tensor, chance: Tensor, weight: Tensor) -> Tensor:
    """Return by how many standard errors squared differences, ``(B, U)``, exceed their `chance`: ``(B,)``."""
    excess = weight.square() * (difference.square() - chance)
    error = (weight.square() * chance).square().sum(1).mul(2).sqrt()
    return torch.where(error == 0, 0, excess.sum(1) / error)
