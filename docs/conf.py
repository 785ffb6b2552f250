"""How Sphinx builds the documentation: `make docs`. Nothing is downloaded and no notebook is executed."""

import json
import re
import shutil
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

from docutils import nodes
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import kdviz
import kdviz.models  # makes torchvision importable beside a CPU build of torch
from kdviz.schema import VARIABLES

DOCS = Path(__file__).parent
NDARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[~numpy\.(\w+)\]\]")
NOTEBOOKS = DOCS / "notebooks"  # a copy: Sphinx reads nothing outside its own folder

shutil.rmtree(NOTEBOOKS, ignore_errors=True)
NOTEBOOKS.mkdir()
# Of the figures in notebooks, by the names that MyST-NB gives to their files.
ALTERNATIVES: dict[str, str] = {}
for notebook in (DOCS.parent / "notebooks").glob("*.ipynb"):
    shutil.copy2(notebook, NOTEBOOKS)
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            for kind in ("image/jpeg", "image/png"):
                name = sha256(b64decode("".join(output.get("data", {}).get(kind, "")))).hexdigest()
                ALTERNATIVES[name] = output.get("metadata", {}).get("alt", "")

project = "kdviz"
author = copyright = "kdviz developers"
version = release = kdviz.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["_build"]
highlight_language = "text"  # where a block names no other
default_role = "py:obj"  # a docstring's `name` becomes a link where it names something public

nb_execution_mode = "off"  # shown with their stored outputs, which nbval compares
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3


def tabulate_variables() -> str:
    """Return the data contract as a Markdown table."""
    lines = ["| name | dims | dtype | unit | meaning |", "|---|---|---|---|---|"]
    for v in VARIABLES.values():
        meaning = f"{v.long_name}; {v.comment}" if v.comment else v.long_name
        lines.append(f"| `{v.name}` | {', '.join(v.dims)} | {v.dtype} | {v.units} | {meaning} |")
    return "\n".join(lines)


myst_substitutions = {"variables": tabulate_variables()}

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 120  # longer ones have one argument a line
napoleon_attr_annotations = False
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"kdviz {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["kdviz.css"]


def plain_references(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Leave numbers as text: as footnotes, those of two docstrings on one page would clash."""
    lines[:] = [re.sub(r"\[(\d+)\]_", r"[\1]", re.sub(r"^\.\. \[(\d+)\]", r"| [\1]", line)) for line in lines]


def short_types(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    arguments: str | None,
    returned: str | None,
) -> tuple[str | None, ...]:
    """Write array types as the source does, not as NumPy spells them out."""
    return tuple(
        text
        and NDARRAY.sub(r"NDArray[\1]", text.replace(stringify_annotation(ArrayLike, "smart"), "ArrayLike"))
        for text in (arguments, returned)
    )


def describe_figures(app: Sphinx, document: nodes.document) -> None:
    """Give figures in notebooks the text alternative that is stored with them."""
    for image in document.findall(nodes.image):
        if not image.get("alt"):
            image["alt"] = ALTERNATIVES.get(Path(image["uri"]).stem, "")


def setup(app: Sphinx) -> None:
    """Register what changes docstrings, signatures and figures."""
    app.connect("doctree-read", describe_figures)
    app.connect("autodoc-process-docstring", plain_references)
    app.connect("autodoc-process-signature", short_types)
