"""Models with a card: share a run as a model, copy a model, compute the numbers of its card again, and describe all models.

    push_run("runs/mnist", "mnist-mine", mnist_cnn(), ...)   rounds the weights, measures them and writes the folder of a model
    pull_model("hub:user/name")                              checks a model and copies it
    verify_model("mnist-mine", None)                         computes the numbers of the card again

The models of the package are folders beside this file. `ctdiff.model_folder` reads them, and `ctdiff.pretrained` loads them.
"""

from ctdiff.models.listing import listed_models, with_models
from ctdiff.models.measuring import Measurer, Setting
from ctdiff.models.pull import pull_model
from ctdiff.models.push import push_run
from ctdiff.models.verify import Check, Verification, verification_table, verify_model

__all__ = [
    "Check",
    "Measurer",
    "Setting",
    "Verification",
    "listed_models",
    "pull_model",
    "push_run",
    "verification_table",
    "verify_model",
    "with_models",
]
