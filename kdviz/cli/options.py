"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Modality = Literal["image", "text", "cloud"]
Folder = Annotated[Path, typer.Argument(help="Folder of the study.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory, exported .nc file, or folder of a study.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute, such as cuda; that of the plan by default.")
]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]
Workers = Annotated[
    str | None,
    typer.Option(
        help="How many processes here, the address of a dask scheduler, or a YAML file of SLURM options."
    ),
]
