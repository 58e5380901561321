"""Training: the training loop, optimisers, learning-rate schedules, the moving average and checkpoints."""

from ctdiff.training.checkpoints import CheckpointError, complete_checkpoints, load_weights, write_checkpoint
from ctdiff.training.ema import MovingAverage
from ctdiff.training.fit import Batch, BatchSequence, TrainStep, fit
from ctdiff.training.interrupts import StopRequest
from ctdiff.training.learning_rates import ConstantFactor, CosineFactor, LearningRateFactor
from ctdiff.training.metrics import MetricsFile
from ctdiff.training.muon import Muon
from ctdiff.training.optimizers import SGD, Adam, AdamW, Optimizer, parameter_groups
from ctdiff.training.state import TrainingState

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Batch",
    "BatchSequence",
    "CheckpointError",
    "ConstantFactor",
    "CosineFactor",
    "LearningRateFactor",
    "MetricsFile",
    "MovingAverage",
    "Muon",
    "Optimizer",
    "StopRequest",
    "TrainStep",
    "TrainingState",
    "complete_checkpoints",
    "fit",
    "load_weights",
    "parameter_groups",
    "write_checkpoint",
]
