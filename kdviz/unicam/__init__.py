"""What a student sees that a network without a teacher does not: distilled and residual features (UniCAM).

Modules, each importing only from those before it: ``statistics`` (distance correlation of tables),
``truth`` (where classes lie), ``maps`` (where in the input), ``perturbation`` (inputs of which only what is
relevant is left), ``scores`` (how alike networks are, and how relevant what they see is).
"""

from kdviz.unicam.maps import explain
from kdviz.unicam.scores import score
from kdviz.unicam.statistics import (
    class_prototypes,
    correlation,
    distances,
    inner,
    u_centred,
    without,
)

__all__ = [
    "class_prototypes",
    "correlation",
    "distances",
    "explain",
    "inner",
    "score",
    "u_centred",
    "without",
]
