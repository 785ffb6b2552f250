"""Meshes from files: areas against closed forms, and what trimesh alone reads wrongly."""

import re
import struct
import warnings

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from kdviz.errors import DataError
from kdviz.sources import read_mesh, read_modelnet40

SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
U = [(0, 0, 0), (3, 0, 0), (3, 3, 0), (2, 3, 0), (2, 1, 0), (1, 1, 0), (1, 3, 0), (0, 3, 0)]
U_AREA = 7.0  # 3 x 3 without a notch of 1 x 2
L_AREA = 2 * 3 + 8 * 2  # a prism of height 2 over an L: two lids of 3, and a perimeter of 8
COLOURED = "".join(f"{line} 255 0 0 255\n" for line in SQUARE.splitlines())


@pytest.mark.parametrize(
    ("text", "triangles"),
    [
        (f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n3 0 2 3\n", 2),
        (f"off\n4 2 0\n{SQUARE}3 0 1 2 255 0 0\n3 0 2 3 0 0 255\n", 2),
        (f"OFF4 1 0\n{SQUARE}4 0 1 2 3", 2),
        (f"OFF 4 1 0\r\n{SQUARE}4 3 2 1 0", 2),
        (f"# a square\nOFF\n\n4 1 0 # counts\n{SQUARE}4 0 1 2 3 255 0 0\n", 2),
        (f"COFF\n4 2 0\n{COLOURED}3 0 1 2\n3 0 2 3\n", 2),
        (f"NOFF\n4 2 0\n{COLOURED}3 0 1 2\n3 0 2 3\n", 2),
        (f"STCNOFF 4 2 0\n{COLOURED}3 0 1 2\n3 0 2 3\n", 2),
    ],
)
def test_read_mesh__understands_the_usual_forms_of_off(text, triangles, tmp_path):
    (tmp_path / "square.OFF").write_text(text)
    mesh = read_mesh(tmp_path / "square.OFF")
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert len(mesh.faces) == triangles and mesh.area == 1


def as_off(vertices, faces):
    rows = [" ".join(map(str, row)) for row in vertices]
    rows += [" ".join(map(str, (len(face), *face))) for face in faces]
    return "\n".join(["OFF", f"{len(vertices)} {len(faces)} 0", *rows]).encode()


def as_obj(vertices, faces):
    rows = ["mtllib absent.mtl", "o thing", *(f"v {x} {y} {z}" for x, y, z in vertices)]
    rows += ["usemtl wood", *("f " + " ".join(f"{corner + 1}//1" for corner in face) for face in faces)]
    return "\n".join(rows).encode()


def as_ply(vertices, faces, form="ascii", index="vertex_indices"):
    head = (
        f"ply\nformat {form} 1.0\ncomment\nelement vertex {len(vertices)}\n"
        "property double x\nproperty double y\n"
        f"property float32 z\nproperty uchar red\nelement face {len(faces)}\nproperty uint8 flags\n"
        f"property list uchar int {index}\nproperty short last\nend_header\n"
    ).encode()
    if form == "ascii":
        rows = [*((*row, 9) for row in vertices), *((1, len(face), *face, 7) for face in faces)]
        return head + "\n".join(" ".join(map(str, row)) for row in rows).encode()
    order = ">" if "big" in form else "<"
    body = [struct.pack(f"{order}ddfB", *row, 9) for row in vertices]
    body += [struct.pack(f"{order}BB{len(face)}ih", 1, len(face), *face, 7) for face in faces]
    return head + b"".join(body)


WRITERS = {
    "a.off": as_off,
    "a.obj": as_obj,
    "a.ply": as_ply,
    "little.PLY": lambda *mesh: as_ply(*mesh, "binary_little_endian"),
    "big.ply": lambda *mesh: as_ply(*mesh, "binary_big_endian", "vertex_index"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("first", range(8))
def test_read_mesh__cuts_concave_polygons_right(name, first, tmp_path):
    """A fan from a corner beside the notch covers 11 instead of 7; so does trimesh's."""
    turn = np.linalg.qr(np.random.default_rng(first).normal(size=(3, 3)))[0]
    polygon = [*range(first, 8), *range(first)]
    (tmp_path / name).write_bytes(WRITERS[name](U @ turn, [polygon, polygon[::-1]]))
    assert read_mesh(tmp_path / name).area == pytest.approx(2 * U_AREA, rel=1e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_read_mesh__reads_polygons_of_several_sizes_together(name, tmp_path):
    """An L-shaped prism; trimesh alone stops at these OFF and binary PLY files."""
    outline = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
    vertices = [(x, y, z) for z in (0, 2) for x, y in outline]
    walls = [(k, (k + 1) % 6, (k + 1) % 6 + 6, k + 6) for k in range(6)]
    faces = [(*range(5, -1, -1),), (*range(6, 12),), *walls[:5], (5, 0, 6), (5, 6, 11)]
    (tmp_path / name).write_bytes(WRITERS[name](vertices, faces))
    mesh = read_mesh(tmp_path / name)
    assert mesh.area == pytest.approx(L_AREA) and mesh.is_watertight and mesh.volume == pytest.approx(6)


def test_read_mesh__obj_of_negative_corners_colours_and_broken_lines(tmp_path):
    text = "".join(f"v {line} 1 0 0\n" for line in SQUARE.splitlines())
    text += "vn 0 0 1\nf -4/1 \\\n-3/1 -2/1 # half\nl 1 2\nf 1 3 4\n"
    (tmp_path / "a.obj").write_text(text)
    assert read_mesh(tmp_path / "a.obj").area == 1


@pytest.mark.parametrize("suffix", ["off", "obj", "ply", "stl", "ascii.stl", "STL"])
@pytest.mark.parametrize(
    ("mesh", "area"),
    [
        (trimesh.creation.box((1, 2, 3)), 22),
        (trimesh.creation.icosphere(subdivisions=4), 4 * np.pi),
        (trimesh.creation.cylinder(radius=1, height=2, sections=256), 6 * np.pi),
    ],
    ids=["box", "sphere", "cylinder"],
)
def test_read_mesh__areas_of_known_bodies(suffix, mesh, area, tmp_path):
    path = tmp_path / f"body.{suffix}"
    kind = {"ascii.stl": "stl_ascii"}.get(suffix, suffix.lower())
    mesh.export(path, file_type=kind)
    found = read_mesh(path)
    assert found.area == pytest.approx(area, rel=3e-3)  # round bodies are polyhedra, inscribed
    assert found.area == pytest.approx(mesh.area, rel=1e-5)  # STL and PLY hold 32 bits


def test_read_mesh__stands_what_is_not_manifold(tmp_path):
    """Three triangles at one edge, one of them twice, and a loose one without area."""
    vertices = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)]
    faces = [(0, 1, 2), (0, 1, 3), (0, 1, 4), (0, 1, 4), (2, 2, 3)]
    (tmp_path / "book.off").write_bytes(as_off(vertices, faces))
    mesh = read_mesh(tmp_path / "book.off")
    assert mesh.area == 2 and mesh.vertices.shape == (5, 3)
    points = mesh.sample(4000, seed=0)
    assert abs((points[:, 2] > 0).mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.off", f"OFF\n4 0 0\n{SQUARE}", "has no faces with an area, so its surface cannot be sampled"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE}3 0 0 1\n", "has no faces with an area"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE}2 0 1\n", "has no faces with an area"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE.replace('1 1 0', 'nan 1 0')}3 0 1 2\n", "is damaged.* not finite"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE}3 0 1 4\n", "is damaged"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE}3 0 1 -2\n", "is damaged"),
        ("a.off", f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n", "is damaged.* it ends early"),
        ("a.off", f"OFF\n4 1 0\n{SQUARE}3 0 1\n", "is damaged.* it ends early"),
        ("a.off", "OFF\n2 1 0\n0 0\n1 1\n3 0 1 1\n", "is damaged"),
        ("a.off", "OFF", "is damaged"),
        ("a.off", "OFF\n-1 1 0\n0 0 0\n", "has no faces with an area"),
        ("a.off", "ply\nformat ascii 1.0\n", "no OFF file: its first word must be OFF, COFF or NOFF"),
        ("a.off", "", "no OFF file"),
        ("a.obj", "v 0 0 0\nf 1 2 3\n", "is damaged, or no OBJ file"),
        ("a.obj", "v 0 0\nv 1 1\n", "is damaged, or no OBJ file"),
        ("a.ply", as_ply(U, [[0, 1, 2]]).decode()[:-8], "is damaged, or no PLY file"),
        ("a.ply", as_ply(U, []).decode(), "has no faces with an area"),
        ("a.ply", "", "is damaged, or no PLY file"),
        ("a.stl", "", "has no faces with an area"),
    ],
)
def test_read_mesh__says_what_is_wrong(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{re.escape(name)} .*({message})"):
        read_mesh(tmp_path / name)
    with pytest.raises(DataError, match=r"gone\.off is not a file"):
        read_mesh(tmp_path / "gone.off")
    with pytest.raises(ValueError, match=r"suffix of a mesh is '\.xyz'.*\.obj"):
        read_mesh(tmp_path / "a.xyz")


@given(text=st.text("OF0123 -.#\nen", max_size=60), name=st.sampled_from(["any.off", "any.obj"]))
def test_read_mesh__raises_nothing_but_data_errors(tmp_path_factory, text, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(f"OFF {text}" if name == "any.off" else text.replace("O", "f ").replace("F", "v "))
    try:
        mesh = read_mesh(path)
    except DataError:
        return
    assert np.isfinite(mesh.triangles).all()


def test_read_mesh__samples_by_area_the_same_for_a_seed(tmp_path):
    vertices = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 1, 5]]
    (tmp_path / "two.off").write_bytes(as_off(vertices, [[0, 1, 2], [3, 4, 5]]))
    points = read_mesh(tmp_path / "two.off").sample(20_000, seed=3)
    low = points[points[:, 2] == 0]
    assert abs(len(low) / 20_000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20_000)
    assert (low >= 0).all() and (low[:, :2].sum(axis=1) <= 1).all()
    # x of a point drawn evenly from the triangle: mean 1/3, variance 1/18, below 0.5 in 3 of 4 cases
    assert abs(low[:, 0].mean() - 1 / 3) < 4 * np.sqrt(1 / 18 / len(low))
    assert abs((low[:, 0] < 0.5).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / len(low))
    np.testing.assert_array_equal(points, read_mesh(tmp_path / "two.off").sample(20_000, seed=3))


def test_read_modelnet40__takes_meshes_of_every_format(tmp_path):
    box = trimesh.creation.box()
    for label in ("bed", "desk"):
        folder = tmp_path / label / "train"
        folder.mkdir(parents=True)
        for name in ("1.off", "2.OFF", "3.ply", "4.stl", "5.obj"):
            box.export(folder / name, file_type=name[2:].lower())
        (folder / "5.mtl").write_text("newmtl wood\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_modelnet40(tmp_path, points=200, background=0).read()
    assert [name.split("/")[1] for name in found.sample_ids[::2]] == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    # of a box's points, scaled to a radius of 1 and stretched by up to 1.1 / 0.9, none lies near the centre
    assert np.linalg.norm(found.clouds, axis=2).min() > 0.3
