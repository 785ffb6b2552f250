"""Meshes and point clouds from files: OFF meshes, and ModelNet40 with backgrounds attached.

NumPy only.

Symbols: ``V`` vertices, ``F`` triangles, ``n`` points.
"""

import functools
import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import DataError
from kdviz.sources.cloud import PIECES, CloudSet, CloudSource, attach_backgrounds, fit_unit_sphere
from kdviz.sources.samples import PARTS, AbsolutePath, Part, find_classes

_FOLDERS = {"train": "train", "held-out": "test"}


def read_off(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read a mesh from a text file in the OFF format.

    The counts may stand on the line of the word ``OFF``, with or without a space between, as in parts
    of ModelNet40. Polygons are cut into triangles from their first corner; colours after them are passed
    over, ``#`` starts a comment.

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
        If the file is missing or no OFF text, ends early, has no surface, NaN or infinite coordinates, or
        faces with corners that are not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    text = path.read_text(encoding="ascii", errors="replace")
    if not text.startswith("OFF"):
        raise DataError(f"{path} is no OFF file: its first line must start with OFF")
    lines = [line.partition("#")[0].split() for line in text.removeprefix("OFF").splitlines()]
    try:
        counts, *rows = filter(None, lines)
        vertex_count, face_count = int(counts[0]), int(counts[1])
        vertices = np.array([row[:3] for row in rows[:vertex_count]], dtype=float).reshape(vertex_count, 3)
        faces = [_read_face(row) for row in rows[vertex_count : vertex_count + face_count]]
        fans = [(face[0], *pair) for face in faces for pair in pairwise(face[1:])]
        triangles = np.array(fans, dtype=np.int64).reshape(-1, 3)
        edges = vertices[triangles[:, 1:]] - vertices[triangles[:, :1]]
    except (IndexError, OverflowError, ValueError) as error:
        raise DataError(f"{path} is damaged: its counts, vertices and faces do not fit together") from error
    if len(faces) < face_count or triangles.min(initial=0) < 0 or not np.isfinite(vertices).all():
        raise DataError(f"{path} is damaged: it ends early, or vertices are not there or not finite")
    if not np.cross(edges[:, 0], edges[:, 1]).any():
        raise DataError(f"{path} has no faces with an area, so its surface cannot be sampled")
    return vertices, triangles


def _read_face(row: Sequence[str]) -> list[int]:
    """Read the corners of a face; after them there may be a colour."""
    return [int(row[corner]) for corner in range(1, int(row[0]) + 1)]


def sample_surface(
    vertices: ArrayLike, triangles: ArrayLike, count: int, *, seed: int | Sequence[int] = 0
) -> NDArray[np.float64]:
    """Draw points on a mesh, equally likely on every piece of its surface.

    Parameters
    ----------
    vertices
        ``(V, 3)``, float.
    triangles
        ``(F, 3)``, integers, positions in `vertices`; some with an area.
    count
        How many points.
    seed
        For another draw.

    Returns
    -------
    NDArray[np.float64]
        ``(count, 3)``, in the mesh's own coordinates.

    """
    vertices, triangles = np.asarray(vertices, dtype=float), np.asarray(triangles)
    start, *others = (vertices[triangles[:, corner]] for corner in range(3))
    edges = [other - start for other in others]
    areas = np.linalg.norm(np.cross(*edges), axis=1) / 2
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(areas), count, p=areas / areas.sum())
    along = rng.random((2, count))
    beyond = along.sum(axis=0) > 1  # in the other half of the parallelogram: turn it back into the triangle
    along[:, beyond] = 1 - along[:, beyond]
    return start[chosen] + along[0, :, None] * edges[0][chosen] + along[1, :, None] * edges[1][chosen]


class ModelNet40(CloudSource):
    """Meshes in the folders of ModelNet40, as `read_modelnet40` reads them."""

    kind: Literal["modelnet40"] = "modelnet40"
    folder: AbsolutePath = Field(description="folder with one folder of meshes a class")

    def load(self, part: Part) -> CloudSet:
        """Find the meshes of a part."""
        return read_modelnet40(self.folder, part, points=self.points, background=self.background)


def read_modelnet40(
    root: str | Path,
    split: str = "train",
    *,
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
        Folder with one folder per class; labels follow their names, sorted.
    split
        ``"train"``, or ``"held-out"``: the folders ``test``.
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
    labels = find_classes(root)
    meshes = [sorted((root / label / _FOLDERS[split]).glob("*.off")) for label in labels]
    empty = [f"{label}/{_FOLDERS[split]}" for label, paths in zip(labels, meshes, strict=True) if not paths]
    if empty:
        raise DataError(f"{root} holds no .off files in {name_some(empty)}")
    sampled = 2 * max(points, -(-background // PIECES))

    @functools.cache
    def read_surface(label: int, item: int) -> NDArray[np.float32]:
        path = meshes[label][item]
        key = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8], "big")
        return fit_unit_sphere(sample_surface(*read_off(path), sampled, seed=key)).astype(np.float32)

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
