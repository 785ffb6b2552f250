"""Keep what a study's networks share with their teacher, and have beside their baselines: ``transfer.nc``.

python data/runs/make_transfer_run.py STUDY

STUDY is a study of the built-in images after ``kdviz transfer``, ``kdviz measure`` and ``kdviz unicam``. What
was measured is kept of the last epoch alone. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import kdviz
from kdviz import schema


def main(study: Path) -> None:
    """Copy the run without its earlier epochs and repeats, and export it."""
    target, run = Path(__file__).with_name("transfer.nc"), kdviz.open_run(study)
    with tempfile.TemporaryDirectory() as folder:
        kept = kdviz.store.create_run(Path(folder) / "run.zarr", samples=run.samples, attrs=run.attrs)
        for name in run.networks:
            for layer in run.layers(name):
                if name.endswith("-repeat"):
                    continue
                last = run.dataset(name, layer).isel(epoch=[-1])
                names = [one for one in schema.MEASURED if one in last]
                epochs = last["epoch"].values.tolist()
                block = last.sizes["sample"]
                kept.create_group(name, layer, epochs=epochs, attrs=last.attrs, block=block, variables=names)
                kept.write_block(name, layer, 0, 0, last[names])
        for name in (one for one in run.results if not one.startswith("attribution/")):
            kept.write_result(name, run.result(name))
        kept.export(target, compact=True, overwrite=True)
    print(f"{target.name}  {target.stat().st_size / 2**20:.1f} MiB")
    print(f"SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
