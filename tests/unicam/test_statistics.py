"""Distance correlation: another library, a slow replica, independent features, and memory."""

import subprocess
import sys
from pathlib import Path

import dcor
import numpy as np
import pytest
import torch

from kdviz.unicam import statistics
from kdviz.unicam.statistics import correlation, distances, inner, u_centred, without


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def related(count=40):
    """Three sets of features that share parts, of several widths; the last of a single entry."""
    one, noise = draw(count, 5), draw(count, 7, seed=1)
    return one, torch.cat([one[:, :2] ** 2, noise], 1), (one[:, :1] + noise[:, :1])


def tables(*features):
    return [u_centred(distances(one)) for one in features]


def slow_centred(features):
    """The table as printed, of features ``(n, D)``, entry by entry."""
    count = len(features)
    d = np.array([[np.sqrt(((a - b) ** 2).sum() + 1e-18) for b in features] for a in features])
    table = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j:
                rows, columns = d[i].sum() / (count - 2), d[:, j].sum() / (count - 2)
                table[i, j] = d[i, j] - rows - columns + d.sum() / ((count - 1) * (count - 2))
    return table


@pytest.mark.parametrize("block", [1, 3, 2**14])
def test_distances__are_those_of_rows_whatever_the_block(block):
    features = draw(2, 9, 5) + 100
    expected = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    found = distances(features, block=block)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=2e-9, rtol=1e-10)


def test_distances__of_equal_rows_are_the_published_epsilon_with_no_gradient():
    features = (draw(6, 300).float() * 50).requires_grad_()
    with torch.no_grad():
        features[4] = features[1]
    found = distances(features, block=7)
    assert found[1, 4].item() == found[2, 2].item() == pytest.approx(1e-9)
    found[1, 4].backward()
    assert (features.grad == 0).all()
    distances(features).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad[2].abs().sum() > 1


def test_chain__has_the_gradient_of_finite_differences():
    one, other, truth = (
        table.requires_grad_() for table in (draw(6, 4), draw(6, 3, seed=1), draw(6, 2, seed=2))
    )

    def relevance(one, other, truth):
        own, removed, told = tables(one, other, truth)
        return correlation(without(own, removed), told)

    assert torch.autograd.gradcheck(relevance, (one, other, truth))


def test_u_centred__is_the_formula_and_sums_to_zero():
    features = draw(8, 3)
    found = u_centred(distances(features))
    np.testing.assert_allclose(found, slow_centred(features.numpy()), atol=1e-12)
    assert found.sum(0).abs().max() < 1e-12 and found.sum(1).abs().max() < 1e-12
    assert (found.diagonal() == 0).all()


def test_correlation__is_that_of_dcor():
    features = related()
    for one in features:
        for other in features:
            expected = dcor.u_distance_correlation_sqr(one.numpy(), other.numpy())
            assert correlation(*tables(one, other)).item() == pytest.approx(expected, abs=1e-6)
    batched = correlation(
        u_centred(distances(torch.stack([features[0], features[0] ** 2]))), tables(features[1])[0]
    )
    assert batched.tolist() == pytest.approx(
        [correlation(*tables(one, features[1])).item() for one in (features[0], features[0] ** 2)]
    )


def test_correlation_of_both_without_a_third__is_the_partial_one_of_dcor():
    one, other, third = related()
    p, q, z = tables(one, other, third)
    expected = dcor.partial_distance_correlation(one.numpy(), other.numpy(), third.numpy())
    assert abs(expected) > 0.005
    assert correlation(without(p, z), without(q, z)).item() == pytest.approx(expected, abs=1e-6)


def test_without__is_orthogonal_to_what_was_removed():
    p, q, _ = tables(*related())
    left = without(p, q)
    assert inner(left, left) > 0.1 * inner(p, p)
    assert abs(inner(left, q)) < 1e-10 * (inner(left, left) * inner(q, q)).sqrt()
    torch.testing.assert_close(left + inner(p, q) / inner(q, q) * q, p)


def test_without__of_the_same_network_turned_moved_and_scaled_is_zero():
    one = draw(20, 6)
    turn, _ = torch.linalg.qr(draw(6, 6, seed=1))
    p, q = tables(one.float(), 3 * one @ turn + 5)
    assert correlation(p, q).item() == pytest.approx(1)
    assert (without(p, q) == 0).all() and (without(p, p) == 0).all()


def test_without__keeps_what_is_more_than_rounding():
    one = draw(20, 6)
    p, q = tables(one, one + 1e-3 * draw(20, 6, seed=1))
    left = without(p, q)
    assert 1e-8 < inner(left, left) / inner(p, p) < 1e-5


def test_constant_features__have_no_correlation_and_remove_nothing():
    p, constant = tables(draw(12, 3), torch.full((12, 50), 0.1))
    assert (constant == 0).all() and correlation(p, constant).isnan()
    torch.testing.assert_close(without(p, constant), p)


@pytest.mark.parametrize(("count", "biased"), [(12, 0.99), (50, 0.94), (400, 0.67)])
def test_independent_wide_features__correlate_by_the_biased_estimator_only(count, biased):
    found = []
    for seed in range(0, 12, 2):
        one, other = draw(count, 200, seed=seed), draw(count, 200, seed=seed + 1)
        found.append(correlation(*tables(one, other)).item())
    squared = dcor.distance_correlation_sqr(one.numpy(), other.numpy())
    assert squared == pytest.approx(biased, abs=0.006)
    # independent tables: the deviation is about sqrt(2) / n
    assert abs(np.mean(found)) < 4 * 2**0.5 / count / 6**0.5
    assert np.abs(found).max() < 5 * 2**0.5 / count


def test_two_classes__have_the_same_relevance_by_one_hot_and_any_embedding():
    features, labels = draw(30, 4), torch.arange(30) % 3 // 2
    told = [
        correlation(*tables(features, table[labels])).item() for table in (torch.eye(2), draw(2, 768, seed=5))
    ]
    assert told[0] == pytest.approx(told[1], rel=1e-12) and abs(told[0]) > 1e-4


def test_prototypes__are_mean_directions_of_classes():
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, -2.0]])
    found = statistics.class_prototypes(features, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^class 1 has no sample"):
        statistics.class_prototypes(features, torch.tensor([0, 0, 2]))


def test_prototypes__of_classes_that_are_told_are_not_without_the_last():
    features, labels = draw(4, 3), torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(
        statistics.class_prototypes(features, labels, 2), statistics.class_prototypes(features, labels)
    )
    with pytest.raises(ValueError, match=r"^class 2 has no sample"):
        statistics.class_prototypes(features, labels, classes=3)
    with pytest.raises(ValueError, match=r"^labels must lie in 0\.\.0, got 1"):
        statistics.class_prototypes(features, labels, classes=1)


MEMORY = """
import re, torch
from pathlib import Path
from kdviz.unicam.statistics import distances
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
features = torch.rand(256, int(1e5), generator=torch.Generator().manual_seed(0))
distances(features[:, :100], block=50)
held = peak()
distances(features)
print(peak() - held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory a process has")
def test_distances__need_little_memory_beside_the_features():
    """So that 256 samples of 800,000 entries, 0.8 GB of float32, stay far within 4 GiB."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    # float64 of all columns would be 200 MiB, that of 2**14 is 32 MiB, once as it is and once centred
    assert 30 < int(told.stdout) / 1024 < 120
