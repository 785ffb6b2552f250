"""Small, resumable training loops for teacher, student and baseline that save the epochs to measure."""

from kdviz.training.plans import FASHION_PLANS, PAPER_CHECKPOINTS, TrainingPlan
from kdviz.training.records import TrainingRecord, weight_distance
from kdviz.training.stages import distil_features, evaluate, train_classifier, train_head

__all__ = [
    "FASHION_PLANS",
    "PAPER_CHECKPOINTS",
    "TrainingPlan",
    "TrainingRecord",
    "distil_features",
    "evaluate",
    "train_classifier",
    "train_head",
    "weight_distance",
]
