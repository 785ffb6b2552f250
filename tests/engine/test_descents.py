"""The authors' own descent on sampled losses, with few draws."""

import itertools

import numpy as np
import pytest
import torch
from reference import authors_loop
from small_benches import (
    BASE_NOISE,
    cnn_bench,
    equal_noise,
    linear_bench,
    make_bench,
    relative_difference,
    variance_of,
)

from kdviz.entropy import gain_ratio, invert_descent, solve
from kdviz.gain import (
    descend,
    estimate_gain,
    measure_change,
    measure_variance,
)
from kdviz.testing import linear_problem, random_images, small_cnn
from kdviz.units import grid


def test_descend__is_the_authors_loop_on_a_linear_layer():
    problem = linear_problem(samples=1)
    variance = BASE_NOISE**2 * problem.gain.sum()
    slope = authors_loop.linear_slope(torch.from_numpy(problem.gain))
    kept, step = authors_loop.run(slope, variance, problem.units.count)
    bench = linear_bench(problem)
    calibration = float((kept / BASE_NOISE).log().mean())
    surrogate = estimate_gain(bench)["linear"]
    descent = descend(bench, "linear", surrogate, torch.tensor([variance]), calibration=calibration, draws=2)
    assert descent.converged.all()
    assert float(descent.time) == pytest.approx(step, abs=0.01)
    # the exact surrogate leaves rounding of float32 features only, 1e-5 of each slope
    np.testing.assert_allclose(descent.noise_ratio[0], kept / BASE_NOISE, rtol=1e-4)


def test_descend__equals_the_authors_loop_on_a_network_within_the_noise_of_both():
    images, network = random_images(4, seed=3), small_cnn(seed=1)
    index, weight = grid(4).index((3, 8, 8)), 7.0
    replicas = np.empty((2, 4, 16))
    for row, image in enumerate(images):
        for repeat in range(2):
            sampler = authors_loop.Sampler(network[:7], image, index, seed=10 * row + repeat)
            kept, _ = authors_loop.run(sampler, sampler.feature_variance(16), 16, weight=weight)
            replicas[repeat, row] = (
                kept.log() - kept.log().mean()
            )  # their means are 0.005 nat off the calibration
    bench = make_bench(network, images, ["fc1"])
    surrogates = estimate_gain(bench)
    variance = variance_of(bench, surrogates)["fc1"]
    descent = descend(bench, "fc1", surrogates["fc1"], variance, weight=weight)
    assert descent.converged.all()
    found = descent.noise_ratio.log().numpy()
    np.testing.assert_allclose(found.mean(1), 0.386, atol=1e-9)

    # Noise of the mean of two replicas: half their difference. Noise of the descent: its reported error.
    ratio, error = (
        gain_ratio(gain.numpy(), variance.numpy(), True, BASE_NOISE)
        for gain in (surrogates["fc1"].gain, descent.gain_error)
    )
    noise = np.hypot((replicas[0] - replicas[1]) / 2, solve(ratio, ratio_error=error).log_error)
    difference = found - found.mean(1, keepdims=True) - replicas.mean(0)
    expected = np.sqrt(np.mean(noise**2))
    # Root mean square of 60 free differences in units of their expectation: 1 +- 0.1, and the small share of
    # their variance that the surrogate's own error adds.
    assert expected < 0.02
    assert np.sqrt(np.mean(difference**2)) < 1.4 * expected
    assert found.std(1).min() > 2.5 * expected  # the map itself is far larger than its noise


def test_descend__finds_its_way_with_a_poor_surrogate():
    # Control variates steer the noise, never the answer: two probes leave gains wrong by half.
    bench = cnn_bench(samples=4)
    good, poor = (estimate_gain(bench, probes=probes)["fc1"] for probes in (64, 2))
    variance = variance_of(bench, {"fc1": good})["fc1"]
    ends = [descend(bench, "fc1", surrogate, variance, draws=32) for surrogate in (good, poor)]
    maps = [end.noise_ratio.log().numpy() for end in ends]
    ratio, *errors = (
        gain_ratio(gain.numpy(), variance.numpy(), True, BASE_NOISE)
        for gain in (good.gain, *(end.gain_error for end in ends))
    )
    noise = np.sqrt(
        np.mean([solve(ratio, ratio_error=error).log_error ** 2 for error in errors], (1, 2)).sum()
    )
    trusted = solve(gain_ratio(poor.gain.numpy(), variance.numpy(), True, BASE_NOISE)).noise_ratio
    # 60 free differences in units of their expectation, 1 +- 0.1; the same draws make it smaller
    assert np.sqrt(np.mean((maps[1] - maps[0]) ** 2)) < 1.4 * noise
    assert np.sqrt(np.mean((np.log(trusted) - maps[0]) ** 2)) > 4 * noise  # the poor gains themselves


