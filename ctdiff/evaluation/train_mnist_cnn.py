"""How the weights of `mnist-cnn` were made: `python -m ctdiff.evaluation.train_mnist_cnn [FILE]`.

The 8,000 embedded training digits, shifted, turned and scaled a little at every look; AdamW under a
one-cycle learning rate; the moving average of the weights, whose batch statistics are then measured.
The 2,000 held-out digits are looked at once, at the end. A few minutes on one core.

The seed fixes every draw, so one machine repeats its own weights. Another machine's arithmetic differs
in the last digits and ends in other weights, which have another hash: that is why they are committed.
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
from ctdiff.evaluation.digits import DigitClassifier
from ctdiff.evaluation.features import GreyImages, bytes_hash
from ctdiff.training import MovingAverage

__all__ = ["accuracy", "augmented", "main", "train_classifier"]

SEED = 0
EPOCHS = 20
BATCH = 100
RATE = 4e-3  # the peak of the cycle
TURN, SCALE, SHIFT = math.radians(12), 0.1, 2.5 / 14  # half ranges; the image's half width is 1


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale and shift every image by a little: (B, 1, H, W) -> (B, 1, H, W)."""
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
    """The share of images whose most probable class is their label."""
    assert data.labels is not None
    prepare = GreyImages(*data.shape[1:])
    logits = torch.cat([network(prepare(part)).logits for part in data.images.split(500)])
    return float((logits.argmax(1) == data.labels).double().mean())


def train_classifier(data: ImageData, epochs: int = EPOCHS, seed: int = SEED) -> DigitClassifier:
    """Train a classifier, and return the average of its weights in evaluation mode.

    Arguments:
        data: images (N, 1, 28, 28) with labels 0 .. 9.
        epochs: how often every image is seen.
        seed: fixes initialisation, order, augmentation and dropout; torch's default generator is left as it was.
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
    """Train on the embedded digits, write the weights, and say how good they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path("mnist_cnn.safetensors"), help="where the weights go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    digits = embedded_mnist()
    network = train_classifier(digits.train, arguments.epochs)
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    arguments.file.write_bytes(content)
    logging.info("held-out accuracy %.4f", accuracy(network, digits.test))
    logging.info("%s: %d bytes, hash %s", arguments.file, len(content), bytes_hash(content))


if __name__ == "__main__":
    main()
