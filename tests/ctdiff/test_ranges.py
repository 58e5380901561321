"""Values that are of the right type and wrong: out of range, of no effect, or of rates that the schedule does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import defaults
from ctdiff import build, load_run, sample_run, train
from ctdiff import config as configuration
from ctdiff.cli import main
from ctdiff.config import ConfigError
from ctdiff.evaluation import compare_runs
from ctdiff.ranges import ASCENDING, RANGES, out_of_range
from ctdiff.runs import RunFolder

from .evaluation.tiny_runs import pixels, tiny_run
from .small import flags, small

ROOT = Path(__file__).resolve().parents[2]
KEYS = configuration.flatten(defaults.get_config())


def _kind(key):
    """int or float of a key that holds numbers, else None; and whether it is a tuple of them."""
    default = KEYS[key]
    kind = type(default[0] if isinstance(default, tuple) else default)
    return (kind if kind in (int, float) else None), isinstance(default, tuple)


def _ends(key):
    """Values of a key just outside its range, and values just inside."""
    allowed, (kind, several) = RANGES[key], _kind(key)
    outside, inside = [], []
    for closed, opened, direction in ((allowed.least, allowed.above, -1), (allowed.most, allowed.below, 1)):
        is_open = closed is None
        end = opened if is_open else closed
        if end is None:
            outside += [direction * math.inf] if kind is float else []
        else:
            step = (lambda x, d: x + d) if kind is int else (lambda x, d: math.nextafter(x, d * math.inf))
            outside.append(kind(end) if is_open else step(kind(end), direction))
            inside.append(step(kind(end), -direction) if is_open else kind(end))
    outside += [math.nan] if kind is float else []
    if not several:
        return outside, inside
    default = KEYS[key]  # one wrong item is enough, whichever it is
    return [(*default[:-1], value) for value in outside], [(value,) * len(default) for value in inside]


def test_every_number_has_a_range_or_a_choice():
    numbers = {key for key in KEYS if _kind(key)[0] is not None}
    assert numbers - set(RANGES) == {"data.channels", "data.num_values"}
    assert numbers - set(RANGES) <= set(build.choices(configuration.load("mnist")))
    assert set(RANGES) <= numbers
    assert {key for key in RANGES if not _ends(key)[0]} == {"model.unet.attention_levels"}  # the network knows its levels
    for key, allowed in RANGES.items():
        kind, _ = _kind(key)
        assert kind is float or all(end is None or isinstance(end, int) for end in dataclasses.astuple(allowed)), key


@pytest.mark.parametrize("key", RANGES)
def test_a_value_just_outside_is_refused_by_its_key(key):
    outside, inside = _ends(key)
    for value in outside:
        config = configuration.load("mnist_guided_discrete")  # where guidance may be any
        config.update_from_flattened_dict({key: value})
        with pytest.raises(ConfigError, match=rf"^config\.{re.escape(key)} = .*{re.escape(repr(value))}, expected .*"):
            configuration.check(config)
    for value in inside:
        assert key not in out_of_range({**KEYS, key: value}) or any(key in pair for pair in ASCENDING)


@pytest.mark.parametrize("pair", ASCENDING)
def test_ends_of_an_interval_ascend(pair):
    low, high = pair
    given = {**KEYS, low: 0.5, high: 0.5}
    assert f"expected less than config.{high}" in out_of_range(given)[low]
    assert out_of_range(KEYS) == {}
    interval = out_of_range({**KEYS, "sampler.guidance_interval": (0.8, 0.2)})
    assert interval == {"sampler.guidance_interval": "config.sampler.guidance_interval = (0.8, 0.2), expected ascending times"}


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.lr=-1",
        "optimizer.lr=nan",
        "training.ema_decay=1.5",
        "process.t_min=2.",
        "process.scale=-1.",
        "model.unet.num_heads=0",
        "optimizer.final=-3.",
        "optimizer.betas=(2,3)",
        "data.fraction=7.",
        "data.rotation=-5.",
        "loss.label_dropout=2.",
        "sampler.eta=2.",
        "sampler.variance=large",
        "data.num_values=64",
    ],
)
def test_a_dry_run_refuses_what_a_training_would(setting, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = "process.scale" if setting.startswith("data.num_values") else setting.split("=")[0]
    for arguments in (["--dry_run"], []):
        assert main(["train", "--config=mnist", f"--config.{setting}", *arguments]) == 2
        printed = capsys.readouterr()
        assert f"config.{key} = " in printed.err
        assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_training_from_python_is_checked_too(tmp_path):
    for section, key, value in (("sampler", "eta", 3.0), ("sampler", "eta", 0.5), ("optimizer", "lr", -1.0)):
        config = small("mnist")
        config[section][key] = value
        with pytest.raises(ConfigError, match=rf"config\.{section}\.{key} = "):
            train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


# What cannot act


@pytest.mark.parametrize(
    ("preset", "setting", "why"),
    [
        ("mnist_ddpm", "corrector_steps=3", "process.name = 'gaussian', and it is of Markov chains"),
        ("mnist_ddpm", "corrector_multiplier=0.5", "process.name = 'gaussian'"),
        ("mnist_ddpm", "corrector_entry_time=0.5", "process.name = 'gaussian'"),
        ("mnist_ddpm", "argmax=True", "process.name = 'gaussian'"),
        ("mnist_ddpm", "leap=categorical", "process.name = 'gaussian'"),
        ("mnist_guided", "guidance_form=rate", "process.name = 'gaussian'"),
        ("mnist_iddpm", "t_min=0.01", "sampler.grid = 'respaced' has ends of its own"),
        ("mnist_laplace", "t_max=0.9", "sampler.grid = 'log_snr' has ends of its own"),
        ("mnist_ddpm", "log_snr_max=7.0", "sampler.grid = 'uniform', and it is of log_snr"),
        ("mnist", "variance=large", "process.name = 'gaussian_target', and it is of the process gaussian"),
        ("mnist_absorbing", "eta=0.5", "process.name = 'absorbing'"),
        ("mnist", "clip=0.0", "process.name = 'gaussian_target'"),
        ("mnist", "log_snr_min=-7.0", "process.name = 'gaussian_target'"),
        ("mnist", "guidance_power=2.0", "model.num_classes = 0, and guidance needs classes"),
        ("mnist", "guidance_scale=interval", "model.num_classes = 0"),
    ],
)
def test_settings_that_cannot_act_are_refused(preset, setting, why, tmp_path):
    key, value = setting.split("=")
    config = configuration.load(preset)
    with pytest.raises(ConfigError, match=rf"^config\.sampler\.{key} = '?{value}'? cannot act, expected its default .*{why}"):
        configuration.override(config, [f"--config.sampler.{setting}"])
    mine = tmp_path / "mine.py"
    mine.write_text(
        f"from configs import {preset}\n\ndef get_config():\n    c = {preset}.get_config()\n"
        f"    c.sampler.{key} = {value if value[0] in '-0123456789TF' else repr(value)}\n    return c\n"
    )
    with pytest.raises(ConfigError, match=rf"config\.sampler\.{key} = '?{value}'? cannot act"):
        configuration.load(str(mine))


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("mnist_ddpm", ["eta=0.5"]),  # waits for ddim
        ("mnist_ddpm", ["corrector_steps=0", "leap=ordinal"]),  # the defaults
        ("mnist_ddpm", ["grid=log_snr", "log_snr_max=7.0"]),
        ("mnist", ["corrector_multiplier=0.5"]),  # waits for tau_leaping+2
        ("mnist_laplace", ["grid=uniform", "t_max=0.9"]),
        ("mnist_guided_discrete", ["guidance=1.0", "guidance_form=rate"]),
    ],
)
def test_settings_that_may_act_are_not(preset, settings):
    configuration.override(configuration.load(preset), [f"--config.sampler.{setting}" for setting in settings])


def _older(run, **changes):
    """Put values into a run's saved configuration that are refused today."""
    folder = RunFolder(run)
    content = json.loads(folder.config.read_text())
    for key, value in changes.items():
        section, name = key.split("__")
        content[section][name] = value
    folder.config.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each engine."""
    folder = tmp_path_factory.mktemp("runs")
    return {preset: tiny_run(folder, preset, preset) for preset in ("mnist", "mnist_ddpm")}


def test_a_run_may_keep_what_it_was_saved_with(tmp_path, capsys):
    run = tiny_run(tmp_path, "run", "mnist_ddpm", optimizer__schedule="constant")
    _older(run, sampler__corrector_steps=3, sampler__corrector_multiplier=1.0, data__rotation=-5.0, process__scale=-1.0)
    assert load_run(run).config.sampler.corrector_steps == 3
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.steps=2"])[0].exists()
    assert main(["train", f"--workdir={run}", "--resume"]) == 0  # finished: draws
    capsys.readouterr()
    for command in (["sample", str(run)], ["train", f"--workdir={run}", "--resume"]):
        assert main([*command, "--config.sampler.corrector_steps=3"]) == 2  # asked for
        assert "config.sampler.corrector_steps = 3 cannot act" in capsys.readouterr().err
        assert main([*command, "--config.sampler.leap=categorical"]) == 2
        assert "config.sampler.leap = 'categorical' cannot act" in capsys.readouterr().err
    config = RunFolder(run).read_config()
    with pytest.raises(ConfigError, match=r"config\.\w+\.\w+ = "):
        train(config, run, fresh=True)  # a new training is held to the rules
    assert load_run(run).step == 4
    _older(run, data__rotation=0.0)
    shutil.rmtree(run / "checkpoints")  # died before the first one
    assert main(["train", f"--workdir={run}", "--resume"]) == 0
    assert load_run(run).step == 4


def test_another_grid_is_sampled_on_whatever_the_first_was_set_to(tmp_path):
    run = tiny_run(tmp_path, "run", "mnist_ddpm", sampler__grid="log_snr", sampler__log_snr_max=7.0)
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.grid=uniform"])[0].exists()
    with pytest.raises(ConfigError, match=r"config\.sampler\.t_max = 0\.9 cannot act"):
        sample_run(run, num_samples=2, overrides=["--config.sampler.t_max=0.9"])


def test_a_comparison_takes_settings_of_either_engine(runs, tmp_path):
    settings = {"calls": [2], "num_samples": 12, "replicates": 2, "likelihood_images": 0, "metric": "KID"}
    arguments = {**settings, "samplers": ["ddim", "euler"], "overrides": ["--config.sampler.eta=0.5"], "out": tmp_path / "both"}
    assert len(compare_runs([runs["mnist"], runs["mnist_ddpm"]], pixels(), **arguments)["cells"]) == 2
    with pytest.raises(ConfigError, match=r"config\.sampler\.eta = 0\.5 cannot act"):
        compare_runs([runs["mnist"]], pixels(), **{**arguments, "samplers": ["euler"], "out": tmp_path / "one"})


# Rates and their schedule


@pytest.mark.parametrize("values", [2, 16, 64, 100])
def test_another_number_of_values_needs_another_scale_and_is_told_which(values):
    setting = f"--config.data.num_values={values}"
    with pytest.raises(ConfigError, match=r"^config\.process\.scale = 47\.8, expected about ") as told:
        configuration.override(configuration.load("mnist"), [setting])
    scale = re.search(r"expected about ([\d.e+-]+):", str(told.value)).group(1)
    config = configuration.load("mnist")
    configuration.override(config, [setting, f"--config.process.scale={scale}"])
    # What the slowest mode keeps at t, the second eigenvalue of P_tau, is what the schedule says.
    process = build.build_process(config)
    for t in (0.2, 0.5, 0.8):
        _, tau = process.schedule(torch.tensor(t, dtype=torch.float64))
        kept = torch.linalg.eigvals(process.rates.transition(tau)).real.sort().values[-2].item()
        assert kept == pytest.approx(math.cos(math.pi * t / 2), rel=0.01)


def test_the_preset_fits_its_own_number_of_values():
    config = configuration.load("mnist")
    assert (config.data.num_values, config.process.scale, build.misfit(config)) == (256, 47.8, None)
    config.process.scale = 1000.0
    assert f"expected about {47.8:.3g}:" in build.misfit(config)


@pytest.mark.parametrize("values", [2, 3, 8])
@pytest.mark.parametrize("name", build.SCALED_RATES)
def test_every_rate_matrix_that_is_scaled_is_looked_at(name, values):
    config = configuration.load("mnist")
    config.data.num_values = values
    # Of two values, a Gaussian's are a pair that exchanges at rate 1 in both directions.
    gaussian = {2: 2.0, 3: 2.945, 8: 5.21}[values]
    slowest = {"gaussian_target": gaussian, "uniform": 1.0, "birth_death": 2 - 2 * math.cos(math.pi / values)}[name]
    for factor, fits in ((0.2, False), (0.3, True), (1.0, True), (3.9, True), (4.1, False)):
        config.process.update(name=name, scale=factor / slowest)
        assert (build.misfit(config) is None) == fits, factor
        config.process.schedule = "exponential"
        assert build.misfit(config) is None
        config.process.schedule = "cosine_amplitude"


def test_a_run_of_rates_that_do_not_fit_is_still_a_run(tmp_path):
    run = tiny_run(tmp_path, "run", "mnist")
    _older(run, process__scale=47.8)
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.steps=2"])[0].exists()
    assert train(RunFolder(run).read_config(), run).step == 4
    with pytest.raises(ConfigError, match=r"config\.process\.scale = 47\.8, expected about 0\.192:"):
        train(RunFolder(run).read_config(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# What the pages print


def _commands():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"ctdiff train (--config=[^`#|\n]*)", text):
            if "NAME" not in command:
                yield pytest.param(command, id=f"{page.stem} {command.split()[0]}")


@pytest.mark.parametrize("command", list(_commands()))
def test_documented_trainings_are_accepted(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ctdiff.cli.train._measured_runs", lambda config: 0)
    Path("mine.py").write_text("from configs import mnist\n\n\ndef get_config():\n    return mnist.get_config()\n")
    arguments = shlex.split(command)
    assert main(["train", *arguments, *({"--dry_run"} - {*arguments})]) == 0, capsys.readouterr().err


def test_the_documented_array_of_64_values_trains(tmp_path, monkeypatch, capsys):
    (command,) = [each.values[0] for each in _commands() if "num_values=64" in each.values[0]]
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", images=np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    kept = [flag for flag in flags(training__steps=2) if not flag.startswith(("--config.data", "--config.process"))]
    assert main(["train", *shlex.split(command), *kept]) == 0, capsys.readouterr().err
    assert load_run("runs/mine").config.data.num_values == 64
