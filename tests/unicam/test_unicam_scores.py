"""Scores of layers: dcor, closed forms, coverage of the intervals, and perturbed images by hand."""

import dcor
import numpy as np
import pytest
import torch
import xarray as xr
from scenes import Detectors, draw_scenes
from torch import nn

from kdviz import schema, testing
from kdviz.attribution.maps import check_layer
from kdviz.errors import LayerError
from kdviz.networks import frozen
from kdviz.unicam import score
from kdviz.unicam.perturbation import perturb
from kdviz.unicam.scores import jackknife
from kdviz.unicam.statistics import distances

NAMES = {"student": "kl", "base": "alone"}


def ask(networks, images, labels, **options):
    return score(
        networks,
        images,
        labels,
        **(NAMES | {"layers": ["relu2"], "progress": False, "resamples": 5} | options),
    )


@pytest.fixture
def networks():
    return {name: testing.small_cnn(seed=seed) for seed, name in enumerate(["big", "kl", "alone"])}


@pytest.fixture
def samples():
    return testing.random_images(30), np.arange(30) % 4


def seen(network, images, until):
    with torch.no_grad():
        return network[:until](images).flatten(1).double().numpy()


@pytest.mark.parametrize("max_batch", [64, 7])
def test_scores__are_those_of_dcor_layer_by_layer(networks, samples, max_batch):
    images, labels = samples
    ds = ask(networks, images, labels, teacher="big", layers=["relu2", "fc2"], max_batch=max_batch)
    truth = np.eye(4)[labels]
    for layer, until in (("relu2", 4), ("fc2", None)):
        found = ds.sel(layer=layer).squeeze()
        features = {name: seen(network, images, until) for name, network in networks.items()}
        for name in ("kl", "alone", "big"):
            expected = dcor.u_distance_correlation_sqr(features[name], truth)
            assert float(found["rs"].sel(network=name)) == pytest.approx(expected, abs=1e-6)
        known = {"student": "kl", "base": "alone", "teacher": "big"}
        likeness = found["fss"].to_series()
        assert float(found["fss_ahead"]) == likeness["student-teacher"] - likeness["base-teacher"]
        for pair in ("student-base", "student-teacher", "base-teacher"):
            one, other = (features[known[role]] for role in pair.split("-"))
            expected = dcor.u_distance_correlation_sqr(one, other)
            assert float(found["fss"].sel(pair=pair)) == pytest.approx(expected, abs=1e-6)
        for name, own, other in (("rs_distilled", "kl", "alone"), ("rs_residual", "alone", "kl")):
            p, q, told = (
                dcor.u_centered(dcor.distances.pairwise_distances(one))
                for one in (features[own], features[other], truth)
            )
            left = p - (p * q).sum() / (q * q).sum() * q
            expected = (left * told).sum() / np.sqrt((left * left).sum() * (told * told).sum())
            assert float(found[name]) == pytest.approx(expected, abs=1e-6)
    assert ds["rs"].dims == ("layer", "epoch", "input", "network")


def test_student_that_alone_sees_the_class__has_all_the_relevance():
    images, coins = draw_scenes(200)
    networks = {"kl": Detectors("cross", "ring"), "alone": Detectors("cross")}
    ds = ask(networks, images, coins["ring"].long().numpy(), layers=["seen"], resamples=20).squeeze()
    assert float(ds["rs"].sel(network="kl")) > 0.2 and abs(float(ds["rs"].sel(network="alone"))) < 0.03
    assert float(ds["rs_distilled"]) > 0.5 and float(ds["rs_distilled_low"]) > 0.4
    assert float(ds["rs_residual_high"]) < 0  # what is left of the cross is what the ring is not
    options = {"layers": ["seen"], "student": "alone", "base": "kl"}
    swapped = ask(networks, images, coins["ring"].long().numpy(), **options)
    assert swapped["rs_residual"].item() == pytest.approx(float(ds["rs_distilled"]), rel=1e-12)


