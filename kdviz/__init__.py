"""See what knowledge distillation changed: knowledge points of teacher, student and baseline."""

__version__ = "0.1.0"
