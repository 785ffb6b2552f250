import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import authors_loop

from kdviz.entropy import (
    AUTHORS_STEPS,
    NOISE_RATIO_LIMITS,
    STEP_RATE,
    entropy_of,
    gain_ratio,
    invert_descent,
    solve,
)

SOLVERS = ("descent", "optimum")
LOWER, UPPER = NOISE_RATIO_LIMITS


def lognormal_ratios(shape, *, spread=0.6, seed=0):
    """Gain ratios with mean 1 over the last axis, as a linear layer has."""
    ratios = np.exp(spread * np.random.default_rng(seed).standard_normal(shape))
    return ratios / ratios.mean(-1, keepdims=True)


def mean_log(solution):
    return np.log(solution.noise_ratio).mean(-1)


def feature_loss(solution, ratio):
    return (solution.noise_ratio**2 * ratio).mean(-1)


ratio_arrays = hnp.arrays(
    np.float64, st.integers(1, 12), elements=st.floats(np.log(0.05), np.log(5)).map(np.exp)
)
METHODS = pytest.mark.parametrize("solver", SOLVERS)


# -- entropies and gain ratios


def test_constants__are_the_authors_settings():
    # Cheng et al., CVPR 2020, published code, sigma/train_sigma.py: learning rate 1e-4 for 256 units at base
    # noise 0.01, 80 steps, bounds 0.001 and 1
    assert pytest.approx(1e-4 / (256 * 0.01**2)) == STEP_RATE
    assert AUTHORS_STEPS == 80
    assert pytest.approx((0.001 / 0.01, 1 / 0.01)) == NOISE_RATIO_LIMITS


def test_entropy_of__known_values():
    # Eq. (2) of Zhang et al., TPAMI 2022, at sigma = 0.01 and the authors' bounds, worked out to three digits
    np.testing.assert_allclose(entropy_of([0.01, 0.001, 1.0]), [-3.186, -5.489, 1.419], atol=5e-4)
    np.testing.assert_allclose(entropy_of(0.01) + 0.386, -2.8, atol=5e-4)


def test_gain_ratio__is_one_on_average_for_a_linear_layer():
    gain = np.array([[1.0, 3.0, 8.0]])
    variance = 0.01**2 * gain.sum(-1)  # what a linear layer's feature does under equal noise
    ratio = gain_ratio(gain, variance, True, 0.01)
    np.testing.assert_allclose(ratio, [[0.25, 0.75, 2.0]], rtol=1e-14)


def test_gain_ratio__counts_valid_units_only():
    ratio = gain_ratio([2.0, 2.0, np.nan], 4.0, [True, True, False], 1.0)
    np.testing.assert_array_equal(ratio, [1.0, 1.0, np.nan])


def test_gain_ratio__dead_feature_has_no_ratio():
    np.testing.assert_array_equal(gain_ratio(np.ones((2, 3)), [0.0, 3.0], True, 1.0), [[0] * 3, [1] * 3])


# -- the two solvers against formulas


def test_descent__solves_the_equation_of_motion():
    # d(s^2)/dv = w - 2 r s^2 from s = 1, integrated in small steps (classical Runge-Kutta, 4th order)
    ratio, weight = np.array([0.0, 0.3, 1.0, 4.0]), 7.0
    final_v = 2 * STEP_RATE * AUTHORS_STEPS
    squared, h = np.ones(4), final_v / 1000

    def speed(x):
        return weight - 2 * ratio * x

    for _ in range(1000):
        k1 = speed(squared)
        k2 = speed(squared + h / 2 * k1)
        k3 = speed(squared + h / 2 * k2)
        k4 = speed(squared + h * k3)
        squared = squared + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    found = solve(ratio, weight=weight, calibration=None).noise_ratio
    # the integrator's error is of order h^4 = 1e-13
    np.testing.assert_allclose(found**2, squared, rtol=1e-11)


def test_descent__matches_the_formula_of_the_design():
    ratio, weight, steps = np.array([0.2, 1.0, 5.0]), 6.0, AUTHORS_STEPS
    decay = np.exp(-4 * STEP_RATE * ratio * steps)
    expected = weight / (2 * ratio) + (1 - weight / (2 * ratio)) * decay
    np.testing.assert_allclose(
        solve(ratio, weight=weight, calibration=None).noise_ratio ** 2, expected, rtol=1e-12
    )


