"""Cut the stored example ``fashion.nc`` out of a finished study on the built-in images.

python data/runs/make_fashion_run.py STUDY

STUDY is the folder of ``kdviz demo --folder STUDY`` (any number of seeds; seed 0 is kept), with the maps of
``kdviz attribute STUDY``. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
from pathlib import Path

import kdviz

TARGET = Path(__file__).with_name("fashion.nc")
SAMPLES = 30  # the first of the study's 50; keeps the file below 5 MB


def main(study: Path) -> None:
    """Write the first samples of teacher, baseline and students of seed 0, without derivable variables."""
    run = kdviz.open_run(study / "run.zarr")
    kept = [name for name in run.networks if name == "teacher" or "-s0" in name]
    samples = run.samples["sample"].values[:SAMPLES].tolist()
    run.export(TARGET, networks=kept, samples=samples, compact=True, overwrite=True)
    print(f"{TARGET.name}  {TARGET.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
