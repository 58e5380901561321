"""Train the same configuration with five backbones of equal size and put their samples in one picture.

    python examples/swap_backbone.py
    python examples/swap_backbone.py --steps=500 --config=mnist_absorbing --config.training.batch_size=32

The key `model.name` chooses the backbone, and the section `model.NAME` has its arguments. On two cores, 500 steps with all of
them take ten to twenty minutes. The picture compares the backbones after equal numbers of steps, not after equal times.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ctdiff import config as configuration
from ctdiff import figures, load_run, train

BACKBONES = ("unet", "uvit", "dit", "diffit", "ssm")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, load and sample with each backbone; arguments `--config.section.key=value` apply to all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mnist_unet", help="a preset, or the path of a .py file")
    parser.add_argument("--steps", type=int, default=500, help="training steps for each backbone")
    parser.add_argument("--num_samples", type=int, default=36)
    parser.add_argument("--out", type=Path, default=Path("runs/swap_backbone"), help="the folder of the runs and the picture")
    arguments, overrides = parser.parse_known_args(argv)

    configs, sheets = {name: configuration.load(arguments.config) for name in BACKBONES}, []
    own = [[f"--config.model.name={name}", f"--config.training.steps={arguments.steps}"] for name in configs]
    configuration.override_each(configs.values(), overrides, own)
    for name, config in configs.items():
        train(config, arguments.out / name, say=print)
        run = load_run(arguments.out / name)
        x_0 = run.sampler().sample(arguments.num_samples, seeds=range(arguments.num_samples))
        sheets.append(figures.tile(figures.to_pixels(run.images(x_0), config.data.num_values), columns=6))
    figures.save_table(arguments.out / "backbones.png", [sheets], [f"{arguments.steps} steps"], BACKBONES)
    print(arguments.out / "backbones.png")


if __name__ == "__main__":
    main()
