from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import authors_loop, sampled_optimum
from small_benches import (
    BASE_NOISE,
    cnn_bench,
    equal_noise,
    linear_bench,
    make_bench,
    relative_difference,
    variance_of,
    zeros_like,
)
from torch import nn

import kdviz.gain.bench
from kdviz.entropy import gain_ratio, solve
from kdviz.gain import (
    Bench,
    estimate_gain,
    measure_change,
    share_loss,
)
from kdviz.networks.features import FeatureReader
from kdviz.testing import linear_problem, random_images, small_cnn
from kdviz.units import grid

# -- the bench


def test_bench__expand_and_reduce_follow_the_units():
    network = nn.Sequential(nn.Flatten())
    bench = make_bench(network, torch.zeros(2, 1, 2, 4), ["0"], cells=2)
    per_unit = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    expanded = bench.expand(per_unit)
    assert expanded.tolist() == [[1, 1, 2, 2, 3, 3, 4, 4], [5, 5, 6, 6, 7, 7, 8, 8]]
    assert bench.reduce(expanded).tolist() == (2 * per_unit).tolist()  # two pixels a unit


def test_bench__gives_images_their_shape_back():
    images = random_images(2, size=8)
    bench = make_bench(nn.Sequential(nn.Flatten()), images, ["0"], feature="identity")
    assert torch.equal(bench.features(bench.inputs)["0"], images.flatten(1))
    assert bench.inputs.view(2, 8, 8, 3)[1, 5, 2].tolist() == images[1, :, 5, 2].tolist()  # channels last


def test_bench__elements_without_unit_get_no_noise_and_no_sum():
    bench = Bench(
        FeatureReader(nn.Flatten(), []),
        torch.zeros(1, 4),
        sample_ids=["a"],
        unit_index=np.array([0, -1, 1, -1]),
        unit_count=2,
        base_noise=1.0,
        seed=0,
    )
    assert bench.expand(torch.tensor([[5.0, 7.0]])).tolist() == [[5, 0, 7, 0]]
    assert bench.reduce(torch.tensor([[1.0, 10.0, 100.0, 1000.0]])).tolist() == [[1, 100]]


def test_bench__noise_is_keyed_by_seed_name_purpose_and_draw_only():
    first = cnn_bench(ids=["a", "b"]).noise("check", range(3, 4))[0]
    again = cnn_bench(ids=["b", "a"]).noise("check", range(3, 4))[0]
    assert torch.equal(first[0], again[1])
    assert torch.equal(first[1], again[0])
    others = [
        cnn_bench(ids=["a", "b"], seed=1).noise("check", range(3, 4))[0],
        cnn_bench(ids=["a", "b"]).noise("variance", range(3, 4))[0],
        cnn_bench(ids=["a", "b"]).noise("check", range(4, 5))[0],
    ]
    for other in (*others, first.flip(0)):
        # two independent draws of 192 normals correlate with a standard error of 0.07
        pair = torch.stack([first[0].flatten(), other[0].flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.3


def test_bench__noise_asked_for_again_is_the_same_bits():
    bench = cnn_bench(samples=3)
    drawn = bench.noise("pairs", range(4)).clone()
    assert torch.equal(bench.noise("pairs", range(1, 3)), drawn[1:3])
    assert torch.equal(bench.select([2, 0]).noise("pairs", range(4)), drawn[:, [2, 0]])
    assert torch.equal(bench.noise("pairs", range(2, 6))[:2], drawn[2:])
    assert not torch.equal(bench.noise("check", range(4)), drawn)
    assert torch.equal(bench.noise("pairs", range(4)), drawn)


def test_bench__noise_is_standard_normal():
    noise = cnn_bench().noise("check", range(50)).double()
    count = noise.numel()  # 19,200 values: standard errors 1 / sqrt(N) and sqrt(2 / N)
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5


def test_bench__select_keeps_counting_in_one_place():
    bench = cnn_bench(samples=3)
    part = bench.select([2, 0])
    assert part.sample_ids == ("image-2", "image-0")
    assert torch.equal(part.clean["fc1"], bench.clean["fc1"][[2, 0]])
    part.features(part.inputs)
    assert bench.passes.forward == 3 + 2


def test_noise__is_the_same_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(kdviz.gain.bench, "_WORTH_THREADS", 100)
    bench, threads = cnn_bench(samples=3), torch.get_num_threads()
    alone = bench.noise("alone", range(5))
    drawn = {}
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            drawn[count] = cnn_bench(samples=3).noise("alone", range(5))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, alone) for one in drawn.values())


