"""Notebooks rerun with other parameters, and reports written from runs."""

from kdviz.reports.notebooks import (
    parse_parameters,
    place_report,
    prepare_notebook,
    read_parameter_file,
    rerun,
    write_report,
    write_side_by_side,
    write_tables,
)

__all__ = [
    "parse_parameters",
    "place_report",
    "prepare_notebook",
    "read_parameter_file",
    "rerun",
    "write_report",
    "write_side_by_side",
    "write_tables",
]
