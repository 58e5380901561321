"""Extractors: the committed classifier is what it says, names carry hashes, inputs are checked, batches do not matter."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ctdiff.data import ImageData, Splits, embedded_mnist
from ctdiff.hashes import weights_hash
from ctdiff.metrics import Extractor, Features, GreyImages, grey_levels, mnist_cnn, module_extractor
from ctdiff.metrics import train_mnist_cnn as training
from ctdiff.metrics.digits import DigitClassifier

WEIGHTS = Path(str(resources.files("ctdiff.metrics"))) / "weights" / "mnist_cnn.safetensors"


@pytest.fixture(scope="module")
def digits() -> Splits:
    return embedded_mnist()


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return mnist_cnn()


def test_the_committed_classifier_reads_held_out_digits(digits: Splits, extractor: Extractor) -> None:
    logits, labels = extractor.features(digits.test.images).logits, digits.test.labels
    assert logits is not None
    assert labels is not None
    assert float((logits.argmax(1) == labels).double().mean()) >= 0.985
    network = extractor.network
    assert isinstance(network, DigitClassifier)
    assert training.accuracy(network, digits.test) >= 0.985


def test_loading_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert torch.equal(mnist_cnn().network.state_dict()["body.0.0.weight"], _tensors(WEIGHTS)["body.0.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_committed_file_is_small_and_in_the_name(extractor: Extractor) -> None:
    content = WEIGHTS.read_bytes()
    assert len(content) < 300_000
    digest = hashlib.sha256(content).hexdigest()[:8]
    assert extractor.label == f"mnist-cnn-{digest}"
    assert extractor.metric("FID") == f"FID-mnist-cnn-{digest}"
    page = Path(__file__).parents[3] / "docs" / "evaluation.md"
    assert set(re.findall(r"mnist-cnn-([0-9a-f]{8})", page.read_text(encoding="utf-8"))) == {digest}, (
        "its tables are of these weights"
    )
    described = {"name": "mnist-cnn", "hash": digest, "preprocessing": "GreyImages(height=28, width=28)", "width": 64}
    assert extractor.describe() == described


def test_features_do_not_depend_on_batches_or_order(digits: Splits, extractor: Extractor) -> None:
    images = digits.test.images[:300]
    whole = extractor.features(images)
    assert [tuple(x.shape) for x in (whole.pooled, whole.logits, whole.spatial) if x is not None] == [
        (300, 64),
        (300, 10),
        (300, 343),
    ]
    parts = Features.cat(extractor.features(part) for part in images.split(77))
    order = torch.randperm(300)
    shuffled = extractor.features(images[order])
    for name in ("pooled", "logits", "spatial"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(shuffled, name), getattr(whole.select(order), name), rtol=1e-4, atol=1e-4)
    assert torch.equal(extractor.features(images).pooled, whole.pooled), "the same images in the same order: the same bits"


def test_samples_of_any_integer_dtype_and_number_of_values(digits: Splits, extractor: Extractor) -> None:
    images = digits.test.images[:20]
    assert torch.equal(extractor.features(images.long()).pooled, extractor.features(images).pooled)
    two = (images > 127).long()
    assert torch.equal(extractor.features(two, num_values=2).pooled, extractor.features(255 * two).pooled)
    assert grey_levels(torch.tensor([0, 1, 2, 3]).reshape(1, 1, 2, 2), 4).flatten().tolist() == [0, 85, 170, 255]
    assert grey_levels(torch.tensor([0, 1]).reshape(1, 1, 1, 2), 2).flatten().tolist() == [0, 255]


def test_inputs_that_are_no_images_are_refused(extractor: Extractor) -> None:
    with pytest.raises(ValueError, match=r"0 \.\. 256, expected 0 \.\. 255"):
        extractor.features(torch.tensor([0, 256]).repeat(392).reshape(1, 1, 28, 28))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        extractor.features(torch.rand(1, 1, 28, 28))
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\), expected \(B, 1, 28, 28\)"):
        extractor.features(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no images"):
        extractor.features(torch.zeros(0, 1, 28, 28, dtype=torch.uint8))


class Means(nn.Module):
    """Features of a user: the mean of each row, weighted."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.mean((1, 3))


def test_any_module_is_an_extractor() -> None:
    images = torch.randint(256, (5, 1, 6, 4), dtype=torch.uint8)
    user = module_extractor("row-means", Means(), GreyImages(6, 4), width=6)
    found = user.features(images)
    torch.testing.assert_close(found.pooled, images.float().mean((1, 3)) / 255)
    assert found.logits is None
    assert found.spatial is None
    assert user.metric("KID") == f"KID-row-means-{weights_hash(Means())}"
    assert weights_hash(Means(1.0)) == weights_hash(Means(1.0)) != weights_hash(Means(2.0))
    assert len(user.hash) == 8
    assert not user.network.training


def test_extractors_that_break_their_word_are_refused() -> None:
    images = torch.randint(256, (5, 1, 6, 4), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"row-means gave features \(5, 6\), expected \(5, 7\)"):
        module_extractor("row-means", Means(), GreyImages(6, 4), width=7).features(images)
    with pytest.raises(ValueError, match="not finite"):
        module_extractor("row-means", Means(torch.inf), GreyImages(6, 4), width=6).features(images + 1)
    with pytest.raises(ValueError, match="'row means'"):
        module_extractor("row means", Means(), GreyImages(6, 4), width=6)
    with pytest.raises(ValueError, match=r"logits has shape \(4, 2\)"):
        Features(torch.zeros(5, 3), torch.zeros(4, 2))


# How the weights are made


def few(splits: Splits) -> Splits:
    return Splits(ImageData(splits.train.images[:300], _labels(splits.train)[:300]), ImageData(*_first(splits.test, 100)))


def _labels(data: ImageData) -> Tensor:
    assert data.labels is not None
    return data.labels


def _first(data: ImageData, n: int) -> tuple[Tensor, Tensor]:
    return data.images[:n], _labels(data)[:n]


def test_training_is_fixed_by_its_seed(digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "embedded_mnist", lambda: few(digits))
    before = torch.get_rng_state()
    for name in ("one", "two"):
        training.main([str(tmp_path / name), "--epochs=2"])
    assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    written = safetensors.torch.load_file(tmp_path / "one")
    assert {name: x.shape for name, x in written.items()} == {name: x.shape for name, x in _tensors(WEIGHTS).items()}
    network = DigitClassifier().eval()
    network.load_state_dict(written)
    assert training.accuracy(network, few(digits).test) > 0.3, "two epochs of 300 digits beat chance"


def _tensors(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = safetensors.torch.load_file(path)
    return found


def test_augmentation_moves_digits_a_little(digits: Splits) -> None:
    x = digits.train.images[:64].float() / 255
    moved = training.augmented(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert torch.equal(moved, training.augmented(x, torch.Generator().manual_seed(0)))
    ink = moved.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert 0.75 < ink.min() < ink.max() < 1.35
    place = torch.arange(28.0)
    centres = [(image.sum((1, 2)) * place).sum(1) / image.sum((1, 2, 3)) for image in (x, moved)]
    assert 0.5 < (centres[1] - centres[0]).abs().mean() < 2.5
