"""Which properties of a teacher its students share, though no loss asked for them.

Every property is one function ``f(networks, inputs, labels, *, teacher, independent, ...) -> Dataset`` of
values per network and sample; its attribute ``headline`` names the variable by which networks are compared.
What all take is checked in ``question``.
"""

from kdviz.transfer.adversarial import adversarial
from kdviz.transfer.agreement import bias, consensus
from kdviz.transfer.boundary import boundary
from kdviz.transfer.changes import CHANGES, Change, Words
from kdviz.transfer.confidence import calibration_error, confidence, error_consistency
from kdviz.transfer.invariance import invariance
from kdviz.transfer.localization import localization
from kdviz.transfer.pixels import Pixels
from kdviz.transfer.question import Options, Question, ask
from kdviz.transfer.report import PROPERTIES, Property, report
from kdviz.transfer.representation import representation
from kdviz.transfer.shape_bias import shape_bias

__all__ = [
    "CHANGES",
    "PROPERTIES",
    "Change",
    "Options",
    "Pixels",
    "Property",
    "Question",
    "Words",
    "adversarial",
    "ask",
    "bias",
    "boundary",
    "calibration_error",
    "confidence",
    "consensus",
    "error_consistency",
    "invariance",
    "localization",
    "report",
    "representation",
    "shape_bias",
]
