import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdviz.errors import DataError, DegenerateWarning
from kdviz.sources import (
    FURNITURE_CLASSES,
    CloudSet,
    ModelNet40,
    furniture,
    read_modelnet40,
)
from kdviz.sources.cloud import attach_backgrounds

DATA = Path(__file__).parents[2] / "data"
CHANCE = 1 / len(FURNITURE_CLASSES)
TRAINED, TESTED = 1650, 1100
# Four standard errors of a share of TESTED answers that are right with probability CHANCE (0.035).
CHANCE_MARGIN = 4 * np.sqrt(CHANCE * (1 - CHANCE) / TESTED)


# --- CloudSet ------------------------------------------------------------------------------------------


def make_set(**changes):
    arguments = dict(
        clouds=np.random.default_rng(0).uniform(-0.5, 0.5, (3, 4, 3)).astype(np.float32),
        masks=np.array([[1, 0, 0, 1]] * 3, dtype=bool),
        labels=np.array([0, 1, 0]),
        sample_ids=("a", "b", "c"),
        classes=("cat", "dog"),
        split=np.full(3, "train"),
        source="test",
    )
    return CloudSet(**(arguments | changes))


def put(value, *, at=(1, 2, 0)):
    clouds = make_set().clouds
    clouds[at] = value
    return clouds


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"clouds": np.zeros((3, 4, 3))}, TypeError, "clouds must be a NumPy array of float32, got an array"),
        ({"clouds": np.zeros((3, 3, 4), np.float32)}, ValueError, r"\(N, n, 3\).* got \(3, 3, 4\)"),
        ({"clouds": np.zeros((3, 0, 3), np.float32)}, ValueError, r"\(N, n, 3\), got \(3, 0, 3\)"),
        ({"clouds": put(np.nan)}, ValueError, "1 clouds do not lie in the unit sphere: b"),
        ({"clouds": put(np.inf)}, ValueError, "1 clouds do not lie in the unit sphere: b"),
        ({"clouds": put(1.01)}, ValueError, "1 clouds do not lie in the unit sphere: b"),
        ({"masks": np.ones((3, 4))}, TypeError, "masks must be a NumPy array of bool"),
        ({"masks": np.ones((3, 3), bool)}, ValueError, r"shape \(3, 4\), got \(3, 3\)"),
        ({"labels": np.array([0, 1])}, ValueError, r"labels must have shape \(3,\), got \(2,\)"),
        ({"labels": np.array([0, 1, 2])}, ValueError, r"labels must lie in 0..1 .* got 0..2"),
        ({"sample_ids": ("a", "b")}, ValueError, "must name 3 clouds, got 2 names"),
        ({"sample_ids": ("a", "b", "a")}, ValueError, "must differ, repeated: a"),
    ],
)
def test_cloud_set__refuses_what_does_not_fit_together(changes, error, message):
    with pytest.raises(error, match=message):
        make_set(**changes)


def test_cloud_set__with_points_that_coincide_warns():
    clouds = make_set().clouds
    clouds[1, 3] = clouds[1, 2] = clouds[1, 0]
    clouds[2, 0] = clouds[2, 1] * np.float32([-1, 1, 1])  # two coordinates alike are no coincidence
    with pytest.warns(DegenerateWarning, match="1 clouds hold points that coincide.*: b$"):
        make_set(clouds=clouds)


def test_cloud_set__select_keeps_everything_together():
    cloud_set = make_set()
    picked = cloud_set.select(["c", "a"])
    assert picked.sample_ids == ("c", "a") and picked.labels.tolist() == [0, 0]
    np.testing.assert_array_equal(picked.clouds, cloud_set.clouds[[2, 0]])
    assert picked.fingerprint == cloud_set.select([-1, 0]).fingerprint != cloud_set.fingerprint
    assert repr(picked) == "CloudSet(2 clouds, 'test')" and len(cloud_set.select([])) == 0
    with pytest.raises(ValueError, match="names clouds that are not in the set: d"):
        cloud_set.select(["d"])


