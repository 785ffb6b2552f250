"""Meshes from files, as triangles: OFF, OBJ, PLY and STL. Needs trimesh and mapbox_earcut.

trimesh cuts polygons from their first corner, which is wrong for concave ones, stops at binary PLY files of
triangles and quads, and takes OFF files that end early. So what holds polygons is read here, and they are cut
by their ears; STL and the drawing of points are trimesh's.
"""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdviz.arguments import one_of
from kdviz.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import trimesh

MESH_SUFFIXES = (".obj", ".off", ".ply", ".stl")

_OFF = re.compile(r"\s*(ST)?C?N?OFF", re.IGNORECASE)  # what the letters add stands after the coordinates
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_KINDS = dict(zip("char uchar short ushort int uint float double".split(), "bBhHiIfd", strict=True))
_KINDS |= dict(zip("int8 uint8 int16 uint16 int32 uint32 float32 float64".split(), "bBhHiIfd", strict=True))

Polygons = tuple[NDArray[np.float64], Sequence[Sequence[int]]]


def read_mesh(path: str | Path) -> "trimesh.Trimesh":
    """Read a mesh from a file, its polygons cut into triangles.

    OFF (also COFF, NOFF, STOFF, and with the counts on the first line, as in parts of ModelNet40) and OBJ as
    text, PLY and STL as text or binary. Colours, normals and materials are passed over. Vertices stay as they
    are in the file: surfaces need not be closed or manifold.

    Parameters
    ----------
    path
        The file; its suffix says the format, in capitals or not.

    Returns
    -------
    trimesh.Trimesh
        ``mesh.sample(1024, seed=0)`` draws points ``(1024, 3)`` equally likely on every piece of its surface.

    Raises
    ------
    MissingExtraError
        If trimesh or mapbox_earcut is not installed.
    DataError
        If the file is missing or damaged, has no surface, coordinates that are not finite, or faces with
        corners that are not there.
    ValueError
        If the suffix is of no format that is read.
    """
    try:
        import mapbox_earcut  # noqa: F401
        import trimesh
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"meshes need {error.name}: install kdviz[cloud]") from None
    path = Path(path)
    suffix = one_of("suffix of a mesh", path.suffix.lower(), MESH_SUFFIXES)
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    readers = {".off": _read_off, ".obj": _read_obj, ".ply": _read_ply, ".stl": _read_stl}
    try:
        vertices, faces = readers[suffix](path)
        triangles = _cut(vertices, faces)
        if not np.isfinite(vertices).all() or triangles.min(initial=0) < 0:
            raise ValueError("vertices are not finite or not there")
        edges = vertices[triangles[:, 1:]] - vertices[triangles[:, :1]]
    except Exception as error:  # what is no mesh makes the readers raise nearly anything
        raise DataError(f"{path} is damaged, or no {suffix[1:].upper()} file: {error}") from error
    if not np.cross(edges[:, 0], edges[:, 1]).any():
        raise DataError(f"{path} has no faces with an area, so its surface cannot be sampled")
    return trimesh.Trimesh(vertices, triangles, process=False)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace")


def _read_off(path: Path) -> Polygons:
    """Read the vertices and faces of a text in the OFF format."""
    text = re.sub("#.*", "", _read_text(path))
    if (header := _OFF.match(text)) is None:
        raise ValueError("its first word must be OFF, COFF or NOFF")
    counts, *rows = filter(None, map(str.split, text[header.end() :].splitlines() or [""]))
    last, end = int(counts[0]), int(counts[0]) + int(counts[1])
    if len(rows) < end:
        raise ValueError("it ends early")
    vertices = np.array([row[:3] for row in rows[:last]], float).reshape(last, 3)
    faces = [[*map(int, row[1 : int(row[0]) + 1])] for row in rows[last:end]]
    if any(len(face) != int(row[0]) for face, row in zip(faces, rows[last:end], strict=True)):
        raise ValueError("it ends early")
    return vertices, faces


def _read_obj(path: Path) -> Polygons:
    """Read the vertices and faces of a text in the OBJ format; a negative corner counts from the last one."""
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for line in _read_text(path).replace("\\\n", " ").splitlines():
        word, *rest = line.partition("#")[0].split() or [""]
        if word == "v":
            vertices.append([*map(float, rest[:3])])
        elif word == "f":
            corners = [int(corner.partition("/")[0]) for corner in rest]
            faces.append([corner - 1 if corner > 0 else len(vertices) + corner for corner in corners])
    return np.array(vertices, float).reshape(len(vertices), 3), faces


def _read_ply(path: Path) -> Polygons:
    """Read the vertices and faces of a text or binary PLY file, number by number as its header says."""
    head, _, body = re.split(rb"(end_header\r?\n)", path.read_bytes(), maxsplit=1)
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines() if line.strip()]
    order = _ORDERS[next(line[1] for line in lines if line[0] == "format")]
    words, at = [] if order else body.split(), 0

    def take(kind: str) -> float:
        nonlocal at
        code = order + _KINDS[kind]
        value = struct.unpack_from(code, body, at)[0] if order else float(words[at])
        at += struct.calcsize(code) if order else 1
        return value

    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line[0] == "property":
            elements[-1][2].append(line[1:])
    found: dict[str, list[dict[str, Any]]] = {"vertex": [], "face": []}
    for name, count, properties in elements:
        found[name] = [
            {
                word: [take(kind) for _ in range(int(take(size[1])))] if size else take(kind)
                for *size, kind, word in properties
            }
            for _ in range(count)
        ]
    vertices = np.array([[row[axis] for axis in "xyz"] for row in found["vertex"]], float).reshape(-1, 3)
    lists = [row.get("vertex_indices") or row["vertex_index"] for row in found["face"]]
    return vertices, [[*map(int, corners)] for corners in lists]


def _read_stl(path: Path) -> Polygons:
    import trimesh

    mesh = trimesh.load_mesh(path, process=False)
    return np.asarray(mesh.vertices), mesh.faces.tolist()


def _cut(vertices: NDArray[np.float64], faces: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Cut polygons into triangles, ``(F, 3)``; each as its shadow along the axis that it faces most."""
    from mapbox_earcut import triangulate_float64

    triangles = [face for face in faces if len(face) == 3]
    for face in faces:
        if len(face) > 3:
            corners = vertices[face] - vertices[face[0]]
            normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
            flat = np.ascontiguousarray(np.delete(corners, np.argmax(abs(normal)), axis=1))
            cut = triangulate_float64(flat, np.array([len(face)], np.uint32))
            triangles += np.take(face, cut).reshape(-1, 3).tolist()
    return np.array(triangles, np.int64).reshape(-1, 3)