# -- gains of linear layers: known exactly


@pytest.mark.parametrize(("features", "probes"), [(1, 2), (6, 6), (6, 64), (12, 13)])
def test_estimate_gain__is_exact_with_a_probe_for_every_feature(features, probes):
    problem = linear_problem(features=features)
    surrogate = estimate_gain(linear_bench(problem), probes=probes)["linear"]
    # float32 gradients: relative rounding 6e-8 each, averaged over 12 x features squares
    np.testing.assert_allclose(surrogate.gain, np.tile(problem.gain, (2, 1)), rtol=1e-5)
    np.testing.assert_allclose(surrogate.gain_error, 0, atol=1e-7 * problem.gain.max())


@pytest.fixture(scope="module")
def many_seeds():
    """Gains of one linear layer with half as many probes as features, from 200 seeds."""
    problem = linear_problem(features=48, samples=1)
    surrogates = [
        estimate_gain(linear_bench(problem, seed=seed), probes=24, points=2)["linear"] for seed in range(200)
    ]
    gain = np.stack([surrogate.gain[0].numpy() for surrogate in surrogates])
    return problem.gain, gain, np.stack([surrogate.gain_error[0].numpy() for surrogate in surrogates])


def find_bias(gain, exact):
    """Deviation of the mean over seeds from the truth in its standard errors: every unit, then their sum."""
    gain, exact = np.c_[gain, gain.sum(1)], np.append(exact, exact.sum())
    return np.abs(gain.mean(0) - exact) / (gain.std(0, ddof=1) / len(gain) ** 0.5)


def test_estimate_gain__is_unbiased(many_seeds):
    exact, gain, _ = many_seeds
    assert find_bias(gain, exact).max() < 4
    # the check sees 5 % too much, and the mistake of dividing by the 64 rows of the padded Hadamard matrix
    assert find_bias(1.05 * gain, exact).max() > 4
    assert find_bias(48 / 64 * gain, exact).max() > 4


def covered(gain, error, exact):
    inside = [(np.abs(gain - exact) < k * error).mean() for k in (1, 2)]
    # 200 independent seeds whose 16 units lean on each other: standard error of a share between
    # sqrt(0.68 x 0.32 / 3200) = 0.008 and 0.033; Student's t with 23 degrees of freedom has 0.67 and 0.94
    return 0.61 < inside[0] < 0.74 and 0.91 < inside[1] < 0.98


def test_estimate_gain__reported_error_covers_the_true_one(many_seeds):
    exact, gain, error = many_seeds
    assert covered(gain, error, exact)
    assert not covered(gain, 0.75 * error, exact)
    assert not covered(gain, 1.35 * error, exact)


@pytest.mark.parametrize(("probes", "points"), [(10, 8), (7, 3), (2, 8), (16, 8)])
def test_estimate_gain__spends_every_probe_it_is_given(probes, points):
    bench = linear_bench(linear_problem(features=24))
    surrogate = estimate_gain(bench, probes=probes, points=points)["linear"]
    assert bench.passes.backward == 2 * probes
    assert bench.passes.forward == 2 * (1 + min(points, probes))
    assert surrogate.rows.shape == (2, probes, 192)