def test_descent__tends_to_the_optimum_for_strong_units():
    ratio = np.array([50.0, 200.0, 300.0])
    # the remaining difference decays as exp(-4 r t / 256): below exp(-60) after 80 steps
    np.testing.assert_allclose(
        solve(ratio, calibration=None).noise_ratio,
        solve(ratio, solver="optimum", calibration=None).noise_ratio,
        rtol=1e-12,
    )


def test_descent__unit_without_gain_grows_freely():
    solution = solve([[0.0, 1.0, 2.0]])
    time, weight = solution.time[0], 7.0
    assert solution.converged[0]
    # s^2 = 1 + 2 eta t w
    assert solution.noise_ratio[0, 0] ** 2 == pytest.approx(1 + 2 * STEP_RATE * time * weight, rel=1e-12)
    assert mean_log(solution)[0] == pytest.approx(0.386, abs=1e-9)  # it takes part in the calibration


def test_optimum__is_the_minimiser_of_the_objective():
    # Eq. (4) in the mean form: mean(s^2 r) - w mean(log s) has zero slope in log s, 2 s^2 r = w
    ratio = lognormal_ratios(20)
    solution = solve(ratio, solver="optimum", calibration=None, weight=7.0)
    np.testing.assert_allclose(2 * solution.noise_ratio**2 * ratio, 7.0, rtol=1e-12)
    assert feature_loss(solution, ratio) == pytest.approx(3.5)  # hence half the weight


def test_optimum__known_case():
    # the same slope by hand: weight 7 and equal gains give sigma = 0.01 sqrt(7 / 2) = 0.01871, by Eq. (2)
    # H = -2.560
    scale = 0.01 * solve([1.0, 1.0], solver="optimum", calibration=None).noise_ratio
    np.testing.assert_allclose(scale, 0.01871, atol=5e-6)
    np.testing.assert_allclose(entropy_of(scale), -2.560, atol=5e-4)


def test_optimum__unit_without_gain_is_clamped_and_left_out_of_the_calibration():
    with_zero = solve([[0.0, 0.5, 2.0]], solver="optimum")
    without = solve([[0.5, 2.0]], solver="optimum")
    assert with_zero.noise_ratio[0, 0] == UPPER
    np.testing.assert_array_equal(with_zero.noise_ratio[0, 1:], without.noise_ratio[0])
    assert with_zero.converged[0]


def test_optimum__spreads_about_three_times_as_far_as_the_descent():
    ratio = lognormal_ratios(256, spread=0.3)
    spread = {solver: np.log(solve(ratio, solver=solver).noise_ratio).std() for solver in SOLVERS}
    # 3 to first order in log r: the descent at 0.386 nat has felt v r of about 0.28
    assert 2.5 < spread["optimum"] / spread["descent"] < 4.0


@pytest.mark.parametrize("cells", [2, 5, 16])
def test_descent__equals_the_authors_loop_on_linear_layers(cells):
    n = cells**2
    gain = np.exp(0.6 * np.random.default_rng(cells).standard_normal(n))
    variance = 0.01**2 * gain.sum()
    kept, step = authors_loop.run(authors_loop.linear_slope(torch.from_numpy(gain)), variance, n)
    kept = np.log(kept.numpy() / 0.01)
    assert 30 < step < 45
    # the loop keeps the nearest of its steps; compare at the mean it really reached
    assert kept.mean() == pytest.approx(0.386, abs=0.01)
    solution = solve(gain_ratio(gain, variance, True, 0.01), calibration=kept.mean())
    difference = np.abs(np.log(solution.noise_ratio) - kept)
    # what is left is the loop's finite step, 1 / 256 of the continuous time: second order in w / 256 = 0.03
    assert difference.mean() < 0.0006
    assert difference.max() < 0.003
    assert solution.time == pytest.approx(step, abs=1.5)


# -- calibration


@METHODS
@pytest.mark.parametrize("n", [1, 2, 17, 256, 4096])
@pytest.mark.parametrize("calibration", [0.1, 0.386, 0.55])
def test_solve__meets_its_calibration(solver, n, calibration):
    solution = solve(lognormal_ratios((3, n), spread=0.3), solver=solver, calibration=calibration)
    assert solution.converged.all()
    np.testing.assert_allclose(mean_log(solution), calibration, atol=1e-9)


@METHODS
@pytest.mark.parametrize("loss", [1.5, 2.0])
def test_solve__meets_its_feature_loss(solver, loss):
    ratio = lognormal_ratios((3, 64))
    solution = solve(ratio, solver=solver, feature_loss=loss)
    assert solution.converged.all()
    np.testing.assert_allclose(feature_loss(solution, ratio), loss, rtol=1e-9)


