"""Moments that are merged are the moments of everything, and files give them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ctdiff.metrics import Moments, Statistics, frechet_distance, load_statistics


def features(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator) @ torch.randn(width, width, generator=generator) + 3


def test_moments_are_those_of_numpy() -> None:
    x = features(57, 5)
    found = Moments.of(x).statistics("net-1")
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-12)
    assert (found.count, found.extractor) == (57, "net-1")


@pytest.mark.parametrize("sizes", [(57,), (1,) * 57, (50, 7), (1, 20, 36)])
def test_streams_and_ranks_merge_to_the_whole(sizes: tuple[int, ...]) -> None:
    x = features(57, 5)
    whole = Moments.of(x).statistics()
    streamed = Moments.of_stream(x.split(list(sizes))).statistics()
    shuffled = Moments.of(x[torch.randperm(57)]).statistics()
    for other in (streamed, shuffled):
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
    ranks = [Moments.of_stream(x[rank::3].split(4)) for rank in range(3)]
    merged = ranks[2].merge(ranks[0]).merge(ranks[1]).statistics()
    assert merged.count == 57
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_features_far_from_zero_lose_nothing() -> None:
    x = features(200, 3).double()
    near = Moments.of_stream(x.split(7)).statistics().covariance
    far = Moments.of_stream((x + 1e7).split(7)).statistics().covariance
    torch.testing.assert_close(far, near, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_statistics_are_read_as_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    written = Moments.of(features(40, 6)).statistics("mnist-cnn-1a2b3c4d")
    written.save(path)
    found = load_statistics(path)
    assert torch.equal(found.mean, written.mean)
    assert torch.equal(found.covariance, written.covariance)
    assert (found.count, found.extractor) == (40, "mnist-cnn-1a2b3c4d")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_statistics_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fid_stats.npz"
    np.savez(path, mu=np.zeros(3, np.float32), sigma=np.eye(3))
    found = load_statistics(path)
    assert (found.count, found.extractor) == (None, "")
    labelled = Moments.of(features(40, 3)).statistics("mnist-cnn-1a2b3c4d")
    assert frechet_distance(found, labelled) > 1


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    Moments.of(features(40, 6)).statistics().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"train{suffix} has no statistics"):
        load_statistics(path)
    with pytest.raises(FileNotFoundError):
        load_statistics(tmp_path / f"absent{suffix}")


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match="has no statistics"):
        load_statistics(path)
    np.savez(path, mu=np.array([print], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match="has no statistics"):
        load_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(ValueError, match="has no statistics"):
        load_statistics(path)
    for path in (tmp_path / "statistics.pt", tmp_path / "statistics.json"):
        with pytest.raises(ValueError, match=r"expected \.npz or \.safetensors"):
            load_statistics(path)
        with pytest.raises(ValueError, match=r"expected \.npz or \.safetensors"):
            Moments.of(features(4, 2)).statistics().save(path)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        Moments.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="2 features an image, expected 3"):
        Moments.of(torch.zeros(2, 3)).merge(Moments.of(torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="1 example has no covariance"):
        Moments.of(torch.zeros(1, 3)).statistics()
    with pytest.raises(ValueError, match="float32"):
        Statistics(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(torch.tensor([[1.0], [torch.inf]])).statistics()