def test_descend__samples_stop_on_their_own():
    together = cnn_bench(samples=3)
    surrogates = estimate_gain(together, probes=32)
    variance = variance_of(together, surrogates)["fc1"]
    all_three = descend(together, "fc1", surrogates["fc1"], variance, draws=2)
    assert len(set(all_three.time.tolist())) == 3
    for row in range(3):
        alone = descend(
            together.select([row]),
            "fc1",
            surrogates["fc1"].select(torch.tensor([row])),
            variance[[row]],
            draws=2,
        )
        # kernels differ by batch size; a descent of 40 steps does not magnify that
        assert relative_difference(alone.noise_ratio, all_three.noise_ratio[[row]]) < 1e-5
        assert relative_difference(alone.time, all_three.time[[row]]) < 1e-5


def test_descend__gives_up_at_the_step_limit():
    bench = cnn_bench()
    surrogates = estimate_gain(bench, probes=16)
    variance = variance_of(bench, surrogates)["fc1"]
    descent = descend(bench, "fc1", surrogates["fc1"], variance, draws=2, longest=5)
    assert not descent.converged.any()
    assert descent.time.tolist() == [5, 5]
    assert (descent.noise_ratio.log().mean(1) < 0.2).all()
    assert (descent.noise_ratio.log().mean(1) > 0.02).all()


def test_descend__keeps_to_the_authors_bounds():
    problem = linear_problem(samples=1)
    bench = linear_bench(problem)
    surrogate = estimate_gain(bench)["linear"]
    tiny = torch.tensor([BASE_NOISE**2 * problem.gain.sum() / 1e4])  # ratios 10,000 times too large
    descent = descend(bench, "linear", surrogate, tiny, draws=2, longest=3)
    assert descent.noise_ratio.min() >= 0.1 - 1e-12
    assert descent.noise_ratio.max() <= 100 + 1e-9


@pytest.mark.parametrize("pairs", [4, 32])
def test_descend__reported_error_tells_the_spread_over_seeds(pairs):
    """Whatever the chance comes from: of the steps, and, of few pairs above all, of the feature variance."""
    found, errors = [], []
    for seed in range(16):
        bench = cnn_bench(samples=1, seed=seed)
        surrogate = estimate_gain(bench, probes=32)["fc1"]
        variance, chance = measure_variance(bench, "fc1", surrogate, pairs=pairs)
        descent = descend(bench, "fc1", surrogate, variance, variance_error=chance, draws=4)
        gain = invert_descent(descent.noise_ratio, descent.time, weight=7.0)
        error = gain_ratio(descent.gain_error.numpy(), variance.numpy(), True, BASE_NOISE)
        found.append(descent.noise_ratio.log().numpy()[0])
        errors.append(solve(gain, ratio_error=error).log_error[0])
    spread = np.sqrt(np.var(found, axis=0, ddof=1).mean())
    assert 0.8 < spread / np.sqrt(np.mean(np.square(errors))) < 1.2
    pairs_of_seeds = list(itertools.combinations(zip(found, errors, strict=True), 2))
    beyond = np.mean([np.abs(a - b) > 2 * np.hypot(c, d) for (a, c), (b, d) in pairs_of_seeds])
    assert beyond < 0.08


def test_descend__error_of_the_variance_is_that_of_another_variance():
    bench = cnn_bench(samples=1)
    surrogate = estimate_gain(bench)["fc1"]
    variance, _ = measure_variance(bench, "fc1", surrogate, pairs=32)
    off = 0.02 * variance
    descent = descend(bench, "fc1", surrogate, variance, variance_error=off, draws=200)
    other = descend(bench, "fc1", surrogate, variance + off, draws=200)
    moved = np.abs((other.noise_ratio / descent.noise_ratio).log().numpy()[0])
    ratio = invert_descent(descent.noise_ratio, descent.time, weight=7.0)
    of_draws = descend(bench, "fc1", surrogate, variance, draws=200).gain_error
    told, of_draws = (
        solve(ratio, ratio_error=gain_ratio(error.numpy(), variance.numpy(), True, BASE_NOISE)).log_error[0]
        for error in (descent.gain_error, of_draws)
    )
    of_variance = np.sqrt(np.square(told) - np.square(of_draws))
    assert np.abs(of_variance - moved).max() < 0.15 * moved.max()


def test_measure_variance__reported_error_tells_the_spread_over_seeds():
    benches = [cnn_bench(samples=2, seed=seed) for seed in range(40)]
    found = [measure_variance(one, "fc1", estimate_gain(one)["fc1"], pairs=8) for one in benches]
    means, errors = (torch.stack(part) for part in zip(*found, strict=True))
    known = measure_change(benches[0], equal_noise(benches[0]), pairs=8, surrogates=estimate_gain(benches[0]))
    assert torch.equal(means[0], known["fc1"])
    # 39 degrees of freedom and eight pairs: 15 %
    ratio = means.std(0) / errors.square().mean(0).sqrt()
    assert ((ratio > 0.7) & (ratio < 1.4)).all()
