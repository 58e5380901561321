"""The Inception network: where its weights are sought, what is said when they are missing, and the path with random ones."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as peer

from ctdiff.metrics import MissingWeights, Moments, frechet_distance, inception, inception_v3, kernel_distance
from ctdiff.metrics.inception_v3 import INCEPTION_FILES, INCEPTION_HASH, INCEPTION_URL, VARIABLE, find_inception


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the right shape, under another hash than the literature's."""

    class Shapes(peer.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state_dict: object) -> None:
            """Keep what the constructor drew."""

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: {})
        torch.manual_seed(0)
        with torch.device("meta"):
            shapes = Shapes("inception-v3-compat", ["2048"]).state_dict()
        weights = {name: torch.ones(x.shape, dtype=x.dtype) for name, x in shapes.items()}
        for name, x in weights.items():
            if x.ndim > 1:
                weights[name] = torch.randn(x.shape) * math.sqrt(2 / x[0].numel())
            elif name.endswith(("bias", "running_mean")):
                weights[name] = torch.zeros(x.shape)
    torch.save(weights, path)
    return path


def short(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


@pytest.mark.parametrize("download", [False, True])
def test_offline_without_weights_the_error_says_what_to_do(download: bool, hub: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        inception(download=download)
    for words in (*INCEPTION_FILES, INCEPTION_URL, INCEPTION_HASH, VARIABLE, str(hub), "download=True"):
        assert words in str(caught.value)
    assert ("could not be downloaded" in str(caught.value)) == download
    assert not hub.exists() or not list(hub.iterdir())


def test_weights_are_sought_in_three_places(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.mkdir(parents=True)
    places = [tmp_path / "argument.pth", tmp_path / "variable.pth", hub / INCEPTION_FILES[1], hub / INCEPTION_FILES[0]]
    for path in places:
        path.write_bytes(b"the same bytes")
    digest = short(places[0])
    assert find_inception(expected_hash=digest) == places[3]
    places[3].unlink()
    assert find_inception(expected_hash=digest) == places[2]
    monkeypatch.setenv(VARIABLE, str(places[1]))
    assert find_inception(expected_hash=digest) == places[1]
    assert find_inception(places[0], expected_hash=digest) == places[0]
    places[1].unlink()
    with pytest.raises(MissingWeights, match=r"not in .*variable\.pth"):  # a wrong name is not passed over in silence
        find_inception(download=True, expected_hash=digest)


def test_another_file_is_refused(random_weights: Path) -> None:
    with pytest.raises(ValueError, match=f"SHA-256 {short(random_weights)}..., expected {INCEPTION_HASH}"):
        inception(random_weights)


def test_downloads_are_verified(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "served.pth"
    source.write_bytes(b"weights")
    asked = []
    monkeypatch.setattr(inception_v3, "fetch", lambda url: asked.append(url) or source.read_bytes())
    with pytest.raises(MissingWeights, match=f"SHA-256 {short(source)}..., expected {INCEPTION_HASH}"):
        find_inception(download=True)
    assert list(hub.iterdir()) == []
    found = find_inception(download=True, expected_hash=short(source))
    assert found.read_bytes() == b"weights"
    assert set(asked) == {INCEPTION_URL}
    assert [path.name for path in hub.iterdir()] == [INCEPTION_FILES[0]]


def test_the_path_runs_with_random_weights(random_weights: Path) -> None:
    digest = short(random_weights)
    extractor = inception(random_weights, expected_hash=digest)
    assert extractor.metric("FID") == f"FID-inception-{digest}"
    assert extractor.describe() == {"name": "inception", "hash": digest, "preprocessing": "colour_levels", "width": 2048}
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    images[2:] //= 4
    found = extractor.features(images)
    assert found.logits is not None
    assert found.spatial is not None
    assert (found.pooled.shape, found.logits.shape, found.spatial.shape) == ((4, 2048), (4, 1008), (4, 7 * 17 * 17))
    assert found.pooled.std(0).mean() > 0
    assert math.isfinite(kernel_distance(found.pooled[:2], found.pooled[2:]))
    # Of some features: the eigenvalues of 2048 x 2048 matrices would take most of the time of this test.
    one, other = (Moments.of(part).statistics(extractor.label) for part in found.pooled[:, :256].split(2))
    assert one.extractor == f"inception-{digest}"
    assert frechet_distance(one, other) > 0
    weights = torch.load(random_weights, weights_only=True)
    torch.testing.assert_close(found.logits, found.pooled @ weights["fc.weight"].T, rtol=1e-4, atol=1e-4)
    grey = extractor.features(images[:1, :1])
    torch.testing.assert_close(grey.pooled, extractor.features(images[:1, :1].expand(1, 3, 32, 32)).pooled)
    with pytest.raises(ValueError, match="2 channels, expected 1 or 3"):
        extractor.features(images[:, :2])


def test_plain_fid_is_of_the_literature_alone(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_v3, "INCEPTION_HASH", short(random_weights))
    assert inception(random_weights, expected_hash=short(random_weights)).metric("FID") == "FID"


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content, message in [({"a": torch.zeros(1)}, "does not contain the weights"), ([1], "contains a list")]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            inception(path, expected_hash=short(path))
    torch.save({"a": Path("x")}, path)  # what only a pickle that executes code could make
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        inception(path, expected_hash=short(path))
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        inception(path, expected_hash=short(path))


def test_without_the_extra_the_error_names_it(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match=r"ctdiff\[evaluation\]"):
        inception(random_weights, expected_hash=short(random_weights))
