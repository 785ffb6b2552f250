"""Point clouds with exact foreground: objects with clutter around them.

NumPy only. Every cloud composed here holds an object's surface points and points of five other objects,
attached as background, in random order. ``z`` is up.

Symbols: ``N`` clouds, ``n`` points, ``S`` surface points of a model.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz import units
from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import DegenerateWarning
from kdviz.sources.files import read_arrays
from kdviz.sources.samples import PARTS, LazyArray, Part, Prepared, SampleSet, Source, require_array

FURNITURE_CLASSES = (
    "chair", "table", "sofa", "bed", "storage", "lamp", "vessel", "plant", "door", "vehicle", "person"
)  # fmt: skip
"""The classes of `furniture` in the order of its labels; windows are doors, armchairs sofas."""

_SURFACE_POINTS = 1536  # of every built-in model
_STEPS = 4095  # of the stored coordinates in a radius
_HELD_OUT = 440  # clouds in a study
PIECES = 5  # clouds that a background is drawn from
_PIECE_RADIUS = (0.2, 0.4)  # of a background piece; the object's is 1
_PIECE_DISTANCE = (0.9, 1.3)  # of its centre from the object's
_STRETCH = (0.9, 1.1)  # of an object along each axis
_LARGEST_RADIUS = 1 + 1e-5  # rounding may leave a point this far from the centre


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CloudSet(SampleSet):
    """Point clouds of one size with their foreground, classes and stable names.

    Parameters
    ----------
    clouds
        ``(N, n, 3)``, float32, x, y, z inside the unit sphere, ``z`` up.
    masks
        ``(N, n)``, bool, True on the object.
    labels
        ``(N,)``, int64, position in `classes`.
    sample_ids
        ``N`` different names that stay with a cloud whatever it is selected with.
    classes
        Names of the classes.
    split
        ``(N,)``, text: the partition each cloud belongs to.
    source
        Where the clouds come from, for records and captions.

    Raises
    ------
    TypeError
        If an array has another data type.
    ValueError
        If shapes disagree, coordinates are not finite or outside the unit sphere, names repeat or a label
        is outside `classes`.

    Warns
    -----
    DegenerateWarning
        If points of a cloud coincide: noise on one of them moves it away from the other.
    """

    clouds: NDArray[np.float32] | LazyArray
    masks: NDArray[np.bool_] | LazyArray

    plural = "clouds"
    by_sample = ("clouds", "masks")

    def __post_init__(self) -> None:
        """Check shapes, data types, coordinates, names and labels."""
        require_array("clouds", self.clouds, np.float32, ("N", "n", 3))
        require_array("masks", self.masks, np.bool_, self.clouds.shape[:2])
        super().__post_init__()
        if isinstance(self.clouds, LazyArray):  # composed here, inside the sphere
            return
        inside = (np.linalg.norm(self.clouds, axis=2) <= _LARGEST_RADIUS).all(axis=1)  # NaN is not
        if outside := [name for name, fits in zip(self.sample_ids, inside, strict=True) if not fits]:
            raise ValueError(f"{len(outside)} clouds do not lie in the unit sphere: {name_some(outside)}")
        pairs = zip(self.sample_ids, self.clouds, strict=True)
        if repeating := [name for name, cloud in pairs if len(np.unique(cloud, axis=0)) < len(cloud)]:
            message = f"{len(repeating)} clouds hold points that coincide, no units of their own: "
            warnings.warn(message + name_some(repeating), DegenerateWarning, stacklevel=3)

    def prepare(self) -> Prepared:
        """Take every point as a unit."""
        return Prepared(self.clouds, units.cloud(self.clouds.shape[1]), self.masks)


class CloudSource(Source):
    """Clouds as a study composes them: objects with background."""

    modality: ClassVar[str] = "cloud"

    points: int = Field(default=256, ge=2, description="points of the object")
    background: int = Field(default=128, ge=1, description="points around it")


class Furniture(CloudSource):
    """The built-in clouds, as `furniture` composes them."""

    kind: Literal["furniture"] = "furniture"
    count: int = Field(default=5016, ge=22, description="clouds composed to train on")

    def load(self, part: Part) -> CloudSet:
        """Compose clouds; of the held-out models, several views of each."""
        count = self.count if part == "train" else _HELD_OUT
        return furniture(part, count=count, points=self.points, background=self.background)


def furniture(
    split: str = "train",
    *,
    count: int | None = None,
    points: int = 1024,
    background: int = 500,
    seed: int = 0,
) -> CloudSet:
    """Compose clouds of furniture, plants, vehicles and people with pieces of other classes around them.

    The surfaces are area-weighted samples of 372 free models (``data/README.md``); one model in four
    is held out, as object and as background. Classes take turns, so any multiple of eleven clouds is
    balanced, and when the models of a class are used up, further views of them follow. Every cloud is drawn
    from a generator keyed by (`seed`, split, class, model, view), so cloud k does not depend on `count`.

    Parameters
    ----------
    split
        ``"train"`` or ``"held-out"``.
    count
        How many clouds; by default every model at least once.
    points
        Points of the object, 2..1536; another random share of the model's 1,536 surface points in each view.
    background
        Points around it, shared out over five pieces; 0 leaves the object alone. The papers' 500 is
        unverified.
    seed
        Another seed gives the same models other views and backgrounds.

    Returns
    -------
    CloudSet
        ``clouds`` ``(count, points + background, 3)``; identifiers name the model and its view.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If the data file is missing or damaged.

    Notes
    -----
    As in the papers, points of five clouds of other classes are attached [1]_; how is not said there. Here
    the object is stretched by 0.9..1.1 along each axis, turned about the vertical by any angle, and put into
    the unit sphere exactly. Five times, another class and a model of it are drawn, all equally likely; its
    points are stretched and turned the same way, shrunk to a radius of 0.2..0.4, and put at a distance of
    0.9..1.3 in any direction, so that pieces touch and enter the object's sphere.
    Object and pieces together are centred and scaled into the unit sphere, in random order. Nothing in this
    depends on the class but the papers' rule itself, that no piece is of the object's class: who could
    name all five pieces would be right in one of seven cases instead of one of eleven.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, section 4.1.
    """
    one_of("split", split, PARTS)
    whole_number("points", points, 2, _SURFACE_POINTS)
    whole_number("background", background, 0, PIECES * _SURFACE_POINTS)
    surfaces, labels, held_out, names = read_arrays("furniture.npz", "points", "labels", "held_out", "names")
    chosen = held_out == (split == "held-out")
    members = [np.flatnonzero(chosen & (labels == label)) for label in range(len(FURNITURE_CLASSES))]
    return attach_backgrounds(
        [[str(names[index]) for index in indices] for indices in members],
        lambda label, item: surfaces[members[label][item]] / _STEPS,
        classes=FURNITURE_CLASSES,
        split=split,
        count=count,
        points=points,
        background=background,
        seed=seed,
        source="furniture",
    )


def attach_backgrounds(
    names: Sequence[Sequence[str]],
    read_surface: Callable[[int, int], NDArray[np.floating]],
    *,
    classes: Sequence[str],
    split: str,
    count: int | None,
    points: int,
    background: int,
    seed: int,
    source: str,
) -> CloudSet:
    """Compose clouds from any models, as `furniture` describes it.

    Parameters
    ----------
    names
        Names of the models, one sequence a class.
    read_surface
        From (class, position in the class) to points ``(S, 3)`` centred in the unit sphere, as many as are
        asked for or more.
    """
    whole_number("seed", seed)
    if background and len(names) < 2:
        raise ValueError("a background is drawn from other classes, and there is only one class")
    count = len(names) * max(len(members) for members in names) if count is None else count
    whole_number("count", count, 1)
    sizes = [len(part) for part in np.array_split(np.arange(background), PIECES)]
    splits = (*PARTS, "all")
    labels = np.arange(count) % len(names)
    class_sizes = np.array([len(members) for members in names])
    views, members = np.divmod(np.arange(count) // len(names), class_sizes[labels])

    def draw_points(label: int, item: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return _turn(rng.choice(read_surface(label, item), size, replace=False, shuffle=False), rng)

    @functools.cache
    def compose(k: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        label, view, item = int(labels[k]), int(views[k]), int(members[k])
        rng = np.random.default_rng([seed, splits.index(split), label, item, view])
        parts = [fit_unit_sphere(draw_points(label, item, points, rng))]
        for size in sizes:
            if size:
                other = (label + int(rng.integers(1, len(names)))) % len(names)
                piece = draw_points(other, int(rng.integers(len(names[other]))), size, rng)
                parts.append(rng.uniform(*_PIECE_RADIUS) * piece + _draw_place(rng))
        order = rng.permutation(points + background)
        cloud = fit_unit_sphere(np.concatenate(parts))[order]
        return cloud.astype(np.float32), order < points

    return CloudSet(
        clouds=LazyArray(lambda k: compose(k)[0], count, (points + background, 3), np.float32),
        masks=LazyArray(lambda k: compose(k)[1], count, (points + background,), np.bool_),
        labels=labels,
        sample_ids=tuple(
            f"{names[label][item]}-{view}"
            for label, item, view in np.stack([labels, members, views], axis=1).tolist()
        ),
        classes=tuple(classes),
        split=np.full(count, split),
        source=f"{source}, {split}, {points} points and {background} around them, seed {seed}",
    )


def _turn(points: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float64]:
    """Stretch points ``(S, 3)`` a little along each axis and turn them about the vertical."""
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    return points * rng.uniform(*_STRETCH, size=3) @ [[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]


def _draw_place(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a background piece's centre: any direction from the object, equally likely on the sphere."""
    direction = rng.normal(size=3)
    return rng.uniform(*_PIECE_DISTANCE) * direction / np.linalg.norm(direction)


def fit_unit_sphere(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Centre points ``(S, 3)`` on their mean and scale the farthest to radius 1."""
    centred = points - points.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1).max()