@pytest.mark.parametrize("name", ["clouds", "masks", "labels", "sample_ids", "classes", "split"])
def test_cloud_set__fingerprint_sees_every_part_but_the_source(name):
    changed = {
        "clouds": put(0.25),
        "masks": np.zeros((3, 4), dtype=bool),
        "labels": np.array([1, 1, 0]),
        "sample_ids": ("a", "b", "d"),
        "classes": ("cat", "cow"),
        "split": np.full(3, "held-out"),
    }
    assert make_set(**{name: changed[name]}).fingerprint != make_set().fingerprint
    assert make_set(source="elsewhere").fingerprint == make_set().fingerprint


# --- the data file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing():
    return json.loads((DATA / "furniture.json").read_text(encoding="utf-8"))


def test_furniture_file__is_what_checksums_readme_and_listing_say(listing):
    checksums = json.loads((DATA / "checksums.json").read_text())
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for name in ("furniture.npz", "furniture.json"):
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == checksums[name]
        assert f"`{name}`" in readme and checksums[name] in readme
    with np.load(DATA / "furniture.npz") as archive:
        assert [entry["id"] for entry in listing] == archive["names"].tolist()
        classes = archive["classes"][archive["labels"]]
        assert [entry["class"] for entry in listing] == classes.tolist()
        assert [entry["split"] == "held-out" for entry in listing] == archive["held_out"].tolist()
        points = archive["points"] / 4095
    np.testing.assert_allclose(np.linalg.norm(points, axis=2).max(axis=1), 1, atol=0.08)
    np.testing.assert_allclose(points.mean(axis=1), 0, atol=0.08)


def test_furniture_listing__names_author_and_free_licence_of_every_model(listing):
    assert {entry["licence"] for entry in listing} == {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    assert all(entry["author"] and entry["name"] and entry["origin"].startswith("http") for entry in listing)
    assert len({entry["id"] for entry in listing}) == len(listing)


def test_furniture_listing__has_ten_classes_of_twenty_models_and_a_quarter_held_out(listing):
    for name in FURNITURE_CLASSES:
        splits = [entry["split"] for entry in listing if entry["class"] == name]
        assert len(splits) >= (18 if name == "bed" else 20), name
        assert splits.count("held-out") == -(-len(splits) // 4), name


# --- furniture -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training():
    return furniture("train", count=TRAINED).read()


@pytest.fixture(scope="module")
def held_out():
    return furniture("held-out", count=TESTED).read()


def test_furniture__fills_the_unit_sphere_with_objects_and_backgrounds(training):
    assert training.clouds.shape == (TRAINED, 1524, 3) and training.classes == FURNITURE_CLASSES
    assert (training.masks.sum(axis=1) == 1024).all()
    np.testing.assert_allclose(np.linalg.norm(training.clouds, axis=2).max(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(training.clouds.mean(axis=1), 0, atol=1e-6)
    assert set(training.split) == {"train"} and training.source.startswith("furniture, train, 1024 points")


def test_furniture__classes_take_turns_and_models_come_back_in_further_views(training, listing):
    assert training.labels[:13].tolist() == [*range(11), 0, 1]
    beds = [name for name in training.sample_ids[3::11]]
    models = [e["id"] for e in listing if (e["class"], e["split"]) == ("bed", "train")]
    assert beds[:15] == [f"{name}-0" for name in models] + [f"{name}-1" for name in models[:2]]


def test_furniture__default_count_shows_every_model_and_no_held_out_one(listing):
    seen = {name.rpartition("-")[0] for name in furniture(points=8, background=5).sample_ids}
    assert seen == {entry["id"] for entry in listing if entry["split"] == "train"}


def test_furniture__sample_depends_on_seed_and_model_but_not_on_count(training):
    few = furniture(count=5)
    assert few.fingerprint == training.select(np.arange(5)).fingerprint
    other = furniture(count=5, seed=1)
    assert other.sample_ids == few.sample_ids and not np.isclose(other.clouds, few.clouds).all(axis=2).any()


@pytest.mark.parametrize(("points", "background"), [(256, 128), (2, 3), (1536, 7680), (64, 0)])
def test_furniture__takes_other_sizes(points, background):
    small = furniture("held-out", count=11, points=points, background=background).read()
    assert small.clouds.shape == (11, points + background, 3)
    assert (small.masks.sum(axis=1) == points).all()


def test_furniture__points_come_in_random_order(training):
    # The mean position of 1,024 among 1,524 positions varies by 8.2, of 1,650 such means by 0.2.
    assert abs(np.nonzero(training.masks)[1].mean() - 1523 / 2) < 4 * 0.2
    spread = np.array([np.flatnonzero(mask).mean() for mask in training.masks]).std()
    assert 7.5 < spread < 9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "test"}, ValueError, "split is 'test'"),
        ({"points": 1537}, ValueError, "points must be an integer in 2..1536, got 1537"),
        ({"points": 1}, ValueError, "points must be an integer in 2..1536, got 1"),
        ({"points": 10.0}, ValueError, "points must be an integer in 2..1536, got 10.0"),
        ({"background": -1}, ValueError, "background must be an integer in 0..7680, got -1"),
        ({"count": 0}, ValueError, "count must be an integer of 1 or more, got 0"),
        ({"seed": -1}, ValueError, "seed must be an integer of 0 or more, got -1"),
    ],
)
def test_furniture__refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        furniture(**arguments)