def test_two_classes__score_the_same_by_one_hot_and_any_embedding(samples):
    images, _ = samples
    networks = {name: testing.small_cnn(seed=seed, classes=2) for seed, name in enumerate(["kl", "alone"])}
    labels, places = np.arange(30) % 3 // 2, np.random.default_rng(0).normal(size=(2, 768))
    both = [ask(networks, images, labels, truth=truth) for truth in ("one-hot", places)]
    for name in ("rs", "rs_distilled", "rs_residual", "rs_low"):
        np.testing.assert_allclose(both[0][name], both[1][name], rtol=1e-10)


def test_more_classes__are_as_far_apart_as_told(networks, samples):
    images, labels = samples
    places = np.array([[0.0], [1.0], [5.0], [9.0]])
    found = ask(networks, images, labels, truth=places)["rs"].sel(network="kl").item()
    expected = dcor.u_distance_correlation_sqr(seen(networks["kl"], images, 4), places[labels])
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found - ask(networks, images, labels)["rs"].sel(network="kl").item()) > 1e-4


# -- intervals


def true_correlation(r):
    """Of two normal numbers (Szekely, Rizzo and Bakirov, Annals of Statistics 2007, Theorem 7)."""
    told = r * np.arcsin(r) + np.sqrt(1 - r**2) - r * np.arcsin(r / 2) - np.sqrt(4 - r**2) + 1
    return told / (1 + np.pi / 3 - np.sqrt(3))


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_interval__covers_the_true_score(r):
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        one, other, noise = rng.normal(size=(3, 40, 1))
        told = (one, other, r * one + np.sqrt(1 - r**2) * noise)
        tables = torch.stack([distances(torch.from_numpy(features)) for features in told])
        found.append(jackknife(tables, np.array_split(rng.permutation(40), 10))[:, 0])
    value, low, high = np.transpose(found)
    assert value.mean() == pytest.approx(true_correlation(r), abs=4 * value.std() / 100**0.5)
    # a share of 0.95 of 100 has a deviation of 0.022
    assert 0.86 < np.mean((low <= true_correlation(r)) & (true_correlation(r) <= high)) <= 1
    # and it is not wide for nothing: as the spread of scores says, at most 1.4 times that for 0
    assert 0.8 < np.mean(high - low) / (2 * 2.26 * value.std()) < 1.7


def test_jackknife__is_that_of_samples_left_out_by_hand():
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(12, 3)), rng.normal(size=(12, 2)), np.eye(2)[np.arange(12) % 2]]
    features[0][:, :2] += features[2]
    tables = torch.stack([distances(torch.from_numpy(one)) for one in features])
    value, low, high = jackknife(tables, np.array_split(np.arange(12), 12))
    assert high[0] < 1
    left = [
        dcor.u_distance_correlation_sqr(*(np.delete(one, at, 0) for one in (features[0], features[2])))
        for at in range(12)
    ]
    deviation = np.sqrt(11 / 12 * np.square(left - np.mean(left)).sum())
    assert (high - value)[0] == pytest.approx(2.200985 * deviation, rel=1e-5)  # Student's t of 11 freedoms
    assert (value - low)[0] == pytest.approx(2.200985 * deviation, rel=1e-5)


def test_jackknife__of_differences_is_of_the_same_samples():
    rng = np.random.default_rng(2)
    teacher = rng.normal(size=(12, 3))
    features = [teacher + 0.3 * rng.normal(size=(12, 3)), teacher + 0.5 * rng.normal(size=(12, 3)), teacher]
    tables = [distances(torch.from_numpy(one)) for one in (*features, np.eye(2)[np.arange(12) % 2])]
    value, low, high = jackknife(torch.stack(tables), np.array_split(np.arange(12), 12))

    def differ(rows):
        ours, theirs, taught = (one[rows] for one in features)
        both = (dcor.u_distance_correlation_sqr(one, taught) for one in (ours, theirs))
        return next(both) - next(both)

    left = [differ(np.delete(np.arange(12), at)) for at in range(12)]
    width = 2.200985 * np.sqrt(11 / 12 * np.square(left - np.mean(left)).sum())
    assert value[-1] == pytest.approx(differ(np.arange(12)), abs=1e-9)
    assert [value[-1] - low[-1], high[-1] - value[-1]] == pytest.approx([width, width], rel=1e-5)
    assert value[-2] == pytest.approx(value[3] - value[4], abs=1e-12)  # distilled less residual
    assert high[-1] - low[-1] < high[6] - low[6] + high[7] - low[7], "what both share is gone"


