"""The data contract: every dimension, variable, unit and attribute of a kdviz dataset.

`VARIABLES` is the one list: datasets and files are checked and annotated by it, results are built from it by
`build`, and the documentation's table is generated from it. Every room registers its variables in a module of
its own: ``samples``, ``measured``, ``points``, ``attribution``, ``coherency``, ``transfer``, ``unicam``.
Nothing here knows files, networks or torch.

Dimensions, in stored order: ``epoch`` (completed training epochs), ``sample`` (inputs), ``unit`` (parts of
an input: grid cell, token or point). Missing floats are NaN; a shorter sample is padded, and ``valid`` is
False there.
"""

# Each registers its variables, in the order in which they are listed and stored.
from kdviz.schema import samples, measured, points, attribution, coherency, transfer, unicam  # noqa: F401  # isort: skip
from kdviz.schema.attributes import SCHEMA_VERSION, make_attrs
from kdviz.schema.building import annotate, build
from kdviz.schema.checks import validate
from kdviz.schema.coherency import AUDITED
from kdviz.schema.samples import choose_epochs, read_classes, read_sides
from kdviz.schema.transfer import PLAIN
from kdviz.schema.variables import BLOCK, METHODS, QUARTILES, VARIABLES, Attribute, Variable, register
from kdviz.schema.vocabulary import VOCABULARIES, Vocabulary, choose_words

# Names by part; `epoch` and `quartile` are coordinates of the networks.
SAMPLES = tuple(v.name for v in VARIABLES.values() if v.part == "samples" and v.dims != ("epoch",))
MEASURED = tuple(v.name for v in VARIABLES.values() if v.part == "measured" and v.name not in v.dims)

__all__ = [
    "AUDITED",
    "BLOCK",
    "MEASURED",
    "METHODS",
    "PLAIN",
    "QUARTILES",
    "SAMPLES",
    "SCHEMA_VERSION",
    "VARIABLES",
    "VOCABULARIES",
    "Attribute",
    "Variable",
    "Vocabulary",
    "annotate",
    "build",
    "choose_epochs",
    "choose_words",
    "make_attrs",
    "read_classes",
    "read_sides",
    "register",
    "validate",
]
