"""Keep what a study's networks share with their teacher: ``transfer.nc``.

python data/runs/make_transfer_run.py STUDY

STUDY is a study of the built-in images after ``kdviz transfer STUDY``. Run ``data/make_checksums.py``
afterwards.
"""

import hashlib
import sys
from pathlib import Path

import kdviz


def main(study: Path) -> None:
    """Export the run, measured or not."""
    target = Path(__file__).with_name("transfer.nc")
    kdviz.open_run(study).export(target, compact=True, overwrite=True)
    print(f"{target.name}  {target.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