# -- perturbed images


@pytest.mark.parametrize(("layer", "mapped", "until"), [("relu1", "relu1", 2), ("fc1", "conv2", 7)])
def test_perturbed__scores_the_pictures_that_each_network_keeps(networks, samples, layer, mapped, until):
    images, labels = samples
    ds = ask(networks, images, labels, layers=[layer], perturb=0.3, seed=2, max_batch=30)
    assert ds["input"].values.tolist() == ["plain", "perturbed"]
    features = []
    for network in (networks["kl"], networks["alone"]):
        place = check_layer(network, images, mapped, methods=["grad_cam"])
        with frozen(network):
            told = torch.from_numpy(labels)
            changed = perturb(network, images, told, place, images=None, kept=0.3, seed=2, rows=[*range(30)])
        features.append(seen(network, changed, until))
    expected = dcor.u_distance_correlation_sqr(*features)
    found = ds["fss"].squeeze()
    assert float(found.sel(input="perturbed")) == pytest.approx(expected, abs=1e-5)
    assert abs(found[1] - found[0]) > 1e-3
    plain = ask(networks, images, labels, layers=[layer])
    xr.testing.assert_equal(ds.sel(input=["plain"])["rs"], plain["rs"])


# -- edges


def test_same_network__has_nothing_apart_and_the_note_says_so(networks, samples):
    networks["alone"] = networks["kl"]
    ds = ask(networks, *samples)
    assert ds["fss"].item() == pytest.approx(1)
    assert ds["rs_distilled"].isnull().all() and ds["rs_residual"].isnull().all() and ds["rs"].notnull().all()
    assert ds.attrs["note"].endswith("or a network has nothing apart")


def test_layer_that_is_the_same_for_all__is_nan_and_removes_nothing(networks, samples):
    with torch.no_grad():
        networks["alone"].conv2.weight.zero_()
    ds = ask(networks, *samples)
    assert ds["rs"].sel(network="alone").isnull().all() and ds["fss"].isnull().all()
    assert ds["rs_distilled"].item() == pytest.approx(ds["rs"].sel(network="kl").item())


@pytest.mark.parametrize(("count", "resamples", "left"), [(6, 200, 5), (10, 2, 5)])
def test_too_few_samples_for_an_interval__are_refused_before_any_work(
    monkeypatch, networks, samples, count, resamples, left
):
    images, labels = samples
    monkeypatch.setattr("kdviz.transfer.question.Question.walk", None)
    with pytest.raises(ValueError, match=rf"^intervals need 6 samples .* of {count} there are {left}; pass"):
        ask(networks, images[:count], labels[:count], resamples=resamples)


def test_fewest_samples__have_intervals(networks, samples):
    images, labels = samples
    ds = ask(networks, images[:7], labels[:7], resamples=200)
    assert ds.to_array().notnull().all() and "note" not in ds.attrs


def test_interval_that_does_not_exist__is_told_with_its_reason(networks, samples):
    images, _ = samples
    cuts = np.array_split(np.random.default_rng(0).permutation(12), 4)
    labels = np.zeros(12, int)
    labels[cuts[1]] = 1  # a class that is left out as a whole
    ds = ask(networks, images[:12], labels, resamples=4)
    assert ds["rs"].notnull().all() and ds["rs_low"].isnull().all() and ds["rs_high"].isnull().all()
    assert ds["fss_low"].notnull().all()
    assert ds.attrs["note"].startswith("no interval where, of a part left out, a single class")


