"""What the start of the command imports, in a process of its own: a project with folders named like ours, and nothing it
does not need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What is loaded after each step, and what the command prints. One process takes all steps, as each would load torch anew.
STEPS = """
import contextlib, io, json, runpy, sys

def loaded(*names):
    return [name for name in names if name in sys.modules]

OUTPUT = ("jinja2", "matplotlib")
VERBS = ("ctdiff.cli.sample", "ctdiff.cli.evaluate", "ctdiff.cli.compare")
found = {}
import ctdiff
found["package"] = loaded("torch", *OUTPUT)
import configs
sys.argv = ["ctdiff", "train", "--config=mine.py", "--dry_run"]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    try:
        runpy.run_module("ctdiff", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        found["status"] = ended.code
found["printed"] = printed.getvalue()
found["command"] = loaded(*VERBS, *OUTPUT)
import ctdiff.comparison, ctdiff.evaluation
found["reports"] = loaded(*OUTPUT)
from ctdiff import config
found["presets"] = len(config.preset_names())
found["engine"] = config.load("mnist_ddpm").process.engine
found["own configs"] = configs.X == 1 and sys.modules["configs"] is configs
found["neighbours"] = loaded("near")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the steps found in the folder of a project, which is first on the path."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").mkdir()
    (folder / "configs" / "__init__.py").write_text("X = 1\n")
    (folder / "configs" / "base.py").write_text("STEPS = 2\n")
    (folder / "near.py").write_text("MORE = 3\n")
    (folder / "mine.py").write_text(
        "import near\nfrom configs import base, mnist\n\n\ndef get_config():\n    config = mnist.get_config()\n"
        "    config.training.steps = base.STEPS + near.MORE\n    return config\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-c", STEPS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_module_is_the_command(found):
    """A preset by path, as `python -m ctdiff` trains it."""
    config, _ = json.JSONDecoder().raw_decode(found["printed"])
    assert found["status"] == 0
    assert config["model"]["name"] == "unet"


def test_a_start_imports_no_templates_and_no_plots(found):
    """The package alone, a command, and the packages that make reports."""
    assert found["package"] == []
    assert found["command"] == []
    assert found["reports"] == []


def test_a_project_with_its_own_configs(found):
    """Presets are ours; a configuration file of the project sees both packages, and its neighbours."""
    config, _ = json.JSONDecoder().raw_decode(found["printed"])
    assert config["training"]["steps"] == 5
    assert found["presets"] >= 20
    assert found["engine"] == "gaussian"
    assert found["own configs"]
    assert found["neighbours"] == []
