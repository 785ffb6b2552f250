"""Rerun notebooks with other parameters, and turn them into pages."""

import ast
import hashlib
import itertools
import os
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kdviz
from kdviz import analysis, stopping
from kdviz.arguments import name_some, positive_number, suggest
from kdviz.errors import DataError, KdvizWarning, MissingExtraError, StoreError
from kdviz.files import make_folder, parse_yaml, shipped_folders, write_bytes

try:
    import nbformat
    import papermill
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter
    from papermill.exceptions import PapermillExecutionError
except ImportError as error:
    raise MissingExtraError("notebooks need papermill and nbconvert: install kdviz[lab]") from error

_LONGEST_NAME = 100
_REPORT, _TABLES = "01_report", "08_tables"
_SCALARS = (str, int, float, bool)
_LEAST = re.compile(r"\bat least (-?\d+(?:\.\d+)?)")  # in the comment beside a parameter
# JupyterLab's template gives pictures no ``alt``, which figures store beside themselves, asks other servers
# for scripts of formulas and widgets, which reports have not, lets all grow as wide as the window, and sets
# text and printed lines further in than tables and pictures.
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- if not resources.alone -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- if not resources.alone -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- if not resources.alone -%}{{ super() }}{%- endif -%}{%- endblock -%}
{%- block html_head_css -%}<style>
main {max-width: 1240px; margin: 0 auto}
main .jp-RenderedMarkdown > * {max-width: 1100px}
main .jp-RenderedMarkdown, main .jp-RenderedText pre {padding-left: 0 !important}
</style>{%- endblock -%}
{%- macro described(image, output) -%}
{%- set alt = output | get_metadata('alt') -%}
{{ image | replace('<img', '<img alt="' ~ (alt | escape_html) ~ '"', 1) if alt else image }}
{%- endmacro -%}
{%- block data_jpg scoped -%}{{ described(super(), output) }}{%- endblock -%}
{%- block data_png scoped -%}{{ described(super(), output) }}{%- endblock -%}
"""
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


def find_notebook(name: str | os.PathLike[str]) -> Path:
    """Find a notebook by path, or one that comes with kdviz by name or number (``01``).

    Raises
    ------
    DataError
        If there is none; those that come with kdviz are listed.
    """
    if Path(name).is_file():
        return Path(name)
    ours = _shipped()
    found = [path for path in ours if str(name) in (path.stem, path.name, path.stem[:2])]
    if len(found) != 1:
        known = ", ".join(path.stem for path in ours) or "none: this installation is not whole"
        raise DataError(f"there is no notebook {os.fspath(name)!r}; with kdviz come {known}")
    return found[0]


def rerun(
    notebook: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str],
    progress: bool = True,
) -> Path:
    """Execute a notebook with other parameters and write it, and a page beside it, into a folder.

    Parameters
    ----------
    notebook
        Path, or the name or number of one that comes with kdviz.
    parameters
        ``{name: value}``; names and types must be those of the notebook's parameters cell, numbers no smaller
        than its comments say: ``images: int = 3  # how many to draw, at least 1``. A list may hold tables
        ``{name: value}``.
    folder
        For the results; made if missing. Results of earlier reruns are replaced, other notebooks are not.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The page; the executed notebook lies beside it.

    Raises
    ------
    DataError
        If there is no such notebook, or a cell of it fails (the cell's error is repeated).
    StoreError
        If the folder cannot be written.
    ValueError, TypeError
        If a parameter is unknown (near names are given), has another type, is too small or is neither text,
        number nor truth value, nor a list of these or of tables of these; or if another notebook lies where
        the results go.
    """
    path = find_notebook(notebook)
    checked = _check_parameters(path, parameters)
    executed = make_folder(folder) / f"{_name_results(path.stem, checked)}.ipynb"
    _execute(path, executed, checked, progress_bar=progress)
    return _write_page(executed, executed.stem)


def prepare_notebook(
    notebook: str | os.PathLike[str], parameters: Mapping[str, Any], *, folder: str | os.PathLike[str]
) -> Path:
    """Write a notebook with other parameters into a folder, to be opened.

    One that was written there with the same parameters stays as it is; where others lie, of other runs or
    damaged, it gets a number. Parameters, and errors raised, are those of `rerun`; nothing is executed.

    Returns
    -------
    Path
        The notebook.
    """
    path = find_notebook(notebook)
    checked = _check_parameters(path, parameters)
    target = make_folder(folder)
    for number in itertools.count(1):
        prepared = target / (path.name if number == 1 else f"{path.stem}-{number}.ipynb")
        if not prepared.exists():
            _execute(path, prepared, checked, prepare_only=True)
            return prepared
        if _read_metadata(prepared).get("papermill", {}).get("parameters") == checked:
            return prepared  # which may hold the user's own cells by now
    raise AssertionError("numbers do not end")


def parse_parameters(notebook: str | os.PathLike[str], assignments: Sequence[str]) -> dict[str, Any]:
    """Turn ``name=value`` texts into values of the types that the notebook's parameters have.

    Raises
    ------
    ValueError
        If a text has no ``=``.
    """
    known = papermill.inspect_notebook(_escape(find_notebook(notebook)))
    parsed: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"parameter {text!r} is not of the form name=value")
        parsed[name] = value
        if name in known and known[name]["inferred_type_name"] != "str":
            # `rerun` refuses what stays a text
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                parsed[name] = ast.literal_eval(value)
    return parsed


def read_parameter_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read parameters from a YAML file of ``name: value`` lines, as the app saves its settings.

    Raises
    ------
    DataError
        If the file is missing, or is no such file.
    """
    try:
        found = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read parameters from {os.fspath(path)}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{os.fspath(path)} holds no parameters: its lines are to read `name: value`")
    return found


def write_report(
    run: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str],
    threshold: float | None = None,
    progress: bool = True,
) -> Path:
    """Execute the report notebook on a run and write it as a page without code.

    The page begins with what would spoil an answer, and the answers; chapters appear as results exist.

    Parameters
    ----------
    run
        Run directory, exported ``.nc`` file or folder of a study.
    folder
        Where the page goes.
    threshold
        Of knowledge points, in nat, above 0; by default that of the run.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        ``report.html`` in `folder`; the executed notebook lies beside it.

    Raises
    ------
    StoreError
        If there is no run, it is damaged, or the folder cannot be written.
    DataError
        If a cell fails.
    ValueError
        If `threshold` is not positive.
    """
    opened = kdviz.open_run(run)  # a wrong path is refused before a kernel starts
    parameters: dict[str, Any] = {"run_path": str(opened.path.resolve())}
    chosen = {} if threshold is None else {"threshold": positive_number("threshold", threshold)}
    target = make_folder(folder)
    executed = target / "report.ipynb"
    _execute(find_notebook(_REPORT), executed, parameters | chosen, progress_bar=progress)
    return _write_page(executed, f"{opened.name}: report", code=False)