def test_estimate_gain__merged_units_add():
    problem = linear_problem(cells=4)
    fine = estimate_gain(linear_bench(problem))["linear"].gain
    coarse = make_bench(problem.network, problem.inputs, ["linear"], cells=2, feature="identity")
    merged = fine.view(2, 2, 2, 2, 2).sum((2, 4)).flatten(1)
    assert relative_difference(estimate_gain(coarse)["linear"].gain, merged) < 1e-5


# -- gains of networks


def test_estimate_gain__equals_the_jacobian_at_the_noise_points():
    bench = cnn_bench()
    surrogate = estimate_gain(bench, probes=36, points=8)["fc1"]  # 12 features: 3 exact noise points
    network = small_cnn(seed=1).double()
    expected = torch.zeros(2, 16, dtype=torch.float64)
    index = torch.as_tensor(grid(4).index((3, 8, 8)).copy()).flatten()
    for point in range(3):
        (noise,) = bench.noise("probe-point", range(point, point + 1))
        noisy = (bench.inputs + BASE_NOISE * noise).double()
        for row, image in enumerate(noisy.view(2, 8, 8, 3).permute(0, 3, 1, 2)):
            jacobian = torch.autograd.functional.jacobian(lambda x: network[:7](x[None]).relu()[0], image)
            squares = jacobian.flatten(1).square().sum(0) / 12 / 3
            expected[row].index_add_(0, index, squares)
    # float32 against float64, through a dozen layers of sums
    assert relative_difference(surrogate.gain, expected) < 1e-4


def test_estimate_gain__predicts_the_feature_variance_of_a_network():
    bench = cnn_bench(layers=("conv2", "fc1"), samples=3)
    surrogates = estimate_gain(bench, probes=64)
    blind = {layer: zeros_like(surrogate) for layer, surrogate in surrogates.items()}
    measured = variance_of(bench, blind, pairs=200)
    for layer, surrogate in surrogates.items():
        # 400 draws of a mean of >= 10 effective squares: below 2 %; kinks between the probe points: a few %
        assert relative_difference(surrogate.predict(equal_noise(bench)), measured[layer]) < 0.08


def test_estimate_gain__layers_read_together_or_alone_are_equal():
    together = estimate_gain(cnn_bench(layers=("conv2", "fc1")), probes=16)
    for layer in ("conv2", "fc1"):
        alone = estimate_gain(cnn_bench(layers=(layer,)), probes=16)[layer]
        assert relative_difference(together[layer].gain, alone.gain) < 1e-5  # order of sums in the kernels


def test_estimate_gain__same_seed_same_bits_other_seed_others():
    first, again, other = (estimate_gain(cnn_bench(seed=seed), probes=8)["fc1"] for seed in (0, 0, 1))
    assert torch.equal(first.gain, again.gain)
    assert torch.equal(first.gain_error, again.gain_error)
    assert relative_difference(first.gain, other.gain) > 0.05  # 8 of 12 probes: about 20 % of noise


def test_estimate_gain__batch_mates_do_not_matter():
    images, network = random_images(4, seed=3), small_cnn(seed=1)
    names = ["a", "b", "c", "d"]
    together = estimate_gain(make_bench(network, images, ["fc1"], ids=names), probes=8)["fc1"].gain
    order = [2, 0, 3, 1]
    shuffled = make_bench(network, images[order], ["fc1"], ids=[names[row] for row in order])
    assert relative_difference(estimate_gain(shuffled, probes=8)["fc1"].gain, together[order]) < 1e-5
    for row in range(4):
        alone = make_bench(network, images[[row]], ["fc1"], ids=[names[row]])
        gain = estimate_gain(alone, probes=8)["fc1"].gain
        assert relative_difference(gain, together[[row]]) < 1e-5  # kernels differ by batch size


# -- the surrogate


def test_surrogate__slope_is_the_gradient_of_its_value():
    surrogate = estimate_gain(cnn_bench(), probes=8)["fc1"]
    shifts = torch.stack([random_images(2, seed=seed).flatten(1) for seed in (8, 9, 10)]).requires_grad_(True)
    (expected,) = torch.autograd.grad(surrogate.value(shifts).sum(), shifts)
    torch.testing.assert_close(surrogate.slope(shifts.detach()), expected, rtol=1e-5, atol=1e-8)


