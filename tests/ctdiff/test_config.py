"""Configurations: every mistake is found before anything starts, and told with key, value and what was allowed."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import configs
from ctdiff import config as configuration
from ctdiff import load_run, sample_run, train
from ctdiff.cli import main
from ctdiff.config import ConfigError, _elsewhere
from ctdiff.devices import check_device
from ctdiff.recipe.errors import UnknownKey
from ctdiff.recipe.values import Text
from ctdiff.runs import RunFolder

from .small import small

ROOT = Path(__file__).resolve().parents[2]
PRESETS = configuration.preset_names()
SECTIONS = {"data", "model", "process", "loss", "training", "optimizer", "sampler", "saving"}


# Presets


def test_the_presets_are_these():
    discrete = {"mnist", "mnist_absorbing", "mnist_uniform", "mnist_uvit_full", "mnist_dit_full", "cifar10_tauldr"}
    families = {"mnist_unet", "mnist_uvit", "mnist_dit", "mnist_diffit", "mnist_ssm", "mnist_convnext"}
    gaussian = {"mnist_ddpm", "mnist_iddpm", "mnist_laplace", "fashion_unet", "fashion_dit"}
    gaussian |= {"cifar10_unet", "cifar10_uvit", "cifar10_ddpm"}
    assert discrete | families | gaussian | {"mnist_guided", "mnist_guided_discrete"} <= set(PRESETS)
    assert not {"defaults", "__init__"} & set(PRESETS)


@pytest.mark.parametrize("name", ["uvit", "dit", "diffit", "ssm"])
def test_the_families_are_one_word_apart(name):
    config = configuration.load("mnist_unet", [f"--config.model.name={name}"])
    assert configuration.differences(config, configuration.load(f"mnist_{name}")) == {}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_survive_json(name):
    config = configuration.load(name)
    assert set(config) == SECTIONS
    again = configuration.from_json(configuration.to_json(config))
    assert configuration.differences(config, again) == {}
    assert configuration.flatten(config) == configuration.flatten(again)
    assert configuration.to_json(again) == configuration.to_json(config)
    assert configuration.flatten(configuration.complete(config.to_dict())) == configuration.flatten(config)


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_says_is_what_is_loaded(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    given = configuration.flatten(module.get_config())
    whole = configuration.flatten(configuration.load(name))
    # What else there is was said by the preset that it is made of, for another network or optimiser.
    assert all(key in whole or re.match(r"(model|optimizer)\.(unet|uvit|adam)\.", key) for key in given)
    assert {key: value for key, value in given.items() if key in whole and whole[key] != value} == {}


def test_presets_import_nothing_of_ours():
    for path in Path(configs.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(name.split(".")[0] in ("__future__", "ml_collections", "configs") for name in names), (path, names)


def test_only_what_is_chosen_has_keys():
    config = configuration.load("mnist")
    assert set(config.model) & {"unet", "uvit", "dit", "diffit", "latent_diffit", "ssm"} == {"unet"}
    assert set(config.process.schedule) == {"name"}  # cosine_amplitude has no settings
    assert "T" not in config.process
    assert "T" in configuration.load("mnist_ddpm").process


# Files of a user's own


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import mnist\n\ndef get_config():\n    c = mnist.get_config()\n"
        "    c.optimizer.lr = 1  # an int will do\n    return c\n"
    )
    config = configuration.load(str(path))
    assert config.optimizer.lr == 1
    assert configuration.differences(configuration.load("mnist"), config) == {"optimizer.lr": (2e-3, 1)}


def test_a_file_of_ones_own_may_change_one_key_of_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'sampler': {'steps': 5}})\n"
    )
    assert configuration.differences(configuration.complete({}), configuration.load(str(path))) == {"sampler.steps": (100, 5)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config():\n    return {}", "returned a dict"),
        ("def get_config(:", "SyntaxError"),
        ("get = 1", "AttributeError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n c.model.nme = 'unet'\n return c",
            r"^config\.model\.nme is not a key, expected one of name, .*\. Did you mean name\?$",
        ),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n c.model.dit = 3\n return c",
            r"^config\.model\.dit = 3: it is a section, expected one of its keys, such as config\.model\.dit\.patch_size$",
        ),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n c.data = {'name': 'idx'}\n return c",
            r"^config\.data\.idx\.path is missing: ",
        ),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n c.sampler = {'t_max': 2.0}\n return c",
            r"^config\.sampler\.t_max = 2\.0, expected a number in \(0, 1\], or none$",
        ),
    ],
)
def test_a_wrong_file_of_ones_own(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(body)
    with pytest.raises(ConfigError, match=message):
        configuration.load(str(path))


def test_a_file_of_ones_own_may_keep_settings_of_another_choice(tmp_path):
    path = tmp_path / "mine.py"
    change = "c.update(model={'dit': {'depth': %s}})"
    path.write_text(f"from configs import mnist\ndef get_config():\n c = mnist.get_config()\n {change % 7}\n return c")
    assert configuration.differences(configuration.load("mnist"), configuration.load(str(path))) == {}
    assert configuration.load(str(path), ["--config.model.name=dit"]).model.dit.depth == 7
    path.write_text(f"from configs import mnist\ndef get_config():\n c = mnist.get_config()\n {change % -7}\n return c")
    with pytest.raises(ConfigError, match=r"^config\.model\.dit\.depth = -7, expected an integer of at least 0$"):
        configuration.load(str(path))


def test_unknown_presets():
    with pytest.raises(
        ConfigError,
        match=r"--config=mnits: there is no such file or preset, expected one of .*, mnist, .* Did you mean mnist\?",
    ):
        configuration.load("mnits")
    with pytest.raises(ConfigError, match="there is no such file"):
        configuration.load("absent/mine.py")


# Overrides


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.model.nme=unet", r"config\.model\.nme is not a key, expected one of name, .*Did you mean name\?"),
        ("--config.modle.name=unet", r"config\.modle\.name is not a key, expected one of data, .* Did you mean model\?"),
        ("--config.model.unet=3", r"config\.model\.unet = '3': it is a section, .* such as config\.model\.unet\.widths"),
        ("--config.model.dit=3", r"config\.model\.dit = 3 cannot act: config\.model\.name = 'unet', expected 'dit'"),
        ("--config.training=3", r"config\.training = '3': it is a section, .* such as config\.training\.steps"),
        ("--config.training.steps.a=3", r"config\.training\.steps\.a is not a key: config\.training\.steps holds no keys"),
        ("--config.model.name=resnet", r"config\.model\.name = 'resnet', expected one of diffit, dit, .*unet, uvit"),
        ("--config.model.dit.depth=3", r"config\.model\.dit\.depth = 3 cannot act: .*name = 'unet', expected 'dit'"),
        ("--config.model.unet.upsample=cubic", r"config\.model\.unet\.upsample = 'cubic', expected one of .*shuffled_conv"),
        ("--config.model.name=uvti", r".*Did you mean uvit\?"),
        ("--config.training.steps=many", r"config\.training\.steps = 'many', expected an integer of at least 1"),
        ("--config.training.steps=1.5", r"config\.training\.steps = 1\.5, expected an integer of at least 1"),
        ("--config.training.steps=0", r"config\.training\.steps = 0, expected an integer of at least 1"),
        ("--config.training.batch_size=-3", r"config\.training\.batch_size = -3"),
        ("--config.optimizer.lr=fast", r"config\.optimizer\.lr = 'fast', expected a number above 0"),
        ("--config.data.quantise=maybe", r"config\.data\.quantise = 'maybe', expected True or False"),
        ("--config.data.num_values=257", r"config\.data\.num_values = 257, expected an integer in \[2, 256\]"),
        ("--config.data.channels=2", r"config\.data\.channels = '?2'?, expected one of 1, 3"),
        ("--config.model.unet.widths=(8,'a')", r"config\.model\.unet\.widths = \(8, 'a'\), expected integers, each of at"),
        ("--config.process.schedule.name=sigmoid", r"config\.process\.schedule\.name = 'sigmoid', expected one of constant, "),
        (
            "--config.process.engine=gausian",
            r"config\.process\.engine = 'gausian', expected one of discrete, gaussian\.",
        ),
        ("--config.process.T=50", r"config\.process\.T is not a key, expected one of engine, t_min, t_max, rates, schedule"),
        ("--config.sampler.name=ddim", r"config\.sampler\.name = 'ddim', expected one of ancestral, euler"),
        ("--config.sampler.clip=1.0", r"config\.sampler\.clip is not a key, expected one of "),
        ("--config.optimizer.adamw.betas=(0.9,)", r"config\.optimizer\.adamw\.betas = \(0\.9,\), expected 2 numbers"),
        ("--config.data.image_size=(9,9,9)", r"config\.data: image_size = \(9, 9, 9\), expected one number or two"),
        (
            "--config.data.image_size=(0,9)",
            r"config\.data\.image_size = \(0, 9\), expected integers, each of at least 1$",
        ),
        ("--config.training.device=gpu", r"config\.training\.device = 'gpu', expected .*cpu"),
        ("--config.training.device=", r"config\.training\.device = '', expected .*cpu"),
        ("--config.data.name=idx", r"config\.data\.idx\.path is missing: "),
        ("--config.data.name=array", r"config\.data\.array\.path is missing: "),
        ("--config.data.name=folder", r"config\.data\.folder\.path is missing: "),
        ("--config.sampler.t_max=-1", r"config\.sampler\.t_max = -1, expected a number in \(0, 1\]"),
        ("--config.loss.name=epsilon", r"config\.loss\.name = 'epsilon', expected one of cross_entropy"),
        ("--config", "'--config', expected --config.section.key=value"),
        ("--sampler.steps=3", "'--sampler.steps=3', expected --config.section.key=value"),
    ],
)
def test_wrong_overrides(argument, message):
    config = configuration.load("mnist")
    with pytest.raises(ConfigError, match=f"^{message}"):
        configuration.override(config, [argument])
    with pytest.raises(ConfigError, match=f"^{message}"):
        configuration.load("mnist", [argument])
    assert configuration.differences(config, configuration.load("mnist")) == {}  # a refused change changes nothing


def test_right_overrides():
    config = configuration.load("mnist")
    arguments = ["--config.model.name=uvit", "--config.training.steps=7", "--config.optimizer.lr=1", "--config.sampler.argmax"]
    configuration.override(config, [*arguments, "--config.data.image_size=(16,12)", "--noconfig.data.quantise"])
    assert (config.model.name, config.training.steps, config.optimizer.lr, config.sampler.argmax) == ("uvit", 7, 1.0, True)
    assert (config.data.image_size, config.data.quantise) == ((16, 12), False)
    assert "uvit" in config.model
    assert "unet" not in config.model


def test_an_override_brings_the_defaults_of_what_it_chooses():
    config = configuration.load("mnist")
    configuration.override(config, ["--config.sampler.name=tau_leaping", "--config.sampler.tau_leaping.leap.name=bernoulli"])
    assert config.sampler.tau_leaping.to_dict() == {"leap": {"name": "bernoulli"}, "initial": {"name": "none"}}
    configuration.override(config, ["--config.sampler.name=euler"])
    assert "tau_leaping" not in config.sampler
    configuration.override(config, ["--config.sampler.corrector.name=forward_backward"])
    assert config.sampler.corrector.corrector_steps == 1
    configuration.override(config, ["--config.sampler.corrector.name=none"])
    assert config.sampler.corrector.to_dict() == {"name": "none"}


def test_an_override_may_mend_what_was_no_configuration():
    config = configuration.load("mnist")
    config = ConfigDict({**config.to_dict(), "optimizer": {**config.optimizer.to_dict(), "lr": -1.0, "name": "lion"}})
    configuration.override(config, ["--config.optimizer.name=adam", "--config.optimizer.lr=0.1"])
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 0.1)


def test_overrides_of_some_sections_only():
    config = configuration.load("mnist")
    with pytest.raises(ConfigError, match=r"config\.training\.steps cannot be changed: the run is trained.*config\.sampler"):
        configuration.override(config, ["--config.training.steps=3"], sections=("sampler",))
    with pytest.raises(ConfigError, match=r"config\.data\.num_values cannot be changed"):
        configuration.override(config, ["--config.data.num_values=3"], sections=("sampler", "data"))
    mnist = configuration.changed(config, {"data.name": "mnist"})
    configuration.override(mnist, ["--config.data.mnist.path=elsewhere"], sections=("sampler", "data"))
    assert mnist.data.mnist.path == "elsewhere"


def test_lenient_overrides_leave_out_what_cannot_act():
    config = configuration.load("mnist_ddpm")
    arguments = ["--config.sampler.argmax=True", "--config.sampler.ddim.eta=0.5", "--config.sampler.steps=7"]
    left_out = configuration.override(config, arguments, ("sampler",), lenient=True)
    assert set(left_out) == {"sampler.argmax", "sampler.ddim.eta"}
    assert left_out["sampler.argmax"].startswith("config.sampler.argmax is not a key, expected one of ")
    expected = "config.sampler.ddim.eta = 0.5 cannot act: config.sampler.name = 'ancestral', expected 'ddim'"
    assert left_out["sampler.ddim.eta"] == expected
    assert configuration.differences(config, configuration.load("mnist_ddpm")) == {"sampler.steps": (7, 100)}
    with pytest.raises(ConfigError, match=r"^config\.sampler\.steps = 0, expected"):  # a wrong value is wrong everywhere
        configuration.override(config, ["--config.sampler.steps=0"], ("sampler",), lenient=True)


def test_changed_gives_another_whole_configuration():
    config = configuration.load("mnist_ddpm")
    ddim = configuration.changed(config, {"sampler.name": "ddim", "sampler.ddim.eta": 0.5})
    assert configuration.differences(config, ddim) == {
        "sampler.name": ("ancestral", "ddim"),
        "sampler.ddim.eta": (None, 0.5),
        "sampler.ddim.variance.name": (None, "fixed_small"),
        "sampler.ancestral.variance.name": ("fixed_small", None),
    }
    assert config.sampler.name == "ancestral"
    with pytest.raises(UnknownKey, match=r"^config\.sampler\.ddim\.eta = 0\.5 cannot act"):
        configuration.changed(config, {"sampler.ddim.eta": Text("0.5")})


def test_complete_begins_with_the_defaults_of_the_engine():
    discrete, gaussian = configuration.complete({}), configuration.complete({"process": {"engine": "gaussian"}})
    assert (discrete.process.engine, discrete.process.t_min, discrete.loss.name) == ("discrete", 0.01, "cross_entropy")
    assert (gaussian.process.engine, gaussian.process.t_min, gaussian.loss.name) == ("gaussian", 1e-3, "epsilon")
    assert set(discrete) == set(gaussian) == SECTIONS
    for config in (discrete, gaussian):
        configuration.check(config)


def test_only_changed_values_of_a_loaded_config_have_to_act():
    """A run may be older than a rule: a value that never acted was once the default."""
    values = configuration.load("mnist_unet").to_dict()
    values["sampler"]["evidence_floor"] = 0.1
    config = ConfigDict(values)
    configuration.override(config, ["--config.sampler.steps=7"])
    assert (config.sampler.steps, config.sampler.evidence_floor) == (7, 0.1)
    with pytest.raises(UnknownKey, match=r"^config\.sampler\.evidence_floor = 0\.2 cannot act, expected none: "):
        configuration.override(config, ["--config.sampler.evidence_floor=0.2"])


@pytest.mark.parametrize("preset", ["mnist", "mnist_ddpm"])
def test_a_network_that_cannot_be_made_is_refused(preset):
    with pytest.raises(ConfigError, match=r"^config\.model\.unet: num_heads = 5 does not divide the width 112$"):
        configuration.check(configuration.changed(configuration.load(preset), {"model.unet.num_heads": 5}))


def test_a_config_that_is_not_whole_is_refused():
    with pytest.raises(ConfigError, match=r"^config\.data\.\w+ is missing: a configuration must have all keys"):
        configuration.check(ConfigDict({"data": {"name": "embedded_mnist"}}))
    config = configuration.load("mnist")
    config.model.name = "dit"
    with pytest.raises(ConfigError, match=r"^config\.model\.dit\.conditioning is missing: a configuration must have all keys"):
        configuration.check(config)
    config = configuration.load("mnist")
    config.training.stps = 3
    with pytest.raises(ConfigError, match=r"^config\.training\.stps is not a key, .*Did you mean steps\?"):
        configuration.check(config)


def test_what_cannot_be_completed_is_refused():
    with pytest.raises(ConfigError, match=r"^config\.process\.engine = \[\], expected one of discrete, gaussian"):
        configuration.complete({"process": {"engine": []}})
    with pytest.raises(ConfigError, match=r"^config\.process = None: it is a section"):
        configuration.complete({"process": None})


# Saved configurations


def test_a_saved_configuration_may_be_older_than_a_key():
    config = configuration.load("mnist")
    old = config.to_dict()
    del old["sampler"]["t_max"], old["saving"]["keep"], old["sampler"]["corrector"], old["model"]["unet"]["xavier"]
    assert configuration.differences(configuration.from_json(json.dumps(old)), config) == {}
    old["model"]["unet"]["widths"] = 0
    with pytest.raises(
        ConfigError, match=r"^run\.json: config\.model\.unet\.widths = \(0,\), expected integers, each of at least 1$"
    ):
        configuration.from_json(json.dumps(old), "run.json")


def test_a_saved_configuration_may_have_one_where_several_are_allowed_now():
    old = configuration.load("mnist").to_dict()
    old["model"]["unet"]["blocks"] = 4
    assert configuration.from_json(json.dumps(old)).model.unet.blocks == (4,)


def test_damaged_json():
    for text, message in (
        ("{", "run.json is not JSON"),
        ("[]", "run.json: it holds a list, expected the sections"),
        ('{"a": 1}', "run.json: config.a is not a key"),
        ('{"process": {"engine": []}}', r"run.json: config.process.engine = \[\], expected one of discrete, gaussian"),
        ('{"process": null}', "run.json: config.process = None: it is a section"),
        ('{"sampler": {"t_min": NaN}}', r"run.json: config.sampler.t_min = nan, expected a number in \[0, 1\), or none"),
        ('{"training": {"steps": 1e400}}', "run.json: config.training.steps = inf, expected an integer"),
        ('{"data": {"channels": true}}', "run.json: config.data.channels = True, expected one of 1, 3"),
        ('{"sampler": {"argmax": "true"}}', "run.json: config.sampler.argmax = 'true', expected True or False"),
        ('{"model": {"name": "os:system"}}', "run.json: config.model.name = 'os:system': it is code of the module os"),
    ):
        with pytest.raises(ConfigError, match=f"^(the configuration|{message})"):
            configuration.from_json(text, "run.json")


def test_differences_can_ignore_sections_and_never_see_places():
    one = configuration.load("mnist", ["--config.data.name=mnist"])
    other = configuration.changed(one, {"data.mnist.path": "there", "data.mnist.download": True})
    other.sampler.steps, other.training.device, other.optimizer.lr = 7, "cuda", 0.5
    assert configuration.differences(one, other) == {"sampler.steps": (32, 7), "optimizer.lr": (2e-3, 0.5)}
    assert set(configuration.differences(one, other, ignore=("sampler",))) == {"optimizer.lr"}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.mnist.path", True),
        ("data.cifar10.download", True),
        ("training.device", True),
        ("data.name", False),
        ("data.folder.ground", False),
        ("data.path", False),
        ("training.devices", False),
        ("sampler.device", False),
    ],
)
def test_what_is_elsewhere(key, expected):
    assert _elsewhere(key) == expected


# Devices


@pytest.mark.parametrize("device", ["cuda:99", "mps:99", "meta", "gpu"])
def test_devices_of_other_machines(device):
    with pytest.raises(ConfigError, match=rf"device = '{device}' .*expected .*cpu"):
        check_device(device, "device")
    check_device("cpu")


def test_a_run_of_another_machine_is_a_run():
    configuration.check(configuration.changed(configuration.load("mnist"), {"training.device": "cuda:99"}))


# What is started


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.lr=-1",
        "optimizer.lr=nan",
        "training.ema_decay=1.5",
        "process.t_min=2.",
        "process.rates.gaussian_target.scale=-1.",
        "model.unet.num_heads=0",
        "optimizer.schedule.cosine.final=-3.",
        "optimizer.adamw.betas=(2,3)",
        "data.fraction=7.",
        "data.rotation=-5.",
        "loss.label_dropout=2.",
        "sampler.evidence_floor=2.",
        "sampler.tau_leaping.leap.name=ordinal",
        "data.num_values=64",
    ],
)
def test_a_dry_run_refuses_what_a_training_would(setting, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = setting.split("=")[0] if "num_values" not in setting else "process.rates.gaussian_target.scale"
    for arguments in (["--dry_run"], []):
        assert main(["train", "--config=mnist", f"--config.{setting}", *arguments]) == 2
        printed = capsys.readouterr()
        assert f"config.{key} = " in printed.err
        assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_training_from_python_is_checked_too(tmp_path):
    for section, key, value in (("sampler", "evidence_floor", 3.0), ("optimizer", "lr", -1.0), ("training", "steps", 0.5)):
        config = small("mnist")
        config.unlock()
        config[section] = ConfigDict({**config[section].to_dict(), key: value})
        with pytest.raises(ConfigError, match=rf"config\.{section}\.{key} = "):
            train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def _run(folder, preset, **changes):
    """A tiny run."""
    train(small(preset, saving__validation_images=2, saving__preview_every=9, sampler__num_samples=1, **changes), folder)
    return folder


def _older(run, **changes):
    """Put values into a run's saved configuration that are refused today."""
    folder = RunFolder(run)
    content = json.loads(folder.config.read_text())
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    folder.config.write_text(json.dumps(content))


