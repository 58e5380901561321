"""Train the weights of `mnist-cnn`: `python -m ctdiff.metrics.train_mnist_cnn [FILE]`.

The data are the 8,000 embedded training digits, each shifted, turned and scaled a little at random. The optimiser is AdamW
with a one-cycle learning rate. The result is the moving average of the weights, with batch statistics measured at the end. The
2,000 held-out digits are used once, at the end. It takes a few minutes on one core.

The seed fixes all random draws, so the same machine computes the same weights. Another machine rounds differently and computes
other weights with another hash. So the weights are part of the package.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import update_bn

from ctdiff.data import ImageData, embedded_mnist
from ctdiff.files import write_atomically
from ctdiff.hashes import bytes_hash
from ctdiff.metrics.digits import DigitClassifier
from ctdiff.metrics.features import GreyImages
from ctdiff.training import MovingAverage

__all__ = ["accuracy", "augmented", "main", "train_classifier"]

SEED = 0
EPOCHS = 20
BATCH = 100
RATE = 4e-3  # the peak of the cycle
TURN, SCALE, SHIFT = math.radians(12), 0.1, 2.5 / 14  # half ranges; the image's half width is 1


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale and shift every image a little at random: (B, 1, H, W) -> (B, 1, H, W)."""
    turn, scale, right, down = (2 * torch.rand(4, len(x), generator=generator) - 1).unbind(0)
    turn, scale = TURN * turn, 1 + SCALE * scale
    rows = [scale * turn.cos(), -scale * turn.sin(), SHIFT * right, scale * turn.sin(), scale * turn.cos(), SHIFT * down]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _batches(data: ImageData, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented images in [0, 1] and labels."""
    assert data.labels is not None
    prepare = GreyImages(*data.shape[1:])
    for places in torch.randperm(len(data), generator=generator).split(BATCH):
        yield augmented(prepare(data.images[places]), generator), data.labels[places]


@torch.no_grad()
def accuracy(network: DigitClassifier, data: ImageData) -> float:
    """Return the fraction of images whose most probable class is their label."""
    assert data.labels is not None
    prepare = GreyImages(*data.shape[1:])
    logits = torch.cat([network(prepare(part)).logits for part in data.images.split(500)])
    return float((logits.argmax(1) == data.labels).double().mean())


def train_classifier(data: ImageData, epochs: int = EPOCHS, seed: int = SEED) -> DigitClassifier:
    """Train a classifier. Return the network with averaged weights, in evaluation mode.

    Arguments:
        data: images (N, 1, 28, 28) with labels 0 .. 9.
        epochs: the number of passes over the images.
        seed: the seed of initialisation, order, augmentation and dropout; torch's default generator does not change.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitClassifier()
        steps = epochs * -(-len(data) // BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        average = MovingAverage(network, decay=0.995)
        for epoch in range(epochs):
            for x, y in _batches(data, generator):
                optimizer.zero_grad(set_to_none=True)
                loss = F.cross_entropy(network(x).logits, y)
                loss.backward()
                optimizer.step()
                rates.step()
                average.update()
            logging.info("epoch %d of %d: last loss %.4f", epoch + 1, epochs, loss.item())
        averaged = average.module
        assert isinstance(averaged, DigitClassifier)
        with torch.no_grad():
            update_bn(((x, y) for _ in range(3) for x, y in _batches(data, generator)), averaged)
    return averaged.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Train on the embedded digits, write the weights, and log the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("mnist_cnn.safetensors"), help="where the weights go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    digits = embedded_mnist()
    network = train_classifier(digits.train, arguments.epochs)
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    write_atomically(arguments.file, content)
    logging.info("held-out accuracy %.4f", accuracy(network, digits.test))
    logging.info("%s: %d bytes, hash %s", arguments.file, len(content), bytes_hash(content)[:8])


if __name__ == "__main__":
    main()