def test_teacher_of_an_empty_name__is_a_teacher(networks, samples):
    networks[""] = networks.pop("big")
    ds = ask(networks, *samples, teacher="")
    assert ds["pair"].values.tolist() == ["student-base", "student-teacher", "base-teacher"]


def test_features_that_do_not_fit__are_told_with_what_helps(monkeypatch, networks, samples):
    def full(features):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr("kdviz.unicam.scores.distances", full)
    with pytest.raises(MemoryError, match=r"^out of memory; pass fewer than 30 samples, .*you tried 9 bytes"):
        ask(networks, *samples)


def test_results__of_epochs_join_and_keep_to_the_contract(networks, samples):
    both = [ask(networks, *samples, layers=["relu1", ("relu2", "fc1")], epoch=epoch) for epoch in (1, 4)]
    joined = xr.concat(both, "epoch", data_vars="minimal", coords="minimal", compat="override")
    schema.validate(joined)
    assert joined["rs"].dims == ("layer", "epoch", "input", "network")
    assert joined["base_layer"].values.tolist() == ["relu1", "fc1"]


def test_texts__are_scored_plain():
    def texts(seed):
        network = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(24, 2))
        for parameter in network.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        return network

    ids = torch.randint(0, 20, (25, 6), generator=torch.Generator().manual_seed(0))
    networks = {"kl": texts(0), "alone": texts(1)}
    ds = ask(networks, ids, np.arange(25) % 2, layers=["0"])
    expected = dcor.u_distance_correlation_sqr(*(seen(networks[name], ids, 1) for name in networks))
    assert ds["fss"].item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"^perturb is for images"):
        ask(networks, ids, np.arange(25) % 2, layers=["0"], perturb=0.5)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"student": "me"}, ValueError, r"^student is 'me'; allowed: big, kl, alone"),
        ({"teacher": "kl"}, ValueError, r"^student, base and teacher must be different networks"),
        ({"perturb": 1}, ValueError, r"^perturb must be a share of pixels below 1, got 1"),
        ({"perturb": 0}, ValueError, r"^perturb must be a positive number"),
        ({"resamples": 1}, ValueError, r"^resamples must be an integer of 2 or more, got 1"),
        (
            {"labels": np.zeros(30, int)},
            ValueError,
            r"^labels must be of two classes or more, got",
        ),
        ({"labels": np.arange(30)}, ValueError, r"^labels must lie in 0\.\.3"),
        (
            {"images": torch.zeros(3, 3, 8, 8), "labels": [0, 1, 0]},
            ValueError,
            r"^inputs must be 4 samples or",
        ),
        ({"layers": [("relu1", "relu1", "relu1")]}, ValueError, r"^layers must be names, or tuples of 2"),
        ({"layers": ["relu7"]}, LayerError, r"^unknown layer 'relu7'; did you mean"),
        (
            {"truth": np.full((4, 2), np.nan)},
            ValueError,
            r"^truth must be 'one-hot' or finite numbers",
        ),
    ],
)
def test_score__refuses_what_it_cannot_do_before_any_work(
    monkeypatch, networks, samples, changes, error, told
):
    monkeypatch.setattr("kdviz.transfer.question.Question.walk", None)
    given = dict(zip(("images", "labels"), samples, strict=True)) | changes
    with pytest.raises(error, match=told):
        ask(networks, given.pop("images"), given.pop("labels"), **given)


def test_networks__are_left_as_found_and_pass_no_more_than_max_batch(networks, samples):
    most = []
    for network in networks.values():
        network.register_forward_pre_hook(lambda module, given: most.append(len(given[0])))
    before = {name: [one.clone() for one in network.parameters()] for name, network in networks.items()}
    ask(networks, *samples, perturb=0.5, max_batch=4)
    assert max(most) == 4
    for name, network in networks.items():
        assert network.training and all(
            one.requires_grad and one.grad is None for one in network.parameters()
        )
        assert all(map(torch.equal, before[name], network.parameters()))
