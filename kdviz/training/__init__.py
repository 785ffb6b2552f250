"""Small, resumable training loops for teacher, student and baseline that save the epochs to measure."""

from kdviz.training.distances import weight_distance
from kdviz.training.plans import FASHION_PLANS, FURNITURE_PLANS, REVIEW_PLANS, TrainingPlan
from kdviz.training.probing import accuracy_array, probe_accuracy
from kdviz.training.records import TrainingRecord
from kdviz.training.stages import distil, evaluate, train_classifier, train_head

__all__ = [
    "FASHION_PLANS",
    "FURNITURE_PLANS",
    "REVIEW_PLANS",
    "TrainingPlan",
    "TrainingRecord",
    "accuracy_array",
    "distil",
    "evaluate",
    "probe_accuracy",
    "train_classifier",
    "train_head",
    "weight_distance",
]
