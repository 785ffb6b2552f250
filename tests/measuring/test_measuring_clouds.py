"""Point clouds: sigma shared by x, y, z; max pooling and neighbours, where most points have no gain."""

import numpy as np
import pytest
import torch
from invented_runs import invent_cloud_run
from torch import nn

from kdviz import derive_entropy, find_points, measure, measure_checkpoints, open_run, units
from kdviz.analysis import Settings
from kdviz.architectures import PRESETS
from kdviz.schema import VOCABULARIES

torch.set_num_threads(1)
POINTS = 12


class Farthest(nn.Module):
    """A linear feature of the largest x, y and z of a cloud: at most three points have gain."""

    def __init__(self, width=4):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.fc1 = nn.Linear(3, width)

    def forward(self, clouds):
        return self.fc1(clouds[..., :3].amax(1))


class Neighbours(nn.Module):
    """Mean over points of the squared distance to the nearest other point."""

    def __init__(self):
        super().__init__()
        self.feature = nn.Identity()

    def forward(self, clouds):
        distance = torch.cdist(clouds, clouds) + torch.eye(clouds.shape[1]) * 1e3
        nearest = distance.detach().argmin(2)
        found = clouds.gather(1, nearest[..., None].expand_as(clouds))
        return self.feature((clouds - found).square().sum((1, 2))[:, None])


def make_clouds(count=2, spacing=0.2, seed=0):
    """Clouds whose largest coordinates lie far apart, so that small noise changes no order."""
    generator = np.random.default_rng(seed)
    places = [[generator.permutation(POINTS) for _ in range(3)] for _ in range(count)]
    return torch.as_tensor(np.array(places).transpose(0, 2, 1) * spacing, dtype=torch.float32)


def run(network=None, clouds=None, **options):
    clouds = make_clouds() if clouds is None else clouds
    settings = {"layers": "fc1", "feature": "identity", "progress": False} | options
    return measure(network or Farthest(), clouds, units=units.cloud(clouds.shape[1]), **settings)


@pytest.mark.parametrize("method", ["gain", "path"])
def test_measure__max_pooling_has_the_gain_of_the_formula(method):
    """Points that hold no maximum have none; another holds the squared columns of its maxima."""
    network, clouds = Farthest(), make_clouds()
    ds = run(network, clouds, method=method, draws=16)
    columns = network.fc1.weight.detach().square().sum(0).numpy() / 4
    expected = np.zeros((2, POINTS))
    for sample, winners in enumerate(clouds.argmax(1)):
        np.add.at(expected[sample], winners, columns)
    tolerance = {"gain": 1e-4, "path": 0.1}[method]  # the path samples its losses
    found = ds["gain"].values[0]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-6 * columns.max())
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_array_equal(ds["zero_gain"][0], (expected == 0).sum(1))


def test_measure__points_without_gain_take_the_most_noise_and_the_mean_is_calibrated():
    ds = run()
    ratio = np.log(ds["noise_scale"].values[0] / 0.007)
    np.testing.assert_allclose(ratio.mean(1), 0.386, atol=1e-4)
    idle = ds["gain"].values[0] == 0
    for logs, without in zip(ratio, idle, strict=True):
        assert np.ptp(logs[without]) < 1e-6
        assert logs[without].min() > logs[~without].max() + 0.2


def test_measure__nearest_neighbours_have_the_gain_of_their_slope():
    """The slope of the sum of squared distances, by hand: from its own and from those it is nearest to."""
    clouds = torch.rand(1, 8, 3, generator=torch.Generator().manual_seed(3))
    ds = run(Neighbours(), clouds, layers="feature", method="gain", base_noise=1e-4, draws=16)
    places = clouds[0].double().numpy()
    apart = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(8) * 1e3
    slope = np.zeros((8, 3))
    for point, near in enumerate(apart.argmin(1)):
        slope[point] += 2 * (places[point] - places[near])
        slope[near] -= 2 * (places[point] - places[near])
    np.testing.assert_allclose(ds["gain"].values[0, 0], (slope**2).sum(1), rtol=0.02)


def test_measure__turning_the_points_round_turns_the_gains_round():
    clouds = make_clouds(1)
    order = torch.as_tensor(np.random.default_rng(1).permutation(POINTS))
    plain, turned = (run(clouds=one, method="gain") for one in (clouds, clouds[:, order]))
    np.testing.assert_allclose(plain["gain"].values[..., order], turned["gain"].values, rtol=1e-4)


def test_measure__clouds_are_measured_by_path_with_their_places_kept():
    ds = run()
    assert (
        set(ds["method"].values.ravel().tolist()) == {1}
        and ds["method"].attrs["flag_meanings"] == "gain path"
    )
    assert (ds.attrs["modality"], ds.attrs["noise_space"], ds.attrs["base_noise"]) == (
        "cloud",
        "coordinates",
        0.007,
    )
    assert ds.attrs["unit_kind"] == "points-12"
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(ds[name].values, make_clouds()[..., axis])