@METHODS
def test_solve__feature_loss_is_that_of_all_units_even_those_without_gain(solver):
    ratio = np.concatenate([np.zeros(4), lognormal_ratios(4), [np.nan]])
    solution = solve(ratio, solver=solver, feature_loss=1.5)
    assert solution.converged
    reached = np.nanmean(solution.noise_ratio**2 * ratio)  # 8 units: the padded one takes no part
    np.testing.assert_allclose(reached, 1.5, rtol=1e-9)  # the root finder stops near machine precision


@METHODS
def test_solve__feature_loss_replaces_the_calibration(solver):
    ratio = lognormal_ratios(8)
    one, other = (solve(ratio, solver=solver, feature_loss=1.5, calibration=t) for t in (0.1, None))
    np.testing.assert_array_equal(one.noise_ratio, other.noise_ratio)


def test_solve__without_calibration_keeps_the_weight():
    assert solve([1.0, 2.0], calibration=None).time == AUTHORS_STEPS
    assert solve([1.0, 2.0], solver="optimum", weight=5.0, calibration=None).time == 5.0


@METHODS
def test_solve__equal_ratios_give_equal_noise(solver):
    solution = solve(np.full((2, 9), 1.0), solver=solver)
    np.testing.assert_allclose(np.log(solution.noise_ratio), 0.386, atol=1e-9)


@METHODS
def test_solve__one_unit(solver):
    solution = solve([[1.0], [0.2]], solver=solver)
    np.testing.assert_allclose(np.log(solution.noise_ratio), 0.386, atol=1e-9)
    assert solution.converged.all()


def test_descent__flags_a_calibration_it_cannot_reach():
    # equal ratios end at s^2 = w / (2 r) = 3.5, log s = 0.626
    solution = solve([[1.0, 1.0], [0.5, 0.5]], calibration=0.7)
    np.testing.assert_array_equal(solution.converged, [False, True])
    np.testing.assert_allclose(solution.noise_ratio[0] ** 2, 3.5, rtol=1e-12)


def test_optimum__flags_a_calibration_that_needs_clamped_units():
    solution = solve([[1e-6, 1e6], [1.0, 2.0]], solver="optimum")
    np.testing.assert_array_equal(solution.converged, [False, True])
    np.testing.assert_array_equal(solution.noise_ratio[0], [UPPER, LOWER])


@METHODS
@pytest.mark.parametrize("calibration", [0.386, None])
def test_solve__sample_without_any_ratio_is_unknown(solver, calibration):
    solution = solve([[np.nan, np.nan], [1.0, np.nan]], solver=solver, calibration=calibration)
    np.testing.assert_array_equal(solution.converged, [False, True])
    np.testing.assert_array_equal(np.isnan(solution.noise_ratio), [[True, True], [False, True]])


@METHODS
def test_solve__padded_units_change_nothing(solver):
    ratio = lognormal_ratios((2, 5))
    padded = np.concatenate([ratio, np.full((2, 3), np.nan)], 1)
    np.testing.assert_allclose(
        solve(padded, solver=solver).noise_ratio[:, :5], solve(ratio, solver=solver).noise_ratio, rtol=1e-12
    )


@METHODS
def test_solve__stands_a_huge_range_of_ratios(solver):
    ratio = np.logspace(-12, 6, 200)
    solution = solve(ratio, solver=solver, calibration=0.2, ratio_error=0.1 * ratio)
    assert (np.diff(solution.noise_ratio) <= 0).all()
    assert ((solution.noise_ratio >= LOWER) & (solution.noise_ratio <= UPPER)).all()
    assert np.isfinite(solution.log_error).all()
    if solver == "descent":
        assert solution.converged
        assert mean_log(solution) == pytest.approx(0.2, abs=1e-9)


# -- properties


@METHODS
@settings(max_examples=40, deadline=None)
@given(ratio=ratio_arrays, seed=st.integers(0, 9))
def test_solve__permuting_units_permutes_the_result(solver, ratio, seed):
    order = np.random.default_rng(seed).permutation(len(ratio))
    expected = solve(ratio, solver=solver, calibration=0.2).noise_ratio[order]
    # sums over units are taken in another order: rounding, magnified by the root finder's tolerance
    np.testing.assert_allclose(
        solve(ratio[order], solver=solver, calibration=0.2).noise_ratio, expected, rtol=1e-9
    )


