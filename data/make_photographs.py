"""Make ``photographs/*.png`` from the photographs that Python packages ship.

``photographs.json`` lists every photograph with author, licence, package, path and SHA-256 of the file
read. Each is decoded, cut to its largest inner rectangle where the listing says so, downscaled to 256
pixels on the longer side and stored without loss, so that every reader sees the same pixels.

    python data/make_photographs.py FOLDER [FOLDER ...]

Each FOLDER is a ``site-packages`` folder or an unpacked wheel in which a listed path is looked for.
"""

import argparse
import bz2
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
LONGER_SIDE = 256


def read_source(name: str, sha256: str, folders: list[Path]) -> Path:
    """Find a listed file and check that it is the one listed."""
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise SystemExit(f"{name} is in none of the folders given; install or unpack its package first")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has SHA-256 {found}, photographs.json lists {sha256}")
    return path


def decode(path: Path) -> Image.Image:
    """Open a picture, or one of the two raw arrays that SciPy shipped until version 1.11."""
    if path.name == "face.dat":
        pixels = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8)
        return Image.fromarray(pixels.reshape(768, 1024, 3))
    if path.name == "ascent.dat":  # unpickling is safe only because the SHA-256 was checked
        return Image.fromarray(np.array(pickle.loads(path.read_bytes()), dtype=np.uint8))
    return Image.open(path)


def main() -> None:
    """Read the command line and write the pictures beside this script."""
    parser = argparse.ArgumentParser(description="Make photographs/*.png as listed in photographs.json.")
    parser.add_argument("folders", type=Path, nargs="+", help="site-packages folders or unpacked wheels")
    folders = parser.parse_args().folders
    for entry in json.loads((HERE / "photographs.json").read_text(encoding="utf-8")):
        photograph = decode(read_source(entry["path"], entry["source_sha256"], folders))
        if "crop" in entry:
            photograph = photograph.crop(tuple(entry["crop"]))
        photograph.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
        photograph.save(HERE / "photographs" / f"{entry['name']}.png", optimize=True)


if __name__ == "__main__":
    main()
