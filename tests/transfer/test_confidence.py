"""Probabilities, shared errors and calibration, against torch, scikit-learn and answers made by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from kdviz import schema, testing, transfer
from kdviz.errors import SchemaError


def made(right, certainty, divergence=0.0, labels=None, classes=4):
    """A result by hand: networks are named by their position, 0 is the teacher."""
    right = np.asarray(right, bool)
    count, samples = right.shape
    return schema.build(
        {
            "right": right,
            "certainty": np.broadcast_to(np.asarray(certainty, float), right.shape),
            "divergence": np.broadcast_to(np.asarray(divergence, float), right.shape),
            "predicted": np.zeros(right.shape, int),
        },
        coords={
            "network": [str(number) for number in range(count)],
            "role": ["teacher"] + ["student"] * (count - 1),
            "sample": [str(number) for number in range(samples)],
            "label": np.zeros(samples, int) if labels is None else labels,
        },
        attrs={"teacher": "0", "classes": classes},
    )


def slow_kappa(one, other):
    return cohen_kappa_score(one.astype(int), other.astype(int))


@pytest.mark.parametrize("max_batch", [4, 64])
def test_confidence__is_what_torch_says(max_batch):
    networks = {str(seed): testing.small_cnn(seed=seed) for seed in range(3)}
    images, labels = testing.random_images(11), np.arange(11) % 4
    ds = transfer.confidence(networks, images, labels, teacher="0", max_batch=max_batch, progress=False)
    logits = torch.stack([network.eval()(images) for network in networks.values()]).detach().double()
    certainty, predicted = logits.softmax(2).max(2)
    np.testing.assert_array_equal(ds["predicted"], predicted)
    np.testing.assert_array_equal(ds["right"], predicted.numpy() == labels)
    # logits are float32: sums of another order in other batches
    np.testing.assert_allclose(ds["certainty"], certainty, rtol=1e-6)
    teacher = torch.distributions.Categorical(logits=logits[0])
    expected = torch.distributions.kl_divergence(teacher, torch.distributions.Categorical(logits=logits))
    np.testing.assert_allclose(ds["divergence"], expected, rtol=1e-4, atol=1e-12)
    np.testing.assert_array_equal(ds["divergence"].sel(network="0"), 0.0)
    assert (ds["divergence"].sel(network="1") > 0).all()
    apart = (logits.softmax(2) - logits[0].softmax(1)).abs().sum(2) / 2
    np.testing.assert_allclose(ds[ds.attrs["headline"]], 1 - apart, rtol=1e-6)


def test_divergence__has_the_teacher_first():
    class Fixed(torch.nn.Module):
        def __init__(self, p):
            super().__init__()
            self.register_buffer("logs", torch.tensor([p, 1 - p], dtype=torch.float64).log())

        def forward(self, inputs):
            return self.logs.expand(len(inputs), 2)

    ds = transfer.confidence(
        {"teacher": Fixed(0.5), "sure": Fixed(0.9)}, torch.zeros(1, 1), [0], teacher="teacher", progress=False
    )
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)  # 0.51; the other way round it is 0.37
    assert ds["divergence"].sel(network="sure").item() == pytest.approx(expected, rel=1e-12)


def test_error_consistency__is_kappa_worked_by_hand():
    # of ten, both right on 6, the network alone on 1, the teacher alone on 2, neither on 1:
    # observed 0.7, by chance 0.8 * 0.7 + 0.2 * 0.3 = 0.62
    teacher = [1] * 6 + [0] + [1] * 2 + [0]
    network = [1] * 6 + [1] + [0] * 2 + [0]
    ds = transfer.error_consistency(made([teacher, network], 0.5))
    assert ds["error_consistency"].values.tolist() == [1.0, pytest.approx(0.08 / 0.38)]
    assert ds["error_consistency_error"].values[0] == 0.0


def test_error_consistency__is_that_of_scikit_learn_left_out_one_by_one():
    right = np.random.default_rng(0).random((3, 40)) < [[0.7], [0.6], [0.8]]
    right[2, :30] = right[0, :30]
    ds = transfer.error_consistency(made(right, 0.5))
    for own, kappa, error in zip(right, ds["error_consistency"], ds["error_consistency_error"], strict=True):
        assert kappa == pytest.approx(slow_kappa(own, right[0]))
        rows = np.arange(40)
        left_out = [slow_kappa(own[rows != row], right[0][rows != row]) for row in rows]
        assert error == pytest.approx(np.sqrt(39 / 40 * np.square(left_out - np.mean(left_out)).sum()))


def test_independent_errors__are_no_more_consistent_than_chance():
    right = np.random.default_rng(0).random((201, 2000)) < 0.7
    ds = transfer.error_consistency(made(right, 0.5)).isel(network=slice(1, None))
    # the mean of 200 kappas has a 200th of their variance, and their spread is the jackknife's error
    error = float(ds["error_consistency_error"].mean())
    assert abs(float(ds["error_consistency"].mean())) < 3 * error / 200**0.5
    assert float(ds["error_consistency"].std()) == pytest.approx(error, rel=0.2)  # 200 values know it to 5 %


def test_kappa__is_undefined_without_an_error():
    ds = transfer.error_consistency(made([[1] * 5, [1] * 5, [1, 1, 1, 1, 0]], 0.5))
    np.testing.assert_array_equal(ds["error_consistency"], [np.nan, np.nan, 0.0])


def test_calibration_error__is_worked_by_hand():
    # bins of a fifth, closed above: 0.4 lies in the second
    certainty = [0.4, 0.3, 0.9, 0.95, 1.0]
    right = [[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    ds = transfer.calibration_error(made(right, certainty), bins=5)
    second, last = abs(1 - 0.7), abs(2 - 2.85)
    assert ds["calibration_error"].values.tolist() == pytest.approx([(second + last) / 5, (0.7 + 0.15) / 5])


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error__is_that_of_the_formula(bins):
    rng = np.random.default_rng(2)
    certainty, right = rng.random(200), rng.random(200) < 0.5
    expected = 0.0
    for low in range(bins):
        inside = (certainty > low / bins) & (certainty <= (low + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - certainty[inside].mean())
    found = transfer.calibration_error(made([right], certainty), bins=bins)
    assert found["calibration_error"].item() == pytest.approx(expected)


def test_calibrated_network__has_an_error_of_chance_alone():
    rng = np.random.default_rng(3)
    certainty = 0.5 + 0.5 * rng.random((1, 20000))
    right = rng.random((1, 20000)) < certainty
    # some ten bins of 2,000, each off by 0.8 * sqrt(0.2 / 2000) = 0.008
    assert transfer.calibration_error(made(right, certainty))["calibration_error"].item() < 0.02
    assert transfer.calibration_error(made(right, certainty**2))["calibration_error"].item() > 0.1


def test_what_follows__needs_the_result_of_confidence():
    with pytest.raises(SchemaError, match="variable 'divergence' is missing"):
        transfer.calibration_error(made([[1]], 0.5).drop_vars("divergence"))
    with pytest.raises(ValueError, match="bins must be an integer of 1 or more, got 0"):
        transfer.calibration_error(made([[1]], 0.5), bins=0)