def test_surrogate__mean_is_the_average_of_its_value():
    bench = cnn_bench()
    surrogate = estimate_gain(bench, probes=8)["fc1"]
    scale = BASE_NOISE * (1 + torch.rand(2, 16, dtype=torch.float64))
    noises = bench.noise("average", range(400))
    values = surrogate.value(bench.expand(scale) * noises)
    error = values.std(0) / len(values) ** 0.5
    deviation = (values.mean(0) - surrogate.mean(scale)).abs()
    assert (deviation < 4 * error).all()
    assert (error < 0.05 * surrogate.mean(scale)).all()  # so that 20 % too much would be seen


def test_surrogate__is_the_change_itself_on_a_linear_layer():
    problem = linear_problem()
    bench = linear_bench(problem)
    surrogate = estimate_gain(bench)["linear"]
    shift = 0.01 * bench.noise("any", range(0, 1))[0]
    change = bench.squared_change(bench.features(bench.inputs + shift)["linear"], "linear")
    # the change is a difference of features of order 1 in float32: 1e-7 / 1e-2
    torch.testing.assert_close(surrogate.value(shift[None])[0], change, rtol=1e-4, atol=0)


def test_surrogate__select_takes_samples():
    surrogate = estimate_gain(cnn_bench(samples=3), probes=4)["fc1"].select(torch.tensor([2, 0]))
    everything = estimate_gain(cnn_bench(samples=3), probes=4)["fc1"]
    assert torch.equal(surrogate.gain, everything.gain[[2, 0]])
    assert torch.equal(surrogate.rows, everything.rows[[2, 0]])


def test_measure_change__is_exact_on_a_linear_layer():
    problem = linear_problem()
    bench = linear_bench(problem)
    scale = 0.01 * (1 + torch.rand(2, 16, dtype=torch.float64))
    loss = measure_change(bench, scale, pairs=1, surrogates=estimate_gain(bench))["linear"]
    # two draws suffice, since the surrogate is the change; float32 as above
    np.testing.assert_allclose(loss, (scale**2).numpy() @ problem.gain, rtol=1e-4)


def test_measure_change__surrogate_takes_noise_out_and_adds_no_bias():
    losses = {"with": [], "without": []}
    for seed in range(40):
        bench = cnn_bench(samples=1, seed=seed)
        surrogates = estimate_gain(bench, probes=24)
        blind = {"fc1": zeros_like(surrogates["fc1"])}
        for name, control in (("with", surrogates), ("without", blind)):
            losses[name].append(float(variance_of(bench, control, pairs=1)["fc1"]))
    corrected, plain = np.array(losses["with"]), np.array(losses["without"])
    # a variance ratio of two samples of 40 exceeds 2 by chance once in 50; what is seen is above 20
    assert corrected.var() < plain.var() / 4
    error = (plain.var() / 40 + corrected.var() / 40) ** 0.5
    assert abs(corrected.mean() - plain.mean()) < 4 * error


def test_measure_change__chance_cancels_between_noise_scales():
    ratios = {"same draws": [], "others": []}
    for seed in range(40):
        bench, other = cnn_bench(samples=1, seed=seed), cnn_bench(samples=1, seed=1000 + seed)
        blind = {"fc1": zeros_like(estimate_gain(bench, probes=2)["fc1"])}
        base = variance_of(bench, blind, pairs=4)["fc1"]
        for name, at in (("same draws", bench), ("others", other)):
            wider = measure_change(at, equal_noise(at, 0.02), pairs=4, surrogates=blind)["fc1"]
            ratios[name].append(float(wider / base))
    same, others = np.array(ratios["same draws"]), np.array(ratios["others"])
    assert same.var() < others.var() / 4  # two samples of 40: beyond a ratio of 2 by chance once in 50
    assert abs(np.median(same) - 4) < 0.2  # of squares of noise twice as large