def test_a_run_may_keep_what_it_was_saved_with(tmp_path, capsys):
    run = _run(tmp_path / "run", "mnist_ddpm", optimizer__schedule__name="constant")
    _older(run, sampler__ddim={"eta": 0.5}, sampler__guidance__g=1.5, process__T=500)
    config = load_run(run).config
    assert "ddim" not in config.sampler
    assert config.process.T == 500
    _older(run, sampler__guidance__g=1.0, process__T=1000)
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.steps=2"]).files[0].exists()
    capsys.readouterr()
    for command in (["sample", str(run)], ["train", f"--workdir={run}", "--resume"]):
        assert main([*command, "--config.sampler.ddim.eta=0.5"]) == 2  # asked for
        assert "config.sampler.ddim.eta = 0.5 cannot act" in capsys.readouterr().err
    assert load_run(run).step == 4
    shutil.rmtree(run / "checkpoints")  # died before the first one
    assert main(["train", f"--workdir={run}", "--resume"]) == 0
    assert load_run(run).step == 4


def test_a_run_of_rates_that_do_not_fit_is_still_a_run(tmp_path):
    run = _run(tmp_path / "run", "mnist")
    _older(run, process__rates__gaussian_target__scale=47.8)
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.steps=2"]).files[0].exists()
    assert train(RunFolder(run).read_config(), run).step == 4
    with pytest.raises(ConfigError, match=r"config\.process\.rates\.gaussian_target\.scale = 47\.8, expected about 0\.192:"):
        train(RunFolder(run).read_config(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_grid_is_sampled_on_whatever_the_first_was_set_to(tmp_path):
    ends = {"sampler__grid__bounded_log_snr__log_snr_max": 7.0}
    run = _run(tmp_path / "run", "mnist_ddpm", sampler__grid__name="bounded_log_snr", **ends)
    assert sample_run(run, num_samples=2, overrides=["--config.sampler.grid.name=uniform"]).files[0].exists()
    with pytest.raises(ConfigError, match=r"config\.sampler\.t_max = 0\.9 cannot act"):
        sample_run(run, num_samples=2, overrides=["--config.sampler.t_max=0.9"])


def test_the_documented_array_of_64_values_trains(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "add_your_own.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"ctdiff train (--config=[^`#|\n]*num_values=64[^`#|\n]*)", page)
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", images=np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    tiny = ["model.unet.widths=(8,8)", "model.unet.num_heads=2", "model.unet.blocks=(1,1)", "training.steps=2"]
    tiny += ["training.batch_size=4", "training.precision=float32", "sampler.steps=3", "sampler.num_samples=4"]
    tiny += ["saving.checkpoint_every=2", "saving.validation_images=6", "saving.preview_samples=2", "saving.preview_steps=2"]
    assert main(["train", *shlex.split(command), *(f"--config.{each}" for each in tiny)]) == 0, capsys.readouterr().err
    assert load_run("runs/mine").config.data.num_values == 64
