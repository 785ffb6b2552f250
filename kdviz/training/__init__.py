"""Small, resumable training loops for teacher, student and baseline that save the epochs to measure.

`Recorder` saves them in anybody else's loop; ``training.lightning`` and ``training.transformers`` make
callbacks of it.
"""

from kdviz.training.distances import weight_distance
from kdviz.training.plans import PLANS, TrainingPlan
from kdviz.training.probing import probe_accuracy
from kdviz.training.recording import Recorder
from kdviz.training.records import TrainingRecord
from kdviz.training.stages import CrossEntropy, evaluate, train

__all__ = [
    "PLANS",
    "CrossEntropy",
    "Recorder",
    "TrainingPlan",
    "TrainingRecord",
    "evaluate",
    "probe_accuracy",
    "train",
    "weight_distance",
]
