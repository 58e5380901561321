"""A plain DDPM of diffusers on the same digits, in the same time, measured in the same way.

The network is diffusers' `UNet2DModel` with 1.6 million parameters. The recipe is that of diffusers' script for unconditional
training: AdamW with learning rate 1e-4 and a warm-up of 500 steps, the mean squared error of the noise, a linear schedule of
1,000 steps, and an average of the weights with a growing decay. It trains until the processor time is used up, then samples
with DDIM, and prints FID and precision with the same extractor and the same held-out digits as `ctdiff evaluate`.

    pip install '.[benchmarks]'
    python benchmarks/plain_ddpm.py --core-seconds=390
    python benchmarks/plain_ddpm.py --core-seconds=390 --lr=1e-3       # a rate that suits a short training better
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def unet() -> nn.Module:
    """The network of diffusers for images of 32 x 32 pixels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 88),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def batches(images: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of digits in [-1, 1] with a border of two black pixels, because the network halves 32 pixels."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(size):
            yield F.pad(images[rows].float() / 127.5 - 1, (2, 2, 2, 2), value=-1)


def train(network: nn.Module, rounds: Iterator[Tensor], lr: float, core_seconds: float) -> None:
    """Train until the processor time is used up. The network then has the averaged weights."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    noise_schedule = DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr, (0.95, 0.999), weight_decay=1e-6)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)

    def gradient() -> float:
        x_0 = next(rounds)
        noise, t = torch.randn_like(x_0), torch.randint(0, 1000, (len(x_0),))
        loss = F.mse_loss(network(noise_schedule.add_noise(x_0, noise, t), t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        return loss.item()

    gradient()
    began = time.process_time()
    for _ in range(10):
        gradient()
    total = int(10 * core_seconds / (time.process_time() - began))  # the learning rate has to know where it ends
    schedule = get_cosine_schedule_with_warmup(optimizer, 500, total)
    done, began = 0, time.process_time()
    while time.process_time() - began < core_seconds:
        loss = gradient()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
        done += 1
        if done % 500 == 0:
            print(f"step {done} of about {total}, loss {loss:.4f}", flush=True)
    print(f"{done} steps in {time.process_time() - began:.0f} core-seconds", flush=True)
    ema.copy_to(network.parameters())


@torch.no_grad()
def sample(network: nn.Module, count: int, steps: int) -> Tensor:
    """Draw digits with DDIM: integers 0 .. 255 (count, 1, 28, 28)."""
    from diffusers import DDIMScheduler

    sampler = DDIMScheduler(1000)
    sampler.set_timesteps(steps)
    drawn = []
    for x in torch.randn(count, 1, 32, 32).split(100):
        for t in sampler.timesteps:
            x = sampler.step(network(x, t).sample, t, x).prev_sample
        drawn.append(((x[:, :, 2:-2, 2:-2].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(drawn)


def main() -> None:
    """Read the command line, train, sample, and print the metrics."""
    from ctdiff import config as configuration
    from ctdiff import recipe
    from ctdiff.evaluation import build_extractor
    from ctdiff.metrics import Reference

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core-seconds", type=float, default=390, help="the processor time of the training")
    parser.add_argument("--lr", type=float, default=1e-4, help="the learning rate")
    parser.add_argument("--batch", type=int, default=64, help="the batch size")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the training")
    parser.add_argument("--steps", type=int, default=50, help="the number of DDIM steps")
    parser.add_argument("--samples", type=int, default=2000, help="the number of samples that are measured")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    splits = recipe.build_data(configuration.load("mnist"))
    network = unet()
    print(f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters", flush=True)
    train(network, batches(splits.train.images, given.batch, given.seed), given.lr, given.core_seconds)
    reference = Reference(build_extractor("mnist-cnn"), splits.train, splits.test)
    for name, row in reference.measure(sample(network, given.samples, given.steps)).items():
        if name in ("FID", "precision", "coverage"):
            print(f"{name} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]")


if __name__ == "__main__":
    main()
