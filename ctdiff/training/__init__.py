"""Training: the loop as a generator, the moving average, checkpoints."""

from ctdiff.training.checkpoints import CheckpointError, complete_checkpoints, load_weights, write_checkpoint
from ctdiff.training.ema import MovingAverage
from ctdiff.training.fit import Batch, BatchSequence, TrainStep, fit
from ctdiff.training.interrupts import StopRequest
from ctdiff.training.learning_rates import ConstantFactor, CosineFactor, parameter_groups
from ctdiff.training.metrics import MetricsFile
from ctdiff.training.state import TrainingState

__all__ = [
    "Batch",
    "BatchSequence",
    "CheckpointError",
    "ConstantFactor",
    "CosineFactor",
    "MetricsFile",
    "MovingAverage",
    "StopRequest",
    "TrainStep",
    "TrainingState",
    "complete_checkpoints",
    "fit",
    "load_weights",
    "parameter_groups",
    "write_checkpoint",
]
