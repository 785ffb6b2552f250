"""Make ``furniture.npz`` and ``furniture.json``: surface points of furniture models, and who made the models.

Reads the five catalogues of Sweet Home 3D models in the Debian package ``sweethome3d-furniture``, keeps the
models whose catalogue name and category put them into one of the classes below, and samples every surface
uniformly by area. Models get the size and the turn that the catalogue states, ``z`` is up, and each is
centred and scaled into the unit sphere. A model that repeats an earlier one of its class, colours apart, is
left out. The same package and the same trimesh give the same bytes.

    apt-get download sweethome3d-furniture
    pip install trimesh==5.2.0                       # reads and samples meshes; kdviz itself needs no trimesh
    python data/make_furniture.py sweethome3d-furniture_1.8-1_all.deb

``dpkg-deb`` unpacks the package into a temporary folder.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

HERE = Path(__file__).parent
POINTS = 1536
STEPS = 4095  # coordinates -1..1 are stored in steps of 1 / STEPS
HELD_OUT_EVERY = 4  # one model in four
SAME_RATIO = 1.2  # two samplings of one surface are this close, in units of what chance leaves between them

# The catalogues' own licence texts, which the package's copyright file repeats.
LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
NOTICES = {
    "Creative Commons Zero (Public Domain)": "CC0-1.0",
    "Creative Commons Attribution 3.0": "CC-BY-3.0",
}

CLASSES = (
    "chair", "table", "sofa", "bed", "storage", "lamp", "vessel", "plant", "door", "vehicle", "person"
)  # fmt: skip
# class: (category, name) as regular expressions; the first class that matches takes the model
RULES = {
    "person": ("Characters", r".*(male|boy|girl)"),
    "lamp": ("Lights", r"(?!candle|flashlight)"),
    "door": ("Doors and windows", r"(?!elevator$)"),
    "vehicle": ("Vehicles", r"(?!Skateboard|Stroller)"),
    "plant": (
        "Living room|Exterior",
        r".*plant|.*tree|cactus|bamboo|ficus|flowers|orchids|tulips|white lily|yucca|spathiphyllum|acacia|"
        r"(blue )?pine|bush|copper beech|cypress|.*maple|palm|peach|poplar",
    ),
    "bed": ("Bedroom", r"(?!changing).*\b(bed|crib|futon|air mattress|opened convertible sofa)\b"),
    "sofa": ("Living room|Exterior|Bedroom", r".*(sofa|couch|armchair)"),
    "chair": (".*", r"(?!wheel|relax|deck|beach).*(chair|stool|seat)"),
    "table": (".*", r".*\b(table|desk|workbench)\b(?! fan| tennis bat)"),
    "storage": (
        "Living room|Bedroom|Kitchen|Office|Bathroom",
        r".*(wardrobe|bookcase|shelves|cabinet|cupboard|dresser|chest$|tv stand)",
    ),
    "vessel": (
        ".*",
        r"(?!fluorescent|plate|shower|boiler).*\b(cup(?! cake)|mug|glass|bottle|bowl|vase|jar|teapot|pottery|"
        r"flacon|creamer|pan|pot|coffee press|kettle|barrel|sugar|salt shaker)\b",
    ),
}

# What the names do not tell: models seen to look like another class, or like none.
MOVED = {
    "blendswap-cc-0/bedsideTable2": "storage",
    "blendswap-cc-by/bedsideTable": "storage",
    "scopia/changing-table": "storage",
    "blendswap-cc-0/modernArmchair": "chair",
    "katorlegaz/chair-ottoman": "chair",
    "scopia/armchair1": "chair",
    "scopia/modern_armchair": "chair",
    "blendswap-cc-0/motorbike": "vehicle",
    "blendswap-cc-by/workbench": None,  # three shelves
    "scopia/ext_chair": None,  # a cushion on one foot
    "scopia/rattanTable": None,  # a block
}


def read_catalogue(archive: zipfile.ZipFile) -> Iterator[dict[str, str]]:
    """Yield the entries of a catalogue as mappings, in the order of their numbers."""
    text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"(?m)^(\w+)#(\d+)\s*=\s*(.*?)\s*$", text):
        decoded = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value)
        entries.setdefault(int(number), {})[key] = decoded
    for number in sorted(entries):
        yield entries[number]


def find_class(identifier: str, entry: dict[str, str]) -> str | None:
    """Name the class of a model, None for none of them."""
    if identifier in MOVED:
        return MOVED[identifier]
    for name, (category, title) in RULES.items():
        if re.fullmatch(category, entry["category"]) and re.match(title, entry["name"], re.IGNORECASE):
            return name
    return None


def read_notice(archive: zipfile.ZipFile, model: str, catalogue: str) -> dict[str, str]:
    """Return licence and origin as the notice in the model's own folder states them, else the catalogue's."""
    folder = model.rpartition("/")[0]
    for name in archive.namelist():
        if name.startswith(f"{folder}/") and name.endswith("LICENSE.txt"):
            text = archive.read(name).decode("latin-1").replace("\r", "")
            licence = next(short for long, short in NOTICES.items() if f"Released under\n{long}" in text)
            return {"licence": licence, "origin": re.findall(r"Downloaded from (\S+)", text)[0]}
    return {"licence": LICENCES[catalogue], "origin": "http://www.sweethome3d.com/importModels.jsp"}


def sample_model(data: bytes, entry: dict[str, str], identifier: str) -> np.ndarray:
    """Sample a model's surface at the catalogue's size and turn: ``(POINTS, 3)``, int16, z up."""
    mesh = trimesh.load(io.BytesIO(data), file_type="obj", force="mesh", process=False, skip_materials=True)
    turn = np.array(entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), dtype=float).reshape(3, 3)
    vertices = mesh.vertices @ turn.T
    size = np.array([float(entry[side]) for side in ("width", "height", "depth")])
    mesh.vertices = vertices * (size / np.maximum(np.ptp(vertices, axis=0), 1e-9))
    seed = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big")
    points, _ = trimesh.sample.sample_surface(mesh, 2 * POINTS, seed=seed)
    points = np.asarray(points, dtype=float)[:, [0, 2, 1]] * [1, -1, 1]
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1).max()
    steps = np.rint(points * STEPS).astype(np.int16)
    _, first = np.unique(steps, axis=0, return_index=True)
    return steps[np.sort(first)[:POINTS]]


def is_repeated(points: np.ndarray, earlier: list[np.ndarray]) -> bool:
    """Tell whether a cloud samples the surface of an earlier one, at most turned by quarters about z."""
    spread = measure_gap(points[::2], points[1::2]) / np.sqrt(2)  # half the points lie sqrt(2) further apart
    quarter = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    turned = [points @ np.linalg.matrix_power(quarter, turns) for turns in range(4)]
    return any(measure_gap(cloud, other) < SAME_RATIO * spread for other in earlier for cloud in turned)


def measure_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of a point to the nearest one of the other cloud, the larger of both ways."""
    return max(cKDTree(other).query(one)[0].mean(), cKDTree(one).query(other)[0].mean())


