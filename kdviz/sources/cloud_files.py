"""Meshes and point clouds from files: OFF meshes, and ModelNet40 with backgrounds attached.

NumPy only.

Symbols: ``V`` vertices, ``F`` triangles, ``n`` points.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from kdviz.arguments import one_of, whole_number
from kdviz.errors import DataError
from kdviz.sources.cloud import PIECES, CloudSet, attach_backgrounds, fit_unit_sphere
from kdviz.sources.samples import PARTS, AbsolutePath, Part, Source, find_classes, list_some

_FOLDERS = {"train": "train", "held-out": "test"}


def read_off(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read a mesh from a text file in the OFF format.

    The counts may stand on the line of the word ``OFF``, with or without a space between, as in parts
    of ModelNet40. Polygons are cut into triangles from their first corner, lines and points among
    the faces and colours after them are passed over, ``#`` starts a comment.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    vertices, triangles : NDArray
        ``(V, 3)``, float64, and ``(F, 3)``, int64, positions in `vertices`.

    Raises
    ------
    DataError
        If the file is missing or no OFF text, ends early, has no faces (points alone have no areas to
        sample by), NaN or infinite coordinates, or faces with corners that are not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    text = path.read_text(encoding="ascii", errors="replace")
    lines = [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    if not lines or not lines[0].startswith("OFF"):
        raise DataError(f"{path} is no OFF file: its first line must start with OFF")
    lines[0] = lines[0].removeprefix("OFF").strip()
    if not lines[0]:
        del lines[0]
    try:
        vertex_count, face_count = (int(number) for number in lines[0].split()[:2])
        rows = [line.split() for line in lines[1:]]
        vertices = np.array([row[:3] for row in rows[:vertex_count]], dtype=float).reshape(-1, 3)
        faces = [_read_face(row) for row in rows[vertex_count : vertex_count + face_count]]
        fans = [(face[0], *face[k : k + 2]) for face in faces for k in range(1, len(face) - 1)]
        triangles = np.array(fans, dtype=np.int64).reshape(-1, 3)
    except (IndexError, OverflowError, ValueError) as error:
        raise DataError(f"{path} is damaged: it holds no counts, vertices and faces of OFF") from error
    if (len(vertices), len(faces)) != (vertex_count, face_count):
        stated = f"it states {vertex_count} vertices and {face_count} faces"
        raise DataError(f"{path} ends early: {stated} and holds {len(vertices)} and {len(faces)}")
    if broken := int((~np.isfinite(vertices)).any(axis=1).sum()):
        raise DataError(f"{path} has {broken} vertices with NaN or infinite coordinates")
    if not len(triangles):
        raise DataError(f"{path} has no faces, so its surface cannot be sampled by area")
    if triangles.min() < 0 or triangles.max() >= vertex_count:
        raise DataError(f"{path} has faces with corners outside of its {vertex_count} vertices")
    return vertices, triangles


def _read_face(row: Sequence[str]) -> list[int]:
    """Read the corners of a face; after them there may be a colour."""
    count = int(row[0])
    if not 0 < count < len(row):
        raise ValueError(f"a face of {count} corners has {len(row) - 1}")
    return [int(corner) for corner in row[1 : count + 1]]


def sample_surface(
    vertices: ArrayLike, triangles: ArrayLike, count: int, *, seed: int | Sequence[int] = 0
) -> NDArray[np.float64]:
    """Draw points on a mesh, equally likely on every piece of its surface.

    Parameters
    ----------
    vertices
        ``(V, 3)``, float.
    triangles
        ``(F, 3)``, integers, positions in `vertices`.
    count
        How many points.
    seed
        For another draw.

    Returns
    -------
    NDArray[np.float64]
        ``(count, 3)``, in the mesh's own coordinates.

    Raises
    ------
    ValueError
        If shapes are others or the surface has no area.
    """
    vertices, triangles = np.asarray(vertices, dtype=float), np.asarray(triangles)
    whole_number("count", count, 1)
    for name, array in (("vertices", vertices), ("triangles", triangles)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have shape (rows, 3), got {array.shape}")
    start, *others = (vertices[triangles[:, corner]] for corner in range(3))
    edges = [other - start for other in others]
    areas = np.linalg.norm(np.cross(*edges), axis=1) / 2
    if not areas.sum() > 0:
        raise ValueError("triangles must have an area; all of them are lines or points")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(areas), count, p=areas / areas.sum())
    along = rng.random((2, count))
    beyond = along.sum(axis=0) > 1  # in the other half of the parallelogram: turn it back into the triangle
    along[:, beyond] = 1 - along[:, beyond]
    return start[chosen] + along[0, :, None] * edges[0][chosen] + along[1, :, None] * edges[1][chosen]


class ModelNet40(Source):
    """Meshes in the folders of ModelNet40, as `read_modelnet40` reads them."""

    modality: ClassVar[str] = "cloud"

    kind: Literal["modelnet40"] = "modelnet40"
    folder: AbsolutePath = Field(description="folder with one folder of meshes a class")
    points: int = Field(default=256, ge=2, description="points of the object")
    background: int = Field(default=128, ge=1, description="points around it")

    def load(self, part: Part) -> CloudSet:
        """Find the meshes of a part."""
        return read_modelnet40(self.folder, part, points=self.points, background=self.background)


def read_modelnet40(
    root: str | Path,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    count: int | None = None,
    points: int = 1024,
    background: int = 500,
    seed: int = 0,
) -> CloudSet:
    """Read ModelNet40, or any meshes in the same folders, and attach backgrounds as `furniture` does.

    Meshes lie at ``root/<class>/train/<name>.off`` and ``root/<class>/test/<name>.off``
    (<https://modelnet.cs.princeton.edu>). Every mesh is sampled uniformly by area, with twice the points
    that a view needs, and put into the unit sphere. Only the meshes needed are read, and their points kept:
    about 25 kB each.

    Parameters
    ----------
    root
        Folder with one folder per class.
    split
        ``"train"``, or ``"held-out"``: the folders ``test``.
    classes
        Class folders to read, in the order of their labels; by default all, sorted by name.
    count
        How many clouds, classes taking turns; by default as many that every mesh comes at least once.
    points, background, seed
        As in `furniture`; `points` at least 2 and without upper limit.

    Returns
    -------
    CloudSet
        Identifiers are ``<class>/<name>-<view>``.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If a folder is missing or holds no meshes, or a mesh is damaged.
    """
    one_of("split", split, PARTS)
    whole_number("points", points, 2)
    whole_number("background", background)
    root = Path(root)
    labels = find_classes(root, classes)
    meshes = [sorted((root / label / _FOLDERS[split]).glob("*.off")) for label in labels]
    empty = [f"{label}/{_FOLDERS[split]}" for label, paths in zip(labels, meshes, strict=True) if not paths]
    if empty:
        raise DataError(f"{root} holds no .off files in {list_some(empty)}")
    sampled = 2 * max(points, -(-background // PIECES))

    @functools.cache
    def read_surface(label: int, item: int) -> NDArray[np.float32]:
        path = meshes[label][item]
        key = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8], "big")
        vertices, triangles = read_off(path)
        try:
            surface = sample_surface(vertices, triangles, sampled, seed=key)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        return fit_unit_sphere(surface).astype(np.float32)

    return attach_backgrounds(
        [[f"{path.parts[-3]}/{path.stem}" for path in paths] for paths in meshes],
        read_surface,
        classes=labels,
        split=split,
        count=count,
        points=points,
        background=background,
        seed=seed,
        source=f"meshes of {root.name}",
    )