@METHODS
@settings(max_examples=40, deadline=None)
@given(ratio=ratio_arrays)
def test_solve__larger_ratio_means_less_noise(solver, ratio):
    noise = solve(ratio, solver=solver, calibration=0.2).noise_ratio
    assert (np.diff(noise[np.argsort(ratio)]) <= 1e-12).all()


@METHODS
@settings(max_examples=40, deadline=None)
@given(gain=ratio_arrays, scale=st.floats(1e-6, 1e6), variance=st.floats(0.1, 10))
def test_solve__scale_of_the_feature_cancels(solver, gain, scale, variance):
    # gains and variance of a feature times c both grow by c^2
    one = solve(gain_ratio(gain, variance, True, 1.0), solver=solver, calibration=0.2)
    other = solve(gain_ratio(gain * scale, variance * scale, True, 1.0), solver=solver, calibration=0.2)
    np.testing.assert_allclose(other.noise_ratio, one.noise_ratio, rtol=1e-9)


@METHODS
def test_solve__samples_do_not_see_each_other(solver):
    ratio = lognormal_ratios((2, 3, 6))
    together = solve(ratio, solver=solver)
    for index in np.ndindex(2, 3):
        alone = solve(ratio[index], solver=solver)
        # the root finder stops when its bracket is at rounding level; neighbours may change its path
        np.testing.assert_allclose(together.noise_ratio[index], alone.noise_ratio, rtol=1e-12)
        assert together.time[index] == pytest.approx(alone.time, rel=1e-12)
    assert together.noise_ratio.shape == ratio.shape
    assert together.time.shape == together.converged.shape == (2, 3)


# -- errors of the gain


@METHODS
def test_solve__propagates_errors_as_finite_differences_do(solver):
    ratio = np.array([0.0, 1e-5, 0.01, 0.3, 1.0, 4.0, 30.0])
    if solver == "optimum":
        ratio = ratio[2:]  # the rest is clamped
    error = 1e-6 * (ratio + 1e-3)

    def log_noise(r):
        return np.log(solve(r, solver=solver, calibration=None).noise_ratio)

    expected = np.abs(log_noise(ratio + error) - log_noise(ratio))
    # one-sided difference: relative error of about error / ratio = 1e-6; rounding of log s, 1e-16 / 1e-9
    found = solve(ratio, solver=solver, calibration=None, ratio_error=error).log_error
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-14)


def spread_of(ratio, error, **options):
    """Standard error that is told, and the spread of what comes out of gain ratios with that chance."""
    found = solve(ratio, ratio_error=error, **options)
    drawn = ratio + error * np.random.default_rng(0).normal(size=(20_000, len(ratio)))
    return found, np.log(solve(drawn, **options).noise_ratio).std(0)


@METHODS
@pytest.mark.parametrize("level", [{"calibration": 0.386}, {"feature_loss": 2.5}, {"calibration": None}])
def test_solve__errors_are_the_spread_of_what_comes_out(solver, level):
    """A level that is held passes the chance of some units on to all others."""
    ratio, size = np.array([0.05, 0.3, 0.7, 1.0, 2.5, 6.0]), np.array([1, 3, 2, 1, 1, 2])
    error = ratio * np.array([0.01, 0.02, 0.01, 0.005, 0.02, 0.03])
    found, spread = spread_of(ratio, error, solver=solver, size=size, **level)
    assert found.converged
    np.testing.assert_allclose(found.log_error, spread, rtol=0.03)


@pytest.mark.parametrize(
    ("ratio", "level"),
    [([20.0, 30.0, 15.0, 10.0], {"calibration": -0.3}), ([8.0, 6.0, 5.0, 4.0], {"feature_loss": 4.5})],
)
def test_solve__errors_are_right_where_the_level_is_met_falling(ratio, level):
    ratio = np.array(ratio)
    found, spread = spread_of(ratio, ratio * np.array([0.02, 0.01, 0.012, 0.01]), **level)
    assert found.converged
    np.testing.assert_allclose(found.log_error, spread, rtol=0.03)


def test_solve__what_is_clamped_has_no_error_and_gives_none_to_others():
    ratio = np.array([0.5] * 99 + [500.0])
    found, spread = spread_of(ratio, 0.05 * ratio)
    assert found.log_error[-1] == 0 and spread[-1] < 1e-9
    np.testing.assert_allclose(found.log_error[:-1], spread[:-1], rtol=0.03)


def test_solve__an_unknown_error_stays_with_its_unit():
    found = solve([1.0, 2.0, 4.0], ratio_error=[0.1, np.nan, 0.1]).log_error
    assert np.isnan(found).tolist() == [False, True, False]