def test_measure_change__is_never_negative():
    bench = cnn_bench()
    surrogate = estimate_gain(bench, probes=2)["fc1"]
    loud = replace(surrogate, gain=0 * surrogate.gain)  # claims a mean of zero
    assert (variance_of(bench, {"fc1": loud}, pairs=1)["fc1"] > 0).all()


def test_surrogate__share_keeps_the_variance_from_growing():
    # an untrained convolution has more directions than 16 probes can tell: unscaled, the stand-in adds noise
    bench = cnn_bench(layers=("conv1",), samples=1)
    surrogate = estimate_gain(bench, probes=16)["conv1"]
    noises = bench.base_noise * bench.noise("any", range(300))
    with torch.no_grad():
        plain = torch.stack(
            [bench.squared_change(bench.features(bench.inputs + n)["conv1"], "conv1") for n in noises]
        )
    explained = surrogate.value(noises)
    unscaled = explained / surrogate.share
    assert (plain - unscaled).std() > 1.5 * plain.std()
    assert (plain - explained).std() < 1.02 * plain.std()  # its own variance is known to 4 % from 300 draws
    assert 0 < float(surrogate.share) < 0.5


def test_surrogate__share_is_one_where_every_row_is_used():
    problem = linear_problem(features=8)
    surrogates = estimate_gain(linear_bench(problem), probes=8)
    assert surrogates["linear"].share.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("probes", [12, 16])
def test_estimate_gain__error_is_known_where_probes_just_suffice(probes):
    # 12 features: one whole set of unit vectors is not enough to see how the noise points differ
    estimates = [
        estimate_gain(cnn_bench(samples=1, seed=seed, base_noise=0.1), probes=probes)["fc1"]
        for seed in range(60)
    ]
    gains = torch.stack([estimate.gain for estimate in estimates])
    reported = torch.stack([estimate.gain_error for estimate in estimates]).square().mean(0).sqrt()
    ratio = float((reported / gains.std(0)).mean())
    assert 0.7 < ratio < 1.3  # each spread is known to 9 % from 60 seeds, each error to 70 % from two points


def test_estimate_gain__error_covers_the_noise_points_too():
    # at large noise the network's slope differs from point to point; without that part the error is too small
    estimates = [
        estimate_gain(cnn_bench(samples=1, seed=seed, base_noise=0.3), probes=11, points=4)["fc1"]
        for seed in range(100)
    ]
    gains = torch.stack([estimate.gain for estimate in estimates])
    reported = torch.stack([estimate.gain_error for estimate in estimates]).square().mean(0).sqrt()
    ratio = float((reported / gains.std(0)).mean())
    assert 0.75 < ratio < 1.4  # pooled over 16 units; the rows' part alone gives less than 0.6


# -- sharing the measured loss among the units


