"""Train a preset and save the run in a folder, as `ctdiff train` does.

    python examples/train_mnist.py
    python examples/train_mnist.py --config=mnist_ddpm --workdir=runs/mnist_ddpm
    python examples/train_mnist.py --workdir=runs/short --config.training.steps=500

`make mnist` runs the first command. If a run was stopped, the same command continues it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ctdiff import config as configuration
from ctdiff import train
from ctdiff.memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> None:
    """Train the preset. Each argument `--config.section.key=value` changes one key of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist", help="a preset, or the path of a .py file")
    parser.add_argument("--workdir", type=Path, help="the run's folder; by default runs/CONFIG")
    parser.add_argument("--fresh", action="store_true", help="delete the run in the folder and start a new one")
    arguments, overrides = parser.parse_known_args(argv)

    config = configuration.load(arguments.config, overrides)
    workdir = arguments.workdir or Path("runs") / Path(arguments.config).stem
    outcome = train(config, workdir, fresh=arguments.fresh, say=print)
    print(f"{outcome.step} steps are done, the pictures are in {workdir / 'samples'}")


if __name__ == "__main__":
    keep_freed_memory()  # as `ctdiff train` does: faster, but the process keeps freed memory until it ends
    main()
