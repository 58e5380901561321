"""Runs the tests with other interpreters and other versions of the dependencies: `make test-matrix`.

Every Python from 3.11 on that is found is tried twice, each time in a fresh environment:

    newest    what pip installs without further limits
    oldest    the lower bounds of setup.py, for the library and for the packages of the tests

The linters and the type checker do not run, because their findings depend on their versions. An environment that pip cannot
install is reported, for example if the oldest release of a package does not exist for a new interpreter. The exit status is 1
if the environment of the Python that runs this file cannot be installed, or if a test fails in any environment.

    python tests/matrix.py                        # all tests
    python tests/matrix.py -x tests/ctdiff        # the arguments of pytest
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
LINTERS = ("ruff", "mypy")
NOT_INSTALLABLE = "not installable"


def requirements() -> list[str]:
    """Return the requirements of the library and of its tests, as setup.py gives them."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    given = setup.call_args.kwargs
    found = [*given["install_requires"], *given["extras_require"]["test"]]
    return [each for each in found if not each.startswith(LINTERS)]


def interpreters() -> Iterator[tuple[str, str]]:
    """Yield each Python from 3.11 on, as its version and its path. It is looked for on the path and among those of pyenv."""
    folders = [*os.get_exec_path(), *glob(str(Path.home() / ".pyenv/versions/*/bin"))]
    for minor in range(11, 30):
        for folder in folders:
            path = Path(folder, f"python3.{minor}")
            # A shim of pyenv exists also for a version that is not chosen. It fails.
            if path.exists() and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                yield f"3.{minor}", str(path)
                break


def tried(interpreter: str, packages: list[str], arguments: list[str]) -> tuple[str, str]:
    """Install the packages in a fresh environment, run the tests, and return the result in words and the versions."""
    with tempfile.TemporaryDirectory(prefix="ctdiff-matrix-") as folder:
        python = Path(folder, "bin", "python")
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages, ROOT], cwd=folder, check=False)
        if installed.returncode:
            return NOT_INSTALLABLE, ""
        versions = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
        names = ("torch==", "torchvision==", "numpy==")
        shown = ", ".join(line for line in versions.splitlines() if line.startswith(names))
        # The tests import the packages from the repository, as after `pip install --editable`.
        run = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *arguments]
        tests = subprocess.run(run, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        last = tests.stdout.strip().splitlines()[-1:] or ["no output"]
        if tests.returncode:
            print(tests.stdout)
        return f"{'passed' if tests.returncode == 0 else 'FAILED'}: {last[0].strip('= ')}", shown


def main() -> int:
    """Try every interpreter with the newest and the oldest packages. Print a line for each."""
    needed, arguments = requirements(), sys.argv[1:]
    failed = False
    for version, interpreter in interpreters():
        own = version == f"3.{sys.version_info.minor}"
        for kind, packages in (("newest", needed), ("oldest", [each.replace(">=", "==", 1) for each in needed])):
            began = time.monotonic()
            result, versions = tried(interpreter, packages, arguments)
            failed |= result.startswith("FAILED") or (own and result == NOT_INSTALLABLE)
            print(f"Python {version}, {kind} ({versions}): {result}, {time.monotonic() - began:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
