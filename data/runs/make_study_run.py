"""Cut a stored example, such as ``fashion.nc``, out of a finished study on built-in data.

python data/runs/make_study_run.py STUDY

STUDY is the folder of ``kdviz demo --folder STUDY`` (any number of seeds; seed 0 is kept), of images with the
maps of ``kdviz attribute STUDY``. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
from pathlib import Path

import kdviz

TARGETS = {"image": "fashion.nc", "text": "reviews.nc", "cloud": "furniture.nc"}
SAMPLES = 30  # the first ones at most; keeps every file below 5 MB


def main(study: Path) -> None:
    """Write the first samples of teacher, baseline and students of seed 0, without derivable variables."""
    run = kdviz.open_run(study / "run.zarr")
    target = Path(__file__).with_name(TARGETS[str(run.attrs.get("modality", "image"))])
    kept = [name for name in run.networks if name == "teacher" or "-s0" in name]
    samples = run.samples["sample"].values[:SAMPLES].tolist()
    run.export(target, networks=kept, samples=samples, compact=True, overwrite=True)
    print(f"{target.name}  {target.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
