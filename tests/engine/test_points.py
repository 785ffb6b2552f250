import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import slow_metrics

from kdviz import points

# Entropies on a grid of 1/64 nat are exact in float32 and float64, and so are their sums: no test below
# that uses them can be decided by rounding.
GRID = 64


@st.composite
def cases(draw, max_epochs=4, max_samples=4, max_units=6):
    """Entropies with masks in which every sample has a background unit."""
    shape = tuple(draw(st.integers(1, most)) for most in (max_epochs, max_samples, max_units))
    entropy = draw(hnp.arrays(np.int64, shape, elements=st.integers(-5 * GRID, -2 * GRID))) / GRID
    foreground = draw(hnp.arrays(bool, shape[1:]))
    valid = draw(hnp.arrays(bool, shape[1:])) | (np.arange(shape[2]) == 0)
    foreground &= valid & (np.arange(shape[2]) > 0)
    return np.where(valid, entropy, np.nan).astype(np.float32), foreground, valid


def find(entropy, foreground, valid, threshold):
    background = points.average_background(points.average_units(entropy, valid & ~foreground))
    return points.find_points(entropy, valid, points.entropy_cutoff(background, threshold, entropy.dtype))


def random_case(seed, shape=(4, 7, 12)):
    rng = np.random.default_rng(seed)
    foreground = rng.random(shape[1:]) < 0.4
    valid = rng.random(shape[1:]) < 0.9
    foreground &= valid
    drift = np.linspace(0, 0.4, shape[0])[:, None, None] * foreground
    entropy = (-2.8 + 0.25 * rng.standard_normal(shape) - drift).astype(np.float32)
    return np.where(valid, entropy, np.float32(np.nan)), foreground, valid


def test_average_units__skips_other_units_and_padding():
    values = np.array([[[1.0, 2.0, 9.0, np.nan], [5.0, 6.0, 7.0, 8.0]]])
    mask = np.array([[True, True, False, False], [False, False, False, False]])
    np.testing.assert_array_equal(points.average_units(values, mask), [[1.5, np.nan]])


