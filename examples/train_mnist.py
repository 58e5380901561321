"""Train a preset and leave its run in a folder: `ctdiff train` in a few lines of Python.

    python examples/train_mnist.py
    python examples/train_mnist.py --config=mnist_ddpm --workdir=runs/mnist_ddpm
    python examples/train_mnist.py --workdir=runs/short --config.training.steps=500

The first is what `make mnist` runs. Started again, it continues a run that was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ctdiff import config as configuration
from ctdiff import train
from ctdiff.memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> None:
    """Train; every argument `--config.section.key=value` changes a key of the preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist", help="a preset, or the path of a .py file")
    parser.add_argument("--workdir", type=Path, help="the run's folder; runs/CONFIG unless given")
    parser.add_argument("--fresh", action="store_true", help="delete the folder's run and train anew")
    arguments, overrides = parser.parse_known_args(argv)

    config = configuration.load(arguments.config)
    configuration.override(config, overrides)
    workdir = arguments.workdir or Path("runs") / Path(arguments.config).stem
    outcome = train(config, workdir, fresh=arguments.fresh, say=print)
    print(f"{outcome.step} steps are done, the pictures are in {workdir / 'samples'}")


if __name__ == "__main__":
    keep_freed_memory()  # what the command does too: faster, but memory stays with this process until it ends
    main()
