"""What a study is made of, by kind of input: samples, what networks are fed, networks and their training.

Modules: ``base`` (what a study asks for), ``images``, ``texts``, ``clouds``. A new kind of input is one more
module here and one more line below.
"""

from typing import TYPE_CHECKING, Any

from kdviz.studies.materials.base import Material, Prepared, SampleSet, describe_samples
from kdviz.studies.materials.clouds import Clouds
from kdviz.studies.materials.images import Images
from kdviz.studies.materials.texts import Texts

if TYPE_CHECKING:
    from kdviz.studies.plans import StudyPlan

__all__ = ["Material", "Prepared", "SampleSet", "describe_samples", "find_material"]

_MATERIALS: dict[str, type[Material[Any]]] = {"image": Images, "text": Texts, "cloud": Clouds}


def find_material(plan: "StudyPlan") -> Material[Any]:
    """Give the material of a study's kind of input."""
    return _MATERIALS[plan.modality](plan)