# --- how backgrounds are attached, on models whose shapes tell what happened -----------------------------


def attach(read, *, names=(("a", "b"), ("c",), ("d",)), count=60, points=40, background=50):
    return attach_backgrounds(
        names,
        read,
        classes=[str(k) for k in range(len(names))],
        split="train",
        count=count,
        points=points,
        background=background,
        seed=0,
        source="toy",
    ).read()


def screw(label, item):
    """A helix along the vertical, inside the unit sphere."""
    turns = np.linspace(-0.9, 0.9, 80)
    return np.stack([0.4 * np.cos(9 * turns), 0.4 * np.sin(9 * turns), turns], axis=1)


def test_attach_backgrounds__draws_five_models_of_other_classes():
    asked = []

    def read(label, item):
        asked.append((label, item))
        return screw(label, item)

    toy = attach(read)
    calls = np.array(asked).reshape(60, 6, 2)
    assert calls[:, 0, 0].tolist() == toy.labels.tolist() == [0, 1, 2] * 20
    assert (calls[:, 1:, 0] != calls[:, :1, 0]).all()
    for label in range(3):  # 100 pieces each, equally often of both other classes; four standard errors
        of_next = calls[calls[:, 0, 0] == label, 1:, 0] == (label + 1) % 3
        assert abs(of_next.mean() - 0.5) < 4 * 0.5 / np.sqrt(100)
    of_first = calls[:, 1:, 1][calls[:, 1:, 0] == 0] == 0  # about 100, equally often both models
    assert abs(of_first.mean() - 0.5) < 4 * 0.5 / np.sqrt(80)


def test_attach_backgrounds__stretches_objects_and_turns_them_about_the_vertical_only():
    toy = attach(screw, points=80, background=0)
    for cloud in toy.clouds.astype(float):
        ordered = cloud[np.argsort(cloud[:, 2])]
        heights = screw(0, 0)[:, 2]
        slope, rest = np.polyfit(heights, ordered[:, 2], 1)
        np.testing.assert_allclose(ordered[:, 2], slope * heights + rest, atol=1e-6)
        # the map of x and y that the helix went through: a turn and two factors, alike up to the stretch
        across, *_ = np.linalg.lstsq(np.c_[screw(0, 0)[:, :2], np.ones(80)], ordered[:, :2], rcond=None)
        factors = np.linalg.svd(across[:2], compute_uv=False) / slope
        assert ((0.9 / 1.1 <= factors) & (factors <= 1.1 / 0.9)).all()
    angles = np.arctan2(*attach(lambda *_: screw(0, 0)[:2], points=2, background=0).clouds[:, 0, :2].T)
    assert angles.min() < -2 and angles.max() > 2