def place_report(run: kdviz.store.Run, folder: Path | None = None) -> Path:
    """Return the folder where a report goes: the one given, ``STUDY/report``, or one beside the run."""
    of_study = run.path.name == "run.zarr" and (run.path.parent / "study.yaml").exists()
    return folder or run.path.with_name("report" if of_study else f"{run.path.stem}-report")


def write_side_by_side(
    runs: Mapping[str, kdviz.store.Run],
    *,
    folder: str | os.PathLike[str],
    threshold: float | None = None,
    progress: bool = True,
) -> Path | None:
    """Write one page of several runs, each an arm under its name; `threshold` as in `write_report`.

    Returns
    -------
    Path or None
        The page; None if fewer than two runs are whole and have a student and a baseline to compare.

    Raises
    ------
    StoreError, DataError
        As `write_report`.
    """
    arms, left_out = [], []
    for name, run in runs.items() if len(runs) > 1 else ():
        whole = bool((run.summary()["done"] == 1).all()) and "foreground" in run.samples.variables
        with warnings.catch_warnings(action="ignore", category=KdvizWarning):  # their own reports say it
            compared = analysis.tabulate_differences(analysis.pair_networks(run) if whole else {})
        if len(compared):
            arms.append(analysis.Arm({"setting": name}, run, analysis.Settings(threshold=threshold)))
        else:
            left_out.append(name)
    if len(arms) < 2:
        return None
    question = (
        "What did distillation change in each? Intervals here are over training seeds, of which one alone "
        "decides nothing; what its samples decide stands in the report of each run."
    )
    if left_out:
        question += f" Left out, as they are not whole or hold no pair: {name_some(left_out)}."
    told = {"title": "Runs side by side", "question": question, "table": ""}
    return write_tables(arms, **told, folder=folder, name="side-by-side", progress=progress)


