"""Cut a stored example, such as ``fashion.nc``, out of a finished study on built-in data.

python data/runs/make_study_run.py STUDY FILE

STUDY is the folder of a study after ``kdviz measure``, and FILE one of the names below; README.md says which
commands make it. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import kdviz


def _first_seed(name: str) -> bool:
    return name == "teacher" or "-s0" in name


def _no_repeat(name: str) -> bool:
    return not name.endswith("-repeat")


KEPT: dict[str, tuple[int, Callable[[str], bool]]] = {  # samples at most, below 5 MB, and networks
    "fashion.nc": (30, _first_seed),
    "reviews.nc": (30, _first_seed),
    "furniture.nc": (30, _first_seed),
    "finetuning.nc": (32, _no_repeat),
    "layers.nc": (12, _no_repeat),
}


def main(study: Path, file: str) -> None:
    """Write the first samples of the networks kept, without derivable variables."""
    run, (samples, keep) = kdviz.open_run(study / "run.zarr"), KEPT[file]
    target = Path(__file__).with_name(file)
    names = run.samples["sample"].values[:samples].tolist()
    run.export(target, networks=[*filter(keep, run.networks)], samples=names, compact=True, overwrite=True)
    print(f"{target.name}  {target.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