def test_attach_backgrounds__pieces_are_small_and_around_the_object():
    toy = attach(
        screw, points=80, background=400
    )  # all points of every model, so the object's centre is known
    for cloud, mask in zip(toy.clouds.astype(float), toy.masks, strict=True):
        centre = cloud[mask].mean(axis=0)
        radius = np.linalg.norm(cloud[mask] - centre, axis=1).max()
        distance = np.linalg.norm(cloud[~mask] - centre, axis=1) / radius
        assert 0.9 - 0.4 * 1.1 < distance.min() and distance.max() < 1.3 + 0.4 * 1.1
        assert abs(distance.mean() - 1.1) < 0.3


def test_attach_backgrounds__needs_another_class_for_a_background():
    with pytest.raises(ValueError, match="drawn from other classes, and there is only one class"):
        attach(screw, names=[["a"]])
    assert attach(screw, names=[["a"]], background=0).masks.all()


# --- what tells the class ------------------------------------------------------------------------------


def describe(cloud_set, *, foreground, fitted):
    """Histograms of radius, height and both together: blind to turns about the vertical."""
    rows = []
    for cloud, mask in zip(cloud_set.clouds, cloud_set.masks, strict=True):
        points = cloud[mask == foreground]
        if fitted:
            points = points - points.mean(axis=0)
            points = points / np.linalg.norm(points, axis=1).max()
        across, height = np.linalg.norm(points[:, :2], axis=1), points[:, 2]
        plane = np.histogram2d(across, height, (6, 8), ((0, 1), (-1, 1)))[0]
        radius = np.histogram(np.linalg.norm(points, axis=1), 16, (0, 1))[0]
        rows.append(np.r_[radius, plane.ravel()] / len(points))
    return np.array(rows)


def probe(training, held_out, **features):
    """Which held-out clouds a linear classifier and a forest name rightly."""
    classifiers = [
        make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
        RandomForestClassifier(100, random_state=0),
    ]
    known, asked = describe(training, **features), describe(held_out, **features)
    return [c.fit(known, training.labels).predict(asked) == held_out.labels for c in classifiers]


@pytest.mark.parametrize("fitted", [False, True])
def test_furniture__backgrounds_do_not_give_the_class_away(training, held_out, fitted):
    found = [right.mean() for right in probe(training, held_out, foreground=False, fitted=fitted)]
    assert max(found) < CHANCE + CHANCE_MARGIN, found


def test_furniture__objects_of_held_out_models_are_recognised(training, held_out):
    linear, forest = probe(training, held_out, foreground=True, fitted=True)
    assert linear.mean() > 0.4 and forest.mean() > 0.7
    by_class = [forest[held_out.labels == label].mean() for label in range(len(FURNITURE_CLASSES))]
    assert min(by_class) > 2 * CHANCE, dict(zip(FURNITURE_CLASSES, by_class, strict=True))


# --- ModelNet40 ----------------------------------------------------------------------------------------

TETRAHEDRON = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


@pytest.fixture
def meshes(tmp_path):
    for label in ("bed", "desk", "sofa"):
        for folder, names in (("train", ("_1", "_2")), ("test", ("_3",))):
            (tmp_path / label / folder).mkdir(parents=True)
            for name in names:
                (tmp_path / label / folder / f"{label}{name}.off").write_text(
                    f"OFF4 4 6\n{TETRAHEDRON}{FACES}"
                )
    (tmp_path / "README.txt").write_text("not a class")
    return tmp_path