def write_tables(
    arms: Sequence[analysis.Arm],
    *,
    title: str,
    question: str,
    table: str,
    folder: str | os.PathLike[str],
    name: str,
    progress: bool = True,
) -> Path:
    """Execute the notebook of printed tables on runs and write it as a page without code.

    Parameters
    ----------
    arms
        Runs with their labels and settings.
    title, question, table
        What is asked, and the papers' table to show beside it; none if empty.
    folder, name
        Where the page goes, and what it is called; the executed notebook lies beside it.
    progress
        Show a progress bar.

    Raises
    ------
    StoreError, DataError
        As `write_report`.
    """
    usual, told = asdict(analysis.Settings()), []
    for arm in arms:
        chosen = {} if arm.settings is None else asdict(arm.settings)
        changed = {name: value for name, value in chosen.items() if value != usual[name]}
        told.append({**arm.labels, "run_path": str(arm.run.path.resolve()), **changed})
    parameters = {"title": title, "question": question, "table": table, "arms": told}
    executed = make_folder(folder) / f"{name}.ipynb"
    _execute(find_notebook(_TABLES), executed, parameters, progress_bar=progress)
    return _write_page(executed, title, code=False)


def _shipped() -> list[Path]:
    """List the notebooks that come with kdviz."""
    folders = [sorted(folder.glob("[0-9][0-9]_*.ipynb")) for folder in shipped_folders("notebooks")]
    return next(filter(None, folders), [])


