"""Train on your own images: an array, a folder of images, or any torch `Dataset`.

    python examples/own_data.py --data=images.npz
    python examples/own_data.py --data=photos --channels=3 --size=32 --steps=2000

Without --data, it trains on the Dataset of this file. The network and the process are those of the preset `mnist`. The samples
are saved in own_data.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ctdiff import MovingAverage, data, figures, fit, recipe
from ctdiff import config as configuration


class Discs(Dataset[torch.Tensor]):
    """White discs on black: item i is a uint8 image (H, W). A Dataset of pairs (image, label) also works."""

    def __len__(self) -> int:
        return 500

    def __getitem__(self, i: int) -> torch.Tensor:
        row, column, radius = torch.rand(3, generator=torch.Generator().manual_seed(i)) * 4 + torch.tensor([6, 6, 2])
        distance = torch.hypot(torch.arange(16)[:, None] - row, torch.arange(16) - column)
        return torch.where(distance < radius, 255, 0).byte()


def main(argv: Sequence[str] | None = None) -> None:
    """Train and draw 16 images; arguments `--config.section.key=value` change the preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    for name, default in {"channels": 1, "size": 16, "steps": 500}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given, overrides = parser.parse_known_args(argv)
    if (path := given.data) is None:
        splits = data.from_dataset(Discs())
    else:
        splits = data.image_folder(path, given.channels, given.size) if path.is_dir() else data.array_file(path)
    images = data.resized(splits.train, given.size)
    config = configuration.load("mnist", [*overrides, f"--config.training.steps={given.steps}"])
    config.data.update(channels=images.shape[0], image_size=images.shape[1:])
    process, network = recipe.build_process(config), recipe.build_network(config)
    ema, optimizer = MovingAverage(network, config.training.ema_decay), recipe.part(config, "optimizer")(network.parameters())
    objective = recipe.build_objective(config, recipe.build_denoiser(config, process, network))
    batches = recipe.build_batches(config, data.quantise(images, config.data.num_values))
    for step in fit(objective, batches, optimizer, steps=given.steps, ema=ema, clip=1.0):
        print(step.step, round(step.loss, 3))
    x_0 = recipe.build_sampler(config, recipe.build_denoiser(config, process, ema.module)).sample(16, seeds=range(16))
    figures.save_grid("own_data.png", x_0, config.data.num_values)


if __name__ == "__main__":
    main()