def test_read_modelnet40__reads_meshes_of_one_split_by_class(meshes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_modelnet40(meshes, "train", points=64, background=50).read()
    assert found.classes == ("bed", "desk", "sofa") and found.labels.tolist() == [0, 1, 2] * 2
    assert found.sample_ids[:4] == ("bed/bed_1-0", "desk/desk_1-0", "sofa/sofa_1-0", "bed/bed_2-0")
    assert found.clouds.shape == (6, 114, 3) and (found.masks.sum(axis=1) == 64).all()
    held_out = read_modelnet40(meshes, "held-out", count=4, points=8, background=5)
    assert held_out.sample_ids == ("bed/bed_3-0", "desk/desk_3-0", "sofa/sofa_3-0", "bed/bed_3-1")
    assert set(held_out.split) == {"held-out"}


def test_read_modelnet40__reads_both_folders_or_the_one_there_is(meshes):
    found = read_modelnet40(meshes, "all", points=8, background=5)
    expected = [
        f"{label}/{part}/{label}_{number}-0"
        for part, number in (("train", 1), ("train", 2), ("test", 3))
        for label in ("bed", "desk", "sofa")
    ]
    assert [*found.sample_ids] == expected and {*found.split} == {"all"}
    data = ModelNet40(folder=meshes, points=8, background=5)
    assert data.read().fingerprint == found.fingerprint
    assert len(data.load("train")) == 6 and {*data.load("held-out").split} == {"held-out"}
    for label in ("bed", "desk", "sofa"):
        shutil.rmtree(meshes / label / "train")
    assert [*data.read().sample_ids] == expected[6:]
    (meshes / "sofa" / "test" / "sofa_3.off").unlink()
    with pytest.raises(DataError, match=r"holds no meshes \(.*\) in sofa/train or test"):
        data.read()


def test_read_modelnet40__samples_the_surface_of_the_mesh(meshes):
    cloud = read_modelnet40(meshes, count=1, points=400, background=0).clouds[0].astype(float)
    # Up to turn and stretch the lowest points are the base, sqrt(4 / 3) / (1.5 + sqrt(3) / 2) of the surface.
    low = np.isclose(cloud[:, 2], cloud[:, 2].min(), atol=1e-6).mean()
    share = 0.5 / (1.5 + np.sqrt(3) / 2)
    assert abs(low - share) < 4 * np.sqrt(share * (1 - share) / 400)


def test_read_modelnet40__does_not_care_where_and_how_large_meshes_are(meshes):
    before = read_modelnet40(meshes, count=3, points=20, background=20)
    for path in meshes.glob("*/train/*.off"):
        path.write_text(f"OFF4 4 6\n50 9 -3\n70 9 -3\n50 29 -3\n50 9 17\n{FACES}")
    after = read_modelnet40(meshes, count=3, points=20, background=20)
    np.testing.assert_allclose(after.clouds, before.clouds, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "test"}, ValueError, "split is 'test'"),
        ({"points": 1}, ValueError, "points must be an integer of 2 or more, got 1"),
        ({"root": "nowhere"}, DataError, r"^root \(data\.folder, --clouds\) is not a folder"),
    ],
)
def test_read_modelnet40__refuses_bad_arguments(meshes, arguments, error, message):
    with pytest.raises(error, match=message):
        read_modelnet40(**({"root": meshes} | arguments))


def test_read_modelnet40__names_the_folder_or_mesh_that_is_wrong(meshes):
    (meshes / "desk" / "test" / "desk_3.off").unlink()
    with pytest.raises(DataError, match=r"no meshes \(.obj, .off, .ply, .stl\) in desk/test"):
        read_modelnet40(meshes, "held-out")
    (meshes / "bed" / "train" / "bed_1.off").write_text(f"OFF\n4 0 0\n{TETRAHEDRON}")
    with pytest.raises(DataError, match=r"bed_1\.off has no faces"):
        read_modelnet40(meshes).read()
    (meshes / "bed" / "train" / "bed_1.off").write_text(f"OFF\n4 1 0\n{TETRAHEDRON}3 0 0 1")
    with pytest.raises(DataError, match=r"bed_1\.off has no faces with an area"):
        read_modelnet40(meshes).read()
