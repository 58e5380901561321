"""The command says how OpenMP's threads wait before torch is loaded, and only where the user has not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctdiff

ROOT = Path(__file__).resolve().parents[2]

# Ends the process when torch is about to be imported, and prints what it would read.
WATCH = """\
import os, sys
def watch(event, arguments):
    if event == "import" and arguments[0].split(".")[0] in ("torch", "torchvision"):
        print("before torch:", os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)
sys.addaudithook(watch)
sys.argv = ["ctdiff", "--help"]
"""


def script() -> str:
    """What the console script runs, as setup.py says."""
    (entry,) = re.findall(r'"ctdiff = ([\w.]+):main"', (ROOT / "setup.py").read_text())
    return f"from {entry} import main; sys.exit(main())"


def printed(code: str, **variables: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", WATCH + code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("entry", [script(), "import runpy; runpy.run_module('ctdiff', run_name='__main__', alter_sys=True)"])
def test_both_ways_into_the_command_set_it_before_torch_is_loaded(entry):
    assert printed(entry) == "before torch: 1000"


@pytest.mark.parametrize(("variables", "expected"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_what_the_user_has_set_stays(variables, expected):
    assert printed(script(), **variables) == f"before torch: {expected}"


def test_the_package_alone_loads_no_torch_and_sets_nothing():
    code = "import ctdiff, ctdiff.__main__; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    assert printed(code) == "False None"


def test_a_worker_inherits_it():
    worker = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    code = "from ctdiff.waiting import spin_briefly; import subprocess; print(spin_briefly(), spin_briefly(), flush=True); "
    assert printed(code + f"subprocess.run([sys.executable, '-S', '-c', {worker!r}], check=True)").split() == [
        "True",
        "False",
        "1000",
    ]


def test_names_are_imported_when_they_are_asked_for():
    assert set(ctdiff.__all__) == set(ctdiff._HOMES) <= set(dir(ctdiff))
    for name, home in ctdiff._HOMES.items():
        assert getattr(ctdiff, name) is getattr(sys.modules[home], name)
    with pytest.raises(AttributeError, match="module 'ctdiff' has no attribute 'absent'"):
        _ = ctdiff.absent
