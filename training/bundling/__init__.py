"""From a trained checkpoint to a bundle: export, quantize, what each step lost, card, task file."""

from .card import RunFacts
from .loss_table import loss_table
from .making import check_precision, make_bundle
from .task_file import TASK_FILE, write_task

__all__ = ["TASK_FILE", "RunFacts", "check_precision", "loss_table", "make_bundle", "write_task"]
