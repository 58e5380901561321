"""The classifier of digits that makes the features of `mnist-cnn`.

Inception-v3 was trained on colour photographs. Features of digits are better from a network that was trained on digits. This
network is small (57 thousand parameters), so its weights are part of the package. It was trained on the 8,000 embedded
training digits by `python -m ctdiff.metrics.train_mnist_cnn`. With other weights, a metric can change by a factor of two. So
everyone uses these weights, and their hash is part of every metric's name.

    x (1, 28, 28) -> 3 convolutional levels -> spatial (48, 7, 7) -> features (64,) -> logits (10,)
"""

from __future__ import annotations

from importlib import resources

import safetensors.torch
import torch
from torch import Tensor, nn

from ctdiff.hashes import bytes_hash
from ctdiff.metrics.features import Extractor, Features, GreyImages

__all__ = ["DigitClassifier", "mnist_cnn"]

WEIGHTS = resources.files("ctdiff.metrics") / "weights" / "mnist_cnn.safetensors"
_SPATIAL_CHANNELS = 7  # the number of channels that sFID uses of Inception


def _convolution(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


class DigitClassifier(nn.Module):
    """A small convolutional classifier of 28 x 28 grey images in 10 classes.

    Its features are the normalised input of the last nonlinearity. On digits, their mean is about 0 and their variance is
    about 1. The Frechet distance assumes normal distributions. These features are closer to a normal distribution than
    features after a ReLU.
    """

    width = 64
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(1, 16, 5),
            nn.MaxPool2d(2),  # (B, 16, 14, 14)
            _convolution(16, 32),
            _convolution(32, 32),
            nn.MaxPool2d(2),  # (B, 32, 7, 7)
            _convolution(32, 48),
        )
        self.project = nn.Sequential(
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48 * 3 * 3, self.width), nn.BatchNorm1d(self.width)
        )
        self.classify = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(self.width, self.num_classes))

    def forward(self, x: Tensor) -> Features:
        """Compute features and logits of images (B, 1, 28, 28) with values in [0, 1]."""
        spatial = self.body(x)  # (B, 48, 7, 7)
        pooled = self.project(spatial)
        return Features(pooled, self.classify(pooled), spatial[:, :_SPATIAL_CHANNELS].flatten(1))


def mnist_cnn(device: str | torch.device = "cpu") -> Extractor:
    """Make the extractor `mnist-cnn`: 64 features, 10 classes and 343 spatial features of grey images of 28 x 28.

    Arguments:
        device: the device of the network.

    Raises:
        FileNotFoundError: the weights are missing from the installation.
    """
    content = WEIGHTS.read_bytes()
    with torch.device("meta"):  # without drawing random weights
        network = DigitClassifier()
    network.load_state_dict(safetensors.torch.load(content), assign=True)
    return Extractor("mnist-cnn", bytes_hash(content)[:8], network.to(device), GreyImages(28, 28), DigitClassifier.width)
