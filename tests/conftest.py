"""What every test starts from: fixed seeds, one thread, no network."""

from __future__ import annotations

import functools
import gc
import itertools
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import settings

from discrete_diffusion.rates import dense

ROOT = Path(__file__).resolve().parents[1]

matplotlib.use("Agg")
# The tensors of tests are small: a second thread would cost more in waiting than it does in work.
torch.set_num_threads(1)
settings.register_profile("ctdiff", deadline=None, derandomize=True, database=None)
settings.load_profile("ctdiff")


def pytest_collection_finish() -> None:
    """Collect garbage less often, and never search what was imported and collected before: it takes 5 % of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


_COUNTER = itertools.count()
_ACCELERATOR = torch.accelerator.is_available()


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what a library draws from the legacy generator is seeded too
    if _ACCELERATOR:
        torch.manual_seed(0)
    else:  # torch.manual_seed formats the stack of calls for each kind of absent device, which takes milliseconds
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a test keeps for the next start is not the user's, nor another test's."""
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # but for the list of fonts, which takes seconds to make
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{next(_COUNTER)}"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are offline: a connection to another machine fails, whether or not there is a network."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests are offline, {address} is another machine")
        connect(self, address)

    def no_names(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (None, "", "localhost", "127.0.0.1", "::1", b"localhost"):
            return resolve(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, f"tests are offline, {host!r} is another machine")

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)


def _shared(cls: type) -> Callable[[np.ndarray, np.ndarray], Any]:
    """The constructor of a class of tables, which returns one object for equal rates; the least recently used are dropped."""

    @functools.lru_cache(maxsize=3)
    def make(size: int, generator: bytes, stationary: bytes) -> Any:
        made = cls(np.frombuffer(generator).reshape(size, size).copy(), np.frombuffer(stationary).copy())
        if hasattr(made, "find_range"):
            made.find_range = functools.cache(made.find_range)
        return made

    return lambda generator, stationary: make(len(generator), generator.tobytes(), stationary.tobytes())


@pytest.fixture(scope="session")
def _tables() -> dict[str, Callable[[np.ndarray, np.ndarray], Any]]:
    return {name: _shared(getattr(dense, name)) for name in ("TransitionMatrices", "JumpSampler")}


@pytest.fixture
def shared_tables(_tables: dict[str, Any]) -> Iterator[None]:
    """Processes of equal rates take the tables of the first, as copies of a process do.

    For tests of what is above the engines: a run is built anew by each command, and tables of 256 values take longer than
    two steps of training. What a table contains is tested with the engines.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, make in _tables.items():
            patch.setattr(dense, name, make)
        yield


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """The files of the project: those git knows or would add; without git, all but hidden and built ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if (ROOT / ".git").exists():
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})
    skipped = {"build", "comparison", "dist", "runs", "__pycache__", "venv"}
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return sorted(
        path
        for path in found
        if not any(
            part in skipped or part.startswith(".") or part.endswith(".egg-info") for part in path.relative_to(ROOT).parts
        )
    )
