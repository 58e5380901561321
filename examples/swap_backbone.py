"""Train the same configuration with four backbones of equal size and put their samples in one picture.

    python examples/swap_backbone.py
    python examples/swap_backbone.py --steps=500 --config=mnist_absorbing --config.training.batch_size=32

Another backbone is one key, `model.name`; its own arguments are in the section of that name. On two
cores 500 steps of each take several minutes; the picture says what was learnt in equal steps, not in equal time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ctdiff import config as configuration
from ctdiff import figures, load_run, train

BACKBONES = ("unet", "uvit", "dit", "diffit")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, load, sample, once for each backbone; arguments `--config.section.key=value` go to all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist_unet", help="a preset, or the path of a .py file")
    parser.add_argument("--steps", type=int, default=500, help="training steps of each")
    parser.add_argument("--num_samples", type=int, default=36)
    parser.add_argument("--out", type=Path, default=Path("runs/swap_backbone"), help="the folder of all runs and the picture")
    arguments, overrides = parser.parse_known_args(argv)

    sheets = []
    for name in BACKBONES:
        config = configuration.load(arguments.config)
        flags = [f"--config.training.steps={arguments.steps}", f"--config.model.name={name}"]
        configuration.override(config, [*overrides, *flags])
        train(config, arguments.out / name, say=print)
        run = load_run(arguments.out / name)
        x_0 = run.sampler().sample(arguments.num_samples, seeds=range(arguments.num_samples))
        sheets.append(figures.tile(figures.to_pixels(run.images(x_0), config.data.num_values), columns=6))
    figures.save_table(arguments.out / "backbones.png", [sheets], [f"{arguments.steps} steps"], BACKBONES)
    print(arguments.out / "backbones.png")


if __name__ == "__main__":
    main()
