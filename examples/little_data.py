"""Which network survives little data? U-Net against DiT at equal parameters and at equal compute, trained on few images.

    python examples/little_data.py --config.data.download                      # Fashion-MNIST
    python examples/little_data.py --steps=200 --config.data.name=embedded_mnist

Equal parameters: both make the same number of steps. Equal compute: DiT makes as many more as its evaluation has fewer
multiply-accumulates. Samples are held against all training images, except `nearer`: the share nearer to one of the few images
that were trained on than to one of equally many held-out ones, 0.5 for new images. Brackets: 95 % for chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ctdiff import build, cost, evaluation, load_run, train
from ctdiff import config as configuration

METRICS = ("FID", "KID", "precision", "recall", "coverage")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, sample and measure; arguments `--config.section.key=value` go to all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps of the U-Net")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 0], help="training images; 0 is all")
    parser.add_argument("--num_samples", type=int, default=1000, help="samples to measure")
    parser.add_argument("--out", type=Path, default=Path("runs/little_data"), help="where the runs go")
    given, overrides = parser.parse_known_args(argv)
    config, extractor = configuration.load("fashion_unet"), evaluation.mnist_cnn()
    configuration.override(config, overrides)
    splits, share, price = build.build_data(config), config.data.fraction, {}
    held_out = splits.test.select(torch.arange(min(200, len(splits.test))))
    everything = evaluation.Reference(extractor, splits.train, splits.test)
    for config.model.name in ("unet", "dit"):
        price[config.model.name] = 3e-12 * config.training.batch_size * cost.estimate(config).multiply_accumulates
    plan = (("unet", given.steps), ("dit", given.steps), ("dit", round(given.steps * price["unet"] / price["dit"])))
    print(f"| images | network | steps | 10^12 MACs | {' | '.join(METRICS)} | nearer | bits/dim |\n|{11 * '---|'}")
    for count in given.images:
        for name, steps in plan:
            folder = given.out / f"{name}_{count or 'all'}_{steps}"
            config.model.name, config.training.steps = name, steps
            config.data.fraction = share * count / len(splits.train) if count else share
            train(config, folder)
            run, few = load_run(folder), build.build_data(config)
            images = evaluation.draw(run, run.sampler(), list(range(given.num_samples)), progress=True).images
            rows = everything.measure(images)
            nearer = evaluation.Reference(extractor, few.train, few.test).memorisation(images)["nearer-to-train"]
            bits = evaluation.likelihood(evaluation.run_bits_per_dim(run, held_out, few.train))
            cells = [evaluation.with_interval(row.as_dict()) for row in (*(rows[key] for key in METRICS), nearer, bits)]
            print(f"| {len(few.train)} | {name} | {steps} | {steps * price[name]:.3g} | {' | '.join(cells)} |")
    floor = everything.floor(given.num_samples)
    print(f"| held-out | | | | {' | '.join(f'{floor[key].value:.3f}' for key in (*METRICS, 'nearer-to-train'))} | |")


if __name__ == "__main__":
    main()