def _escape(path: Path) -> str:
    """Write a path so that papermill, which fills in what stands in braces, reads it as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _execute(notebook: Path, executed: Path, parameters: Mapping[str, Any], **options: bool) -> None:
    is_result = "start_time" in _read_metadata(executed).get("papermill", {})  # a prepared one never began
    if executed.exists() and (executed.samefile(notebook) or not is_result):
        raise ValueError(f"{executed} is no result of a rerun, which would replace it; pass another folder")
    written = executed.with_name(f".{executed.name}")
    settings = {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the kernel warns on every start
        "KDVIZ_STRICT": "1",  # an error in a widget's callback is an error of the cell
    }
    try:
        with patch.dict(os.environ, settings):  # the kernel inherits them
            stopping.run_aside(
                partial(
                    papermill.execute_notebook,
                    _escape(notebook),
                    _escape(written),
                    parameters=parameters,
                    kernel_name="python3",
                    start_timeout=600,  # seconds: a busy machine is no error
                    cwd=str(Path.cwd()),
                    extra_arguments=["--log-level=ERROR"],  # it warns of its own unencrypted connection
                    **options,
                )
            )
        _keep(written, executed)
    except OSError as error:
        raise StoreError(f"cannot write {executed}: {error}") from error
    except PapermillExecutionError as error:
        _keep(written, executed)
        raise DataError(
            f"cell {error.exec_count} of {notebook.name} failed with {error.ename}: {error.evalue} "
            f"(see {executed})"
        ) from error
    finally:
        written.unlink(missing_ok=True)


def _keep(written: Path, notebook: Path) -> None:
    """Put what papermill wrote in its place, whole."""
    node = nbformat.read(written, as_version=4)
    node.metadata.papermill.output_path = str(notebook)
    for cell in node.cells:
        if "outputs" in cell:
            cell.outputs = _join_prints(cell.outputs)
    write_bytes(notebook, nbformat.writes(node).encode())


def _join_prints(outputs: Sequence[Any]) -> list[Any]:
    """Join what was printed at one stretch: a busy kernel sends it in pieces."""
    joined: list[Any] = []
    for one in outputs:
        last = joined[-1] if joined else None
        if last and one.output_type == last.output_type == "stream" and one.name == last.name:
            last.text += one.text
        else:
            joined.append(one)
    return joined


def _read_metadata(notebook: Path) -> dict[str, Any]:
    """Read the metadata of a notebook; none of what is no notebook."""
    try:
        return nbformat.read(notebook, as_version=4).metadata
    except (OSError, ValueError, AttributeError, nbformat.ValidationError):
        return {}


def _write_page(notebook: Path, title: str, code: bool = True) -> Path:
    loader = DictLoader({"described.html.j2": _PAGE})
    exporter = HTMLExporter(
        exclude_input=not code, embed_images=True, template_file="described.html.j2", extra_loaders=[loader]
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    node = nbformat.read(notebook, as_version=4)
    if not code:
        node.cells = _drop_empty_chapters(node.cells)
    about = {"metadata": {"name": title}, "alone": not code}
    body, _ = exporter.from_notebook_node(node, resources=about)
    page = notebook.with_suffix(".html")
    write_bytes(page, body.encode())
    return page


def _drop_empty_chapters(cells: Sequence[Any]) -> list[Any]:
    """Leave out every chapter, from its heading on, whose cells show nothing: a run has no such results."""
    chapters: list[list[Any]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            chapters.append([])
        chapters[-1].append(cell)
    first, *others = chapters
    return first + [cell for one in others if any(cell.get("outputs") for cell in one) for cell in one]


def _check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    known = papermill.inspect_notebook(_escape(notebook))
    checked = {}
    for name, value in parameters.items():
        if name not in known:
            others = [path.stem for path in _shipped() if name in papermill.inspect_notebook(_escape(path))]
            taken = f"; {', '.join(others)} take it" if others else ""
            raise ValueError(f"{notebook.name} has no parameter {name!r}{taken}; {suggest(name, known)}")
        kind = _TYPES.get(known[name]["inferred_type_name"].split("[")[0])
        least = _LEAST.search(known[name]["help"])
        if kind is float and type(value) is int:
            value = float(value)
        if kind is not None and type(value) is not kind:
            raise TypeError(
                f"parameter {name} of {notebook.name} is {reprlib.repr(value)}, a {type(value).__name__}; "
                f"allowed: {kind.__name__}"
            )
        for one in value if type(value) is list else [value]:
            in_table = type(value) is list and type(one) is dict
            for part in [*one, *one.values()] if in_table else [one]:
                if type(part) not in _SCALARS:  # anything else would be written into the notebook as code
                    raise TypeError(
                        f"parameter {name} of {notebook.name} holds {reprlib.repr(part)}, a "
                        f"{type(part).__name__}; allowed: texts, numbers, True and False, and lists of these "
                        "or of tables `{name: value}` of these"
                    )
            if in_table and not all(isinstance(key, str) for key in one):
                raise TypeError(
                    f"parameter {name} of {notebook.name} holds {reprlib.repr(one)}; allowed: names that are "
                    "texts"
                )
            if least and isinstance(one, (int, float)) and not one >= float(least[1]):  # NaN is not
                raise ValueError(
                    f"parameter {name} of {notebook.name} is {reprlib.repr(value)}; "
                    f"allowed: at least {least[1]}"
                )
        checked[name] = value
    return checked


def _name_results(notebook: str, parameters: Mapping[str, Any]) -> str:
    """Name the results after the parameters; by a digest too where a name cannot say all."""
    given = [f"{key}={_short(value)}" for key, value in sorted(parameters.items())]
    name = "-".join([notebook, *given])
    if len(name) <= _LONGEST_NAME and all(_short(value) == str(value) for value in parameters.values()):
        return name
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode()).hexdigest()[:8]
    return f"{name[:_LONGEST_NAME]}-{digest}"


def _short(value: Any) -> str:
    text = Path(value).name if isinstance(value, str) else str(value)
    return "".join(character if character.isalnum() or character in "._" else "_" for character in text)[:40]
