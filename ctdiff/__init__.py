"""ctdiff: train discrete and continuous diffusion models, keep their runs, sample from them.

    from ctdiff import load_run

    run = load_run("runs/mnist")
    digits = run.images(run.sampler(steps=100).sample(16, seeds=range(16)))

What the command line does is a few lines of Python too: `train` is a loop around `fit`, and
`ctdiff.recipe` makes the parts from a configuration.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctdiff.cost import Summary, summary
    from ctdiff.runs import Run, load_run
    from ctdiff.sampling import sample_run
    from ctdiff.trainer import train
    from ctdiff.training import MovingAverage, TrainStep, fit

__all__ = ["MovingAverage", "Run", "Summary", "TrainStep", "fit", "load_run", "sample_run", "summary", "train"]

# Imported when they are asked for: the command sets what torch reads when it is loaded, and importing `ctdiff` comes first.
_HOMES = {
    "MovingAverage": "ctdiff.training",
    "Run": "ctdiff.runs",
    "Summary": "ctdiff.cost",
    "TrainStep": "ctdiff.training",
    "fit": "ctdiff.training",
    "load_run": "ctdiff.runs",
    "sample_run": "ctdiff.sampling",
    "summary": "ctdiff.cost",
    "train": "ctdiff.trainer",
}


def _check_neighbours() -> None:
    """Refuse a package of another project that hides one of ours.

    Raises:
        ImportError: naming both folders.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("backbones", "continuous_diffusion", "diffusion_core", "discrete_diffusion"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None
        if found != home / name and (home / name).is_dir():
            where = "nowhere on the path" if found is None else f"found in {found}, which hides it"
            raise ImportError(
                f"the package {name} of ctdiff is in {home / name}, but it is {where}: rename that folder, or start Python "
                "from another one"
            )


_check_neighbours()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