def read_models(folder: Path) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Yield what is known of every kept model, and its points."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in RULES}
    for catalogue, _ in sorted(LICENCES.items()):
        with zipfile.ZipFile(folder / f"{catalogue}.sh3f") as archive:
            for entry in read_catalogue(archive):
                model = entry["model"].lstrip("/")
                identifier = f"{catalogue.lower()}/{Path(model).parent.name}"
                name = find_class(identifier, entry)
                if name is None:
                    continue
                points = sample_model(archive.read(model), entry, identifier)
                if is_repeated(points, kept[name]):
                    print(f"left out, repeats an earlier {name}: {identifier}")
                    continue
                kept[name].append(points)
                yield (
                    {
                        "id": identifier,
                        "name": entry["name"],
                        "class": name,
                        "author": entry["creator"],
                        "catalogue": catalogue,
                        **read_notice(archive, model, catalogue),
                    },
                    points,
                )


def rank(model: tuple[dict[str, str], np.ndarray]) -> tuple[int, bytes]:
    """Order models by class, and within a class by the hash of their identifiers."""
    return CLASSES.index(model[0]["class"]), hashlib.sha256(model[0]["id"].encode()).digest()


def choose_held_out(listing: list[dict[str, str]]) -> None:
    """Mark every fourth model of a class as held-out."""
    for name in CLASSES:
        members = [entry for entry in listing if entry["class"] == name]
        for position, entry in enumerate(members):
            entry["split"] = "train" if position % HELD_OUT_EVERY else "held-out"


def main() -> None:
    """Read the command line and write both files beside this script."""
    parser = argparse.ArgumentParser(description="Make furniture.npz and furniture.json.")
    parser.add_argument("package", type=Path, help="sweethome3d-furniture_1.8-1_all.deb")
    package = parser.parse_args().package
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        models = list(read_models(Path(folder) / "usr/share/sweethome3d/furniture"))
    models.sort(key=rank)
    listing = [entry for entry, _ in models]
    choose_held_out(listing)
    np.savez_compressed(
        HERE / "furniture.npz",
        points=np.stack([points for _, points in models]),
        labels=np.array([CLASSES.index(entry["class"]) for entry in listing], dtype=np.uint8),
        held_out=np.array([entry["split"] == "held-out" for entry in listing]),
        names=np.array([entry["id"] for entry in listing]),
        classes=np.array(CLASSES),
    )
    text = json.dumps(listing, indent=1, ensure_ascii=False) + "\n"
    (HERE / "furniture.json").write_text(text, encoding="utf-8")
    for name in CLASSES:
        splits = [entry["split"] for entry in listing if entry["class"] == name]
        print(f"{name:8} {splits.count('train'):3} train, {splits.count('held-out'):3} held-out")


if __name__ == "__main__":
    main()
