"""ctdiff: train discrete and continuous diffusion models, keep their runs, sample from them.

    from ctdiff import load_run

    run = load_run("runs/mnist")  # or pretrained(NAME); the command `ctdiff models` lists the names
    digits = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))

The command line calls the same functions. `train` is a loop around `fit`, and `ctdiff.recipe` makes the objects of a
configuration.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctdiff.cost import Summary, summary
    from ctdiff.runs import Run, load_run, pretrained
    from ctdiff.sampling import sample_run
    from ctdiff.trainer import train
    from ctdiff.training import MovingAverage, TrainStep, fit

__all__ = [
    "MovingAverage",
    "Run",
    "Summary",
    "TrainStep",
    "fit",
    "load_run",
    "pretrained",
    "sample_run",
    "summary",
    "train",
]

# Imported on first use, so that `import ctdiff` does not load torch. The command sets variables before it loads torch.
_HOMES = {
    "MovingAverage": "ctdiff.training",
    "Run": "ctdiff.runs",
    "Summary": "ctdiff.cost",
    "TrainStep": "ctdiff.training",
    "fit": "ctdiff.training",
    "load_run": "ctdiff.runs",
    "pretrained": "ctdiff.runs",
    "sample_run": "ctdiff.sampling",
    "summary": "ctdiff.cost",
    "train": "ctdiff.trainer",
}


def _check_neighbours() -> None:
    """Check that no package of another project hides a package of ctdiff.

    Raises:
        ImportError: Python finds another package of the same name. The message names both folders.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("backbones", "continuous_diffusion", "diffusion_core", "discrete_diffusion"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None
        if found != home / name and (home / name).is_dir():
            where = "finds no such package" if found is None else f"finds {found}, which hides it"
            raise ImportError(
                f"the package {name} of ctdiff is in {home / name}, but Python {where}: rename that folder, or start Python "
                "from another one"
            )


_check_neighbours()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
