"""ctdiff: train discrete and continuous diffusion models, keep their runs, sample from them.

    from ctdiff import load_run

    run = load_run("runs/mnist")
    digits = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))

What the command line does is a few lines of Python too: `train` is a loop around `fit`, and
`ctdiff.build` makes the parts from a configuration.
"""

from ctdiff.cost import Summary, summary
from ctdiff.runs import Run, load_run
from ctdiff.sampling import sample_run
from ctdiff.training import MovingAverage, TrainStep, fit
from ctdiff.training.trainer import train

__all__ = ["MovingAverage", "Run", "Summary", "TrainStep", "fit", "load_run", "sample_run", "summary", "train"]