def test_solve__error_is_unknown_where_the_unit_takes_no_part():
    for solver in SOLVERS:
        error = solve([1.0, np.nan], solver=solver, ratio_error=0.1).log_error
        assert np.isfinite(error[0])
        assert np.isnan(error[1])


# -- the inverse


def test_invert_descent__gives_the_ratios_back():
    ratio = np.logspace(-6, 4, 101)
    for weight, calibration in ((7.0, 0.386), (6.0, None), (0.5, None)):
        solution = solve(ratio, weight=weight, calibration=calibration)
        free = (solution.noise_ratio > LOWER) & (solution.noise_ratio < UPPER)
        found = invert_descent(solution.noise_ratio, solution.time, weight=weight)
        # s^2 is 1 + w v - O(r): one rounding of s^2 (1e-16 x 10) moves r by about 1e-15 absolutely
        np.testing.assert_allclose(found[free], ratio[free], rtol=1e-9, atol=1e-13)
        assert free.sum() > 70  # the strongest units of weight 0.5 end at the lower clamp


@settings(max_examples=40, deadline=None)
@given(
    noise=hnp.arrays(np.float64, (2, 4), elements=st.floats(0.11, 3.0)),
    steps=st.floats(5, 200),
    weight=st.floats(1, 20),
)
def test_invert_descent__round_trip_of_any_noise_it_can_reach(noise, steps, weight):
    time = np.full(2, steps)
    squared_limit = 1 + weight * 2 * STEP_RATE * steps
    ratio = invert_descent(noise, time, weight=weight)
    v = 2 * STEP_RATE * steps
    x = 2 * ratio * v
    phi = np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1), 1)
    again = np.sqrt(np.exp(-x) + weight * v * phi)
    np.testing.assert_allclose(again, np.minimum(noise, squared_limit**0.5), rtol=1e-9)


def test_invert_descent__unit_at_or_past_free_growth_has_no_gain():
    time = np.array(40.0)
    free = np.sqrt(1 + 2 * STEP_RATE * time * 7.0)
    np.testing.assert_array_equal(invert_descent([free * 1.01, free * 2], time, weight=7.0), [0.0, 0.0])
    assert invert_descent([free * 0.99], time, weight=7.0)[0] > 0


# -- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "sgd"}, "solver is 'sgd'; allowed: descent, optimum"),
        ({"weight": 0.0}, "weight must be a positive number, .* got 0.0"),
        ({"weight": np.nan}, "weight must be a positive number, .* got nan"),
        ({"calibration": np.inf}, "calibration must be a finite number, .*got inf"),
        ({"feature_loss": -1.0}, "feature_loss must be a positive number, .* got -1.0"),
    ],
)
def test_solve__refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        solve([1.0, 2.0], **settings)


def test_solve__refuses_negative_ratios():
    with pytest.raises(ValueError, match=r"gain ratios must not be negative, the smallest is -0\.5"):
        solve([1.0, -0.5, np.nan])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("level", [{"calibration": 0.2}, {"feature_loss": 1.5}, {"calibration": None}])
def test_size__parts_are_units_that_share_their_noise(solver, level):
    """Words of 1, 3 and 2 pieces end as their six pieces would, each with the mean gain of its word."""
    size, gain, variance = np.array([1, 3, 2]), np.array([2.0, 9.0, 1.0]), 5.0
    pieces = np.repeat(gain / size, size)
    apart = solve(gain_ratio(pieces, variance, True, 0.1), solver=solver, **level)
    ratio = gain_ratio(gain, variance, True, 0.1, size)
    together = solve(ratio, solver=solver, size=size, ratio_error=0.1 * ratio, **level)
    np.testing.assert_allclose(np.repeat(together.noise_ratio, size), apart.noise_ratio, rtol=1e-9)
    assert together.converged == apart.converged
    assert together.time == pytest.approx(apart.time)


def test_size__equal_sizes_and_padding_change_nothing():
    gain = np.array([[2.0, 9.0, 1.0, np.nan]])
    valid = ~np.isnan(gain)
    plain = gain_ratio(gain, [5.0], valid, 0.1)
    sized = gain_ratio(gain, [5.0], valid, 0.1, [[4, 4, 4, 0]])
    np.testing.assert_allclose(sized, plain)
    found = solve(sized, size=[[4, 4, 4, 0]]).noise_ratio
    np.testing.assert_allclose(found, solve(plain).noise_ratio)