def test_measure__channels_behind_the_third_get_no_noise():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(10, 3)

        def forward(self, clouds):
            return self.fc1(clouds.flatten(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network, clouds = Both(), torch.randn(1, 2, 5)
    ds = run(network, clouds, method="gain")
    squares = network.fc1.weight.detach().square().sum(0).view(2, 5)[:, :3].sum(1) / 3
    np.testing.assert_allclose(ds["gain"].values[0, 0], squares, rtol=1e-5)
    assert float(ds["feature_variance"][0, 0]) == pytest.approx(float(squares.sum()) * 0.007**2, rel=1e-4)


def test_measure_checkpoints__cloud_run_opens_without_pictures(tmp_path):
    checkpoints = {0: Farthest().state_dict()}
    options = {"layers": "fc1", "units": units.cloud(POINTS), "progress": False, "store": tmp_path / "run"}
    measure_checkpoints(Farthest, checkpoints, make_clouds(), network="one", role="teacher", **options)
    opened = open_run(tmp_path / "run")
    assert "thumbnail" not in opened.samples
    np.testing.assert_array_equal(opened.samples["z"], make_clouds()[..., 2])
    stored = opened.dataset("one", "fc1")
    derived = derive_entropy(stored)
    np.testing.assert_allclose(derived["entropy"], stored["entropy"], atol=2e-5)
    assert stored.attrs["weight"] == derived["entropy"].attrs["weight"] == 4.0


def test_presets__of_clouds_are_those_of_the_studies_of_pointnet(tmp_path):
    run, preset = invent_cloud_run(tmp_path / "run", points=30).run, PRESETS["small_pointnet"]
    words = VOCABULARIES["cloud"]
    assert (words.weight, words.threshold) == (preset.weight, preset.threshold) == (4.0, 0.5)
    assert Settings().of_run(run).threshold == 0.25  # as the run records
    run.attrs["config"] = "{}"
    assert Settings().of_run(run).threshold == 0.5 and Settings(threshold=0.3).of_run(run).threshold == 0.3
    ds = derive_entropy(run.dataset("teacher", "fc1"))
    assert ds["entropy"].attrs["weight"] == 4.0
    for found in (find_points(ds), Settings().find(ds)):
        assert found["knowledge_point"].attrs["threshold"] == 0.5
    older = derive_entropy(ds, weight=7.0)  # a run measured at another weight is not shown at 4
    kept = Settings().derive(older.assign_attrs(weight=7.0))["entropy"]
    np.testing.assert_array_equal(kept, older["entropy"])
    others = find_points(ds.drop_vars(["x", "y", "z"]))
    assert others["knowledge_point"].attrs["threshold"] == 0.2


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        (
            torch.rand(2, 4, 3),
            r"units.cloud\(5\) needs samples of shape \(5, 3 or more\) or \(3 or more, 5\), got \(4, 3\)$",
        ),
        (torch.rand(2, 5, 5), r"got \(5, 5\); pass units.cloud\(5, axis=0\) for points first, axis=1 for"),
        (
            torch.full((1, 5, 3), torch.nan),
            "inputs hold NaN or infinite values, in samples 0",
        ),
    ],
)
def test_measure__clouds_of_another_shape(clouds, message):
    with pytest.raises(ValueError, match=message):
        measure(Farthest(), clouds, units=units.cloud(5), layers="fc1", progress=False)


@pytest.mark.parametrize("first", [True, False])
def test_measure__clouds_that_the_network_takes_turned_are_told_so(first):
    network = nn.Sequential(nn.Conv1d(3, 4, 1) if first else nn.Linear(3, 4), nn.Flatten())
    clouds, options = make_clouds(), {"layers": "0", "units": units.cloud(POINTS), "progress": False}
    given, taken = ((clouds, clouds.mT) if first else (clouds.mT, clouds))[:2]
    move = (-1, 1)  # of two axes, both moves are the same
    message = (
        rf"the network takes inputs \(B, {taken.shape[1]}, {taken.shape[2]}\), not \(B, {given.shape[1]}, "
        rf"{given.shape[2]}\): pass inputs.movedim\(-1, 1\); units.cloud\({POINTS}\) without axis fits both"
    )
    with pytest.raises(ValueError, match=message):
        measure(network, given.contiguous(), **options)
    turned = measure(network, given.movedim(*move), **options)
    np.testing.assert_array_equal(turned["z"], clouds[..., 2])


def test_measure__a_network_that_takes_no_order_of_axes_fails_as_it_does():
    with pytest.raises(RuntimeError, match="to have 5 channels") as told:
        measure(nn.Sequential(nn.Conv1d(5, 4, 1)), make_clouds(), layers="0", units=units.cloud(POINTS))
    assert told.value.__notes__ == ["while trying the network on one sample, of shape (12, 3)"]


def test_cloud__bad_number():
    with pytest.raises(ValueError, match="points must be an integer of 1 or more, got 0"):
        units.cloud(0)


@pytest.mark.parametrize("method", ["gain", "path"])
@pytest.mark.parametrize("named", [False, True])
def test_measure__coordinates_that_come_first_are_those_of_the_turned_clouds(method, named, tmp_path):
    """They have the same names and the same noise, and so the same entropies, in one run."""

    class First(Farthest):
        def forward(self, clouds):
            rows = clouds.view(3 * len(clouds), -1)  # which asks for memory in order
            return super().forward(rows.view(clouds.shape).mT)

    found, clouds = {}, make_clouds()
    for make, given in ((Farthest, clouds), (First, clouds.mT.contiguous())):
        network = make(width=64)  # more features than probes, which leaves these to chance
        found[make] = measure_checkpoints(
            lambda network=network: network,
            {0: network.state_dict()},
            {"cloud": given} if named else given,
            network=make.__name__,
            role="teacher",
            layers="fc1",
            units=units.cloud(POINTS),
            feature="identity",
            method=method,
            store=tmp_path / "run",
            progress=False,
        )
    ours, theirs = found[First], found[Farthest]
    assert ours.attrs["input_fingerprint"] == theirs.attrs["input_fingerprint"]
    for name in "xyz":
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["gain"], theirs["gain"], rtol=1e-4)
    np.testing.assert_allclose(ours["entropy"], theirs["entropy"], atol=1e-5)
    square = units.cloud(5, axis=1)
    assert square.index((5, 5))[:, 2].tolist() == [2, 2, 2, -1, -1]