class Squares(nn.Module):
    """One feature, half of a weighted sum of squared inputs: all that noise does to it is known."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.out = nn.Identity()

    def forward(self, x):
        return self.out((0.5 * self.weights * x.flatten(1).square()).sum(1, keepdim=True))


def test_share_loss__follows_the_closed_form_of_a_quadratic_feature():
    samples, weights = 20, torch.tensor([1.0, 2.0, 3.0, -0.5])
    noise = torch.tensor([[0.5, 1.0, 1.5, 2.0]], dtype=torch.float64)
    squares = noise[0].square()
    drift = float(0.5 * (weights * squares).sum())  # E[f' - f*]
    bench = make_bench(
        Squares(weights), torch.ones(samples, 1, 2, 2), ["out"], cells=2, feature="identity", base_noise=1.0
    )
    found = estimate_gain(bench)["out"]
    known = replace(
        found,
        rows=torch.zeros_like(found.rows),
        gain=weights.square().double().expand(samples, 4),
        share=torch.zeros(samples),
    )
    shared = share_loss(bench, "out", known, noise.expand(samples, 4), pairs=2000)
    # the opposite change is b_u sigma_u eps_u, whose squares are b_u^2 sigma_u^2; E|c|^2 of the common one is
    # quadratic in sigma^2, so that its slope b_u drift + b_u^2 sigma_u^2 counts it twice
    expected = weights.square() + 0.5 * weights * drift + 0.5 * weights.square() * squares
    assert expected.min() < 0 < expected[:3].min()
    np.testing.assert_allclose(shared.gain.mean(0)[:3], expected[:3], rtol=0.05)  # 40,000 pairs: 1 to 2 %
    np.testing.assert_allclose(shared.gain.mean(0)[3], 0.05 * 0.25, rtol=0.05)  # the least a unit keeps
    assert (shared.gain_error > 0).all()


def test_share_loss__keeps_the_gains_of_a_linear_layer():
    problem = linear_problem()
    bench = linear_bench(problem)
    surrogate = estimate_gain(bench)["linear"]
    shared = share_loss(bench, "linear", surrogate, 1.3 * equal_noise(bench), pairs=4)
    np.testing.assert_allclose(shared.gain, np.broadcast_to(problem.gain, (2, 16)), rtol=1e-4)
    assert (shared.misfit < 0).all()  # by rounding alone is no misfit


def test_share_loss__adds_up_to_the_loss_there():
    bench, other = cnn_bench(), cnn_bench(seed=1)
    surrogate, noise = estimate_gain(bench)["fc1"], equal_noise(bench, 0.2)  # far from linear
    loss = measure_change(other, noise, pairs=500, surrogates=estimate_gain(other))["fc1"]
    shared = share_loss(bench, "fc1", surrogate, noise, pairs=500)
    total = (noise.square() * shared.gain).sum(1)
    np.testing.assert_allclose(total, loss, rtol=0.1)  # two means of 1,000 draws
    assert ((surrogate.predict(noise) / loss - 1).abs() > 0.05).any()  # probes alone miss it
    same = measure_change(bench, noise, pairs=500, surrogates={"fc1": surrogate})["fc1"]
    np.testing.assert_allclose(total, same, rtol=1e-4)  # of the same draws


def test_share_loss__reported_error_tells_the_spread_over_seeds():
    benches = [cnn_bench(seed=seed) for seed in range(60)]
    noise = equal_noise(benches[0], 0.1)
    found = [
        share_loss(bench, "fc1", estimate_gain(bench, probes=8)["fc1"], noise, pairs=8) for bench in benches
    ]
    moved = torch.stack([shared.gain for shared in found]).var(0).mean().sqrt()
    reported = torch.stack([shared.gain_error for shared in found]).square().mean().sqrt()
    assert 0.7 < float(moved / reported) < 1.4


def test_share_loss__misfit_sees_wrong_units_behind_a_right_sum():
    right, wrong = [], []
    for seed in range(10):
        bench = cnn_bench(seed=seed, cells=8)
        known = estimate_gain(bench, probes=96)["fc1"]
        blind = replace(known, rows=torch.zeros_like(known.rows), share=torch.zeros_like(known.share))
        swapped = replace(blind, gain=known.gain.flip(1))  # those of other units
        for surrogate, found in ((blind, right), (swapped, wrong)):
            found.append(share_loss(bench, "fc1", surrogate, equal_noise(bench), pairs=200).misfit)
    right, wrong = torch.cat(right), torch.cat(wrong)
    assert right.abs().max() < 4  # of 20, about normal
    assert wrong.min() > 5


def test_share_loss__misfit_gives_no_alarm_with_few_pairs_and_right_gains():
    found = []
    for seed in range(30):
        bench = cnn_bench(seed=seed, cells=8)
        surrogate = estimate_gain(bench)["fc1"]
        found += [
            share_loss(bench, "fc1", surrogate, equal_noise(bench), pairs=pairs).misfit for pairs in (4, 10)
        ]
    assert torch.cat(found).max() < 5  # of 120, the limit of kdviz.measuring


def test_share_loss__comes_nearer_to_the_authors_loop_than_probe_gains():
    samples, base_noise = 2, 0.2
    bench = cnn_bench(samples=samples, base_noise=base_noise)
    surrogate = estimate_gain(bench, probes=96)["fc1"]
    measured = variance_of(bench, {"fc1": surrogate}, pairs=200)["fc1"]

    def entropies(gain):
        ratio = gain_ratio(gain.numpy(), measured.numpy(), True, base_noise)
        return np.log(solve(ratio).noise_ratio)

    half_way = base_noise * torch.from_numpy(np.exp(entropies(surrogate.gain) / 2))
    shared = share_loss(bench, "fc1", surrogate, half_way, pairs=100).gain
    expected = []
    for row, image in enumerate(random_images(samples, seed=3)):
        index = grid(4).index((3, 8, 8))
        sampler = authors_loop.Sampler(small_cnn(seed=1)[:7], image, index, draws=400, seed=row)
        variance = sampler.feature_variance(16, base_noise)
        kept, _ = authors_loop.run(sampler, variance, 16, base_noise=base_noise)
        expected.append((kept / base_noise).log().numpy())
    expected = np.array(expected)
    expected += 0.386 - expected.mean(1, keepdims=True)  # their last step need not fall on it
    probes, both = (float(np.abs(entropies(g) - expected).mean()) for g in (surrogate.gain, shared))
    assert both < 0.75 * probes
    assert both < 0.05


# -- a plain minimiser: another opinion on the optimum


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_solve__optimum_is_that_of_sampled_losses(kind):
    if kind == "linear":
        problem = linear_problem(samples=3)
        bench, layer = linear_bench(problem), "linear"
    else:
        bench, layer = cnn_bench(cells=2, base_noise=1e-3, samples=3), "fc1"
    surrogates = estimate_gain(bench)
    variance = variance_of(bench, surrogates, pairs=32)[layer]
    ratio = gain_ratio(surrogates[layer].gain.numpy(), variance.numpy(), True, bench.base_noise)
    sampled = sampled_optimum.minimise(bench, layer, variance, draws=8).log().numpy()
    optimum, other = (
        np.log(solve(ratio, solver="optimum", calibration=None, weight=w).noise_ratio) for w in (7.0, 8.0)
    )
    # 200 averaged steps x 8 draws: 0.02 nat of sampling noise at the learning rate used, as tried
    assert np.abs(sampled - optimum).mean() < 0.03
    assert abs((sampled - optimum).mean()) < 0.02
    assert abs((sampled - other).mean()) > 0.04  # log(8 / 7) / 2 = 0.067: another weight is told apart


def test_acceptance__linear_layer_reproduces_the_closed_form():
    # Eq. (4) of Zhang et al., TPAMI 2022, solved for a linear layer: the feature loss is half the weight
    problem = linear_problem()
    bench = linear_bench(problem)
    surrogates = estimate_gain(bench)
    variance = variance_of(bench, surrogates)["linear"]
    ratio = gain_ratio(surrogates["linear"].gain.numpy(), variance.numpy(), True, BASE_NOISE)
    scale = BASE_NOISE * solve(ratio, solver="optimum", calibration=None).noise_ratio
    entropy = np.log(scale) + 0.5 * np.log(2 * np.pi * np.e)
    variance_there = 7.0 / 2 * BASE_NOISE**2 * problem.gain.mean() / problem.gain  # weight 7
    optimum = 0.5 * np.log(2 * np.pi * np.e * variance_there)
    np.testing.assert_allclose(entropy, np.tile(optimum, (2, 1)), atol=1e-3)
    blind = {"linear": zeros_like(surrogates["linear"])}  # the network alone, 500 draws: 3 %
    loss = measure_change(bench, torch.from_numpy(scale), pairs=250, surrogates=blind)["linear"]
    np.testing.assert_allclose(loss / variance, 3.5, rtol=0.12)