def test_average_background__weighs_samples_alike_and_leaves_out_those_without():
    levels = np.array([[-2.0, -3.0, np.nan], [-1.0, -4.0, np.nan]])
    np.testing.assert_array_equal(points.average_background(levels), [-2.5, -2.5])
    resampled = points.average_background(levels, np.array([[3, 1, 0], [0, 1, 2], [0, 0, 3]]))
    np.testing.assert_array_equal(resampled, [[-2.25, -1.75], [-3.0, -4.0], [np.nan, np.nan]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tie", [-3.0, -2.9, -3.1])
def test_find_points__tie_is_no_point_in_either_precision(dtype, tie):
    # background as written in decimals: tie + 0.2; in float32, minus 0.2 in float64, some of these would be
    # points
    background = np.array([round(tie + 0.2, 1)])
    entropy = np.array([[[tie, tie - 0.001, tie + 0.001]]], dtype=dtype)
    cutoff = points.entropy_cutoff(background.astype(dtype), 0.2, dtype)
    found = points.find_points(entropy, np.ones((1, 3), bool), cutoff)
    assert found.ravel().tolist() == [False, True, False]


def test_find_points__float32_tie_needs_the_rounded_cutoff():
    background, entropy = np.float32(-2.8), np.float32(-3.0)
    assert float(background) - float(entropy) > 0.2  # the naive comparison calls this tie a point
    assert points.entropy_cutoff(np.array([background]), 0.2, np.float32)[0] == entropy


def test_find_points__padded_unit_is_never_a_point():
    entropy = np.array([[[-9.0, -9.0, -2.0]]], dtype=np.float32)
    valid = np.array([[True, False, True]])
    assert points.find_points(entropy, valid, np.array([-3.0])).ravel().tolist() == [True, False, False]


def test_find_points__cutoff_per_sample():
    entropy = np.full((1, 2, 1), -3.0, dtype=np.float32)
    found = points.find_points(entropy, np.ones((2, 1), bool), np.array([[-2.5, -3.5]]))
    assert found.ravel().tolist() == [True, False]


@given(cases(), st.integers(-3 * GRID, 3 * GRID), st.integers(0, GRID))
def test_find_points__adding_a_constant_changes_nothing(case, shift, threshold):
    entropy, foreground, valid = case
    # counts of 1 to 5 background units and 1 to 4 samples: means are not dyadic, so leave 2^-12 nat around
    # the cutoff
    background = points.average_background(points.average_units(entropy, valid & ~foreground))
    margin = np.abs(entropy - (background[:, None, None] - threshold / GRID))
    moved = find((entropy + shift / GRID).astype(np.float32), foreground, valid, threshold / GRID)
    same = moved == find(entropy, foreground, valid, threshold / GRID)
    assert same[~(margin < 2**-12)].all()


@given(cases(), st.floats(0, 2), st.floats(0, 2))
def test_find_points__larger_threshold_never_adds_a_point(case, first, second):
    low, high = sorted((first, second))
    assert not (find(*case, high) & ~find(*case, low)).any()


@given(st.integers(1, 5), st.integers(1, 7), st.floats(-5, -2, width=32))
def test_find_points__uniform_entropy_gives_no_point_even_at_threshold_zero(n_samples, n_units, level):
    entropy = np.full((2, n_samples, n_units), level, dtype=np.float32)
    foreground = np.zeros((n_samples, n_units), bool)
    assert not find(entropy, foreground, ~foreground, 0.0).any()


@given(cases(), st.randoms(use_true_random=False))
def test_find_points__permuting_samples_and_units_permutes_points(case, random):
    entropy, foreground, valid = case
    samples = random.sample(range(entropy.shape[1]), entropy.shape[1])
    units = random.sample(range(entropy.shape[2]), entropy.shape[2])
    mixed = np.ix_(samples, units)
    moved = find(entropy[:, samples][:, :, units], foreground[mixed], valid[mixed], 0.2)
    np.testing.assert_array_equal(moved, find(*case, 0.2)[:, samples][:, :, units])


def test_find_uncertain__within_two_errors_on_either_side():
    entropy = np.array([[[-3.0, -3.25, -2.75, -3.5, -3.0, -3.0]]])
    error = np.array([[[0.0, 0.125, 0.125, 0.125, np.nan, 1.0]]])
    valid = np.array([[True, True, True, True, True, False]])
    uncertain = points.find_uncertain(entropy, error, valid, np.array([-3.0]))
    assert uncertain.ravel().tolist() == [True, True, True, False, False, False]


def test_divide_counts__empty_whole_is_undefined():
    part, whole = np.array([0, 1, 3]), np.array([0, 4, 3])
    np.testing.assert_array_equal(points.divide_counts(part, whole), [np.nan, 0.25, 1.0])
    assert points.divide_counts(part, whole, 0.5).tolist() == [0.5, 0.25, 1.0]


def test_average_defined__leaves_out_the_undefined_and_weighs_the_others():
    values = np.array([[1.0, np.nan, 4.0], [np.nan] * 3])
    np.testing.assert_array_equal(points.average_defined(values), [2.5, np.nan])
    weights = np.array([[3, 5, 1], [0, 2, 0]])
    np.testing.assert_array_equal(points.average_defined(values[:1], weights), [1.75, np.nan])


def resample(entropy, foreground, valid, weights, **options):
    """Metrics of resamples, from what their samples add."""
    found = points.resample_samples(entropy, foreground, valid, weights, **options)
    return points.average_metrics(found, weights)


def masks(text):
    """One sample; a row of 0 and 1 for each checkpoint."""
    return np.array([[[unit == "1" for unit in row]] for row in text.split()])


@pytest.mark.parametrize(
    ("rows", "rho"),
    [
        ("1100 1100 1100", 1.0),
        ("1000 0100 0010", 1 / 3),
        ("1111 0000 0001", 1 / 4),
        ("0000 0000 1110", 1.0),
        ("1111 0000 0000", 0.0),
        ("0000 0000 0000", np.nan),  # empty union
        ("1111", 1.0),
        ("1", 1.0),
        ("0", np.nan),
    ],
)
def test_measure_detours__counted_by_hand(rows, rho):
    np.testing.assert_equal(points.measure_detours(masks(rows)).item(), rho)


@given(hnp.arrays(bool, (3, 2, 5)), hnp.arrays(bool, (1, 2, 5)))
def test_measure_detours__another_checkpoint_never_increases_it(found, extra):
    more = points.measure_detours(np.concatenate([extra, found]))
    before = points.measure_detours(found)
    assert not (more > before).any() and not (np.isnan(more) & ~np.isnan(before)).any()
    assert ((more >= 0) & (more <= 1) | np.isnan(more)).all()


@pytest.mark.parametrize(
    ("found", "uncertain", "bounds"),
    [
        ("1 1", "0 0", (1.0, 1.0)),
        ("10 11", "00 01", (1.0, 1.0)),  # uncertain at the end only: kept or never met
        ("11 10", "01 00", (1 / 2, 1.0)),  # uncertain before: dropped or never met
        ("10 11", "01 01", (1 / 2, 1.0)),
        ("1 0", "1 1", (0.0, 1.0)),
        ("0 0", "0 1", (1.0, 1.0)),  # kept, or no point at all
        ("0 0", "1 0", (0.0, 0.0)),  # dropped, or no point at all
        ("0 0", "0 0", (np.nan, np.nan)),
        ("1 0", "0 0", (0.0, 0.0)),
    ],
)
def test_bound_detours__counted_by_hand(found, uncertain, bounds):
    low, high = points.bound_detours(masks(found), masks(uncertain))
    np.testing.assert_equal((low.item(), high.item()), bounds)


@given(hnp.arrays(bool, (3, 1, 2)), hnp.arrays(bool, (3, 1, 2)))
@settings(max_examples=200, deadline=None)
def test_bound_detours__is_the_range_over_all_decisions(found, uncertain):
    open_units = np.argwhere(uncertain)
    tried = []
    for code in range(2 ** len(open_units)):
        decided = found.copy()
        for bit, where in enumerate(open_units):
            decided[tuple(where)] = bool(code >> bit & 1)
        tried.append(points.measure_detours(decided).item())
    low, high = points.bound_detours(found, uncertain)
    defined = [rho for rho in tried if not np.isnan(rho)] or [np.nan]
    np.testing.assert_equal((low.item(), high.item()), (min(defined), max(defined)))


def test_overlap_points__counted_by_hand():
    first = np.array([[True, True, False, False], [False] * 4, [True] * 4])
    second = np.array([[False, True, True, False], [False] * 4, [True] * 4])
    np.testing.assert_array_equal(points.overlap_points(first, second), [1 / 3, np.nan, 1.0])


@given(hnp.arrays(bool, (3, 6)), hnp.arrays(bool, (3, 6)))
def test_overlap_points__symmetric_and_between_0_and_1(first, second):
    overlap = points.overlap_points(first, second)
    np.testing.assert_array_equal(overlap, points.overlap_points(second, first))
    empty = ~(first | second).any(axis=-1)
    assert (np.isnan(overlap) == empty).all() and ((overlap >= 0) & (overlap <= 1))[~empty].all()


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_resample_samples__equals_slow_replica_on_the_same_resamples(per_sample, published):
    entropy, foreground, valid = random_case(seed=3)
    entropy[:, 1] += foreground[1]  # a sample without points on the foreground
    entropy[1:, 4] += foreground[4]  # one with some before training only
    if not per_sample:
        foreground[2] = valid[2]  # a sample without background
    epochs, distance = np.array([0, 2, 5, 10]), np.array([0.0, 0.4, 1.0, 1.7])
    drawn = np.random.default_rng(0).integers(7, size=(12, 7))
    weights = np.stack([np.bincount(row, minlength=7) for row in drawn])
    fast = resample(
        entropy,
        foreground,
        valid,
        weights,
        threshold=0.2,
        per_sample=per_sample,
        after_start=epochs > 0,
        distance=distance,
        published=published,
    )
    slow = [
        slow_metrics.metrics(
            entropy,
            foreground,
            valid,
            row,
            threshold=0.2,
            epochs=epochs,
            distance=distance,
            per_sample=per_sample,
            published=published,
        )
        for row in drawn
    ]
    assert len(fast) == 7
    for name, values in fast.items():
        # 1e-12: both count the same units exactly; only the order of float64 additions differs
        np.testing.assert_allclose(values, [case[name] for case in slow], rtol=0, atol=1e-12, err_msg=name)
    assert np.ptp(fast["n_fg"]) > 0.1 and np.ptp(fast["rho"]) > 0.01  # the resamples do differ


@given(cases(), st.integers(0, GRID), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_resample_samples__equals_slow_replica_on_ties_padding_and_small_sizes(case, threshold, seed):
    entropy, foreground, valid = case
    n_epochs, n_samples, _ = entropy.shape
    epochs, distance = np.arange(1, n_epochs + 1), np.arange(n_epochs) / 4
    row = np.random.default_rng(seed).integers(n_samples, size=n_samples)
    fast = resample(
        entropy,
        foreground,
        valid,
        np.bincount(row, minlength=n_samples)[None],
        threshold=threshold / GRID,
        distance=distance,
    )
    slow = slow_metrics.metrics(
        entropy, foreground, valid, row, threshold=threshold / GRID, epochs=epochs, distance=distance
    )
    # 1e-12: order of float64 additions. The float32 rounding of the cutoff absorbs it in the background mean.
    assert {name: values.item() for name, values in fast.items()} == pytest.approx(
        slow, abs=1e-12, nan_ok=True
    )


def test_resample_samples__ties_are_no_points_anywhere():
    # cutoff -3.0: ties on fore- and background at both checkpoints, one real point at the last
    entropy = np.array([[[-2.8, -3.0, -3.0]], [[-2.8, -3.0, -3.5]]], dtype=np.float32)
    result = resample(
        np.concatenate([entropy, entropy], axis=2)[:, :, :4],
        np.array([[False, True, True, False]]),
        np.ones((1, 4), bool),
        np.ones((1, 1)),
        threshold=0.2,
        distance=np.array([1.0, 2.0]),
    )
    assert {name: values.item() for name, values in result.items() if name[0] != "d"} == {
        "n_fg": 1.0,
        "n_bg": 0.0,
        "fg_ratio": 1.0,
        "rho": 1.0,
    }
    assert result["d_mean"].item() == 2.0


def test_resample_samples__unmoved_points_give_rho_one_and_no_spread():
    entropy = np.tile(random_case(seed=1, shape=(1, 5, 20))[0], (3, 1, 1))
    _, foreground, valid = random_case(seed=1, shape=(1, 5, 20))
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 0, 3, 0]])
    result = resample(entropy, foreground, valid, weights, threshold=0.1, distance=np.array([0.0, 1.0, 2.0]))
    assert (result["n_fg"] > 0).all()
    assert result["rho"].tolist() == [1.0, 1.0]
    assert result["d_var"].tolist() == [0.0, 0.0]


def test_resample_samples__resample_without_background_is_nan():
    entropy = np.full((2, 2, 3), -3.0, dtype=np.float32)
    foreground = np.array([[True, True, True], [True, False, False]])
    result = resample(entropy, foreground, np.ones((2, 3), bool), np.array([[2, 0], [0, 2]]), threshold=0.2)
    np.testing.assert_array_equal(result["n_fg"], [np.nan, 0.0])
    np.testing.assert_array_equal(result["rho"], [np.nan, np.nan])


@given(cases())
def test_resample_samples__ratios_between_0_and_1_and_variance_is_squared_deviation(case):
    entropy, foreground, valid = case
    n_epochs, n_samples, _ = entropy.shape
    result = resample(
        entropy, foreground, valid, np.ones((1, n_samples)), threshold=0.1, distance=np.arange(n_epochs)
    )
    for name in ("fg_ratio", "rho"):
        assert 0 <= result[name].item() <= 1 or np.isnan(result[name].item())
    assert result["d_std"].item() ** 2 == pytest.approx(
        result["d_var"].item(), nan_ok=True
    )  # float64 square of a root
