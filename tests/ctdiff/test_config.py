"""Configurations: every mistake is found before anything starts, and told with key, value and what was allowed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import configs
from ctdiff import build, presets
from ctdiff import config as configuration
from ctdiff.config import ConfigError

PRESETS = configuration.preset_names()


def test_the_presets_are_these():
    discrete = {"mnist", "mnist_absorbing", "mnist_uniform", "mnist_uvit_full", "mnist_dit_full", "cifar10_tauldr"}
    families = {"mnist_unet", "mnist_uvit", "mnist_dit", "mnist_diffit"}
    gaussian = {"mnist_ddpm", "mnist_iddpm", "mnist_laplace", "fashion_unet", "fashion_dit"}
    gaussian |= {"cifar10_unet", "cifar10_uvit", "cifar10_ddpm"}
    assert discrete | families | gaussian | {"mnist_guided", "mnist_guided_discrete"} <= set(PRESETS)
    assert "defaults" not in PRESETS


@pytest.mark.parametrize("name", ["uvit", "dit", "diffit"])
def test_the_families_are_one_word_apart(name):
    config = configuration.load("mnist_unet")
    configuration.override(config, [f"--config.model.name={name}"])
    assert configuration.differences(config, configuration.load(f"mnist_{name}")) == {}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_survive_json(name):
    config = configuration.load(name)
    assert set(config) == {"data", "model", "process", "loss", "training", "optimizer", "sampler", "saving"}
    again = configuration.from_json(configuration.to_json(config))
    assert configuration.differences(config, again) == {}
    assert configuration.flatten(config) == configuration.flatten(again)


def test_presets_import_nothing_of_ours():
    for path in Path(configs.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(name.split(".")[0] in ("__future__", "ml_collections", "configs") for name in names), (path, names)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import mnist\n\ndef get_config():\n    c = mnist.get_config()\n"
        "    c.optimizer.lr = 1  # an int will do\n    return c\n"
    )
    config = configuration.load(str(path))
    assert config.optimizer.lr == 1
    assert configuration.differences(configuration.load("mnist"), config) == {"optimizer.lr": (2e-3, 1)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config():\n    return {}", "returned a dict"),
        ("def get_config(:", "SyntaxError"),
        ("get = 1", "AttributeError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n c.model.nme = 'unet'\n return c",
            "Did you mean model.name",
        ),
        (
            "from configs import mnist\ndef get_config():\n c = mnist.get_config()\n del c.model.head\n return c",
            "config.model.head is missing",
        ),
    ],
)
def test_a_wrong_file_of_ones_own(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(body)
    with pytest.raises(ConfigError, match=message):
        configuration.load(str(path))


def test_unknown_presets():
    with pytest.raises(ConfigError, match=r"--config=mnits: expected one of .*, mnist, .* Did you mean mnist\?"):
        configuration.load("mnits")
    with pytest.raises(ConfigError, match="there is no such file"):
        configuration.load("absent/mine.py")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.model.nme=unet", r"config\.model\.nme is not a key; expected one of .*model\.name"),
        ("--config.modle.name=unet", r"config\.modle\.name is not a key.* Did you mean model\.name"),
        ("--config.model.unet=3", r"config\.model\.unet is not a key"),
        ("--config.model.name=resnet", r"config\.model\.name = 'resnet', expected one of unet, uvit, dit, diffit"),
        ("--config.model.dit.conditioning=adaln_0", r"expected one of in_context, .* Did you mean adaln\?"),
        ("--config.model.unet.upsample=cubic", r"config\.model\.unet\.upsample = 'cubic', expected one of shuffled_conv"),
        ("--config.model.name=uvti", r"Did you mean uvit\?"),
        ("--config.training.steps=many", r"config\.training\.steps = 'many', expected an int"),
        ("--config.training.steps=1.5", r"config\.training\.steps = '1\.5', expected an int"),
        ("--config.training.steps=0", r"config\.training\.steps = 0, expected an integer of at least 1"),
        ("--config.training.batch_size=-3", r"config\.training\.batch_size = -3"),
        ("--config.optimizer.lr=fast", r"config\.optimizer\.lr = 'fast', expected a float"),
        ("--config.data.download=maybe", r"config\.data\.download = 'maybe', expected a bool"),
        ("--config.data.num_values=257", r"config\.data\.num_values = 257, expected 2 \.\. 256"),
        ("--config.data.channels=2", r"config\.data\.channels = 2, expected one of 1, 3"),
        ("--config.model.unet.widths=(8,'a')", r"config\.model\.unet\.widths = .* expected a tuple of int"),
        ("--config.process.name=absorbing", r"config\.model\.parameterisation = 'x0', expected absorbing"),
        ("--config.process.name=gaussian", r"config\.process\.schedule = 'cosine_amplitude', expected one of linear, cosine"),
        ("--config.sampler.name=ddim", r"config\.sampler\.name = 'ddim', expected one of ancestral, euler, tau_leaping"),
        ("--config.optimizer.betas=(0.9,)", r"config\.optimizer\.betas = \(0\.9,\), expected 2 numbers"),
        ("--config.data.image_size=(9,9,9)", r"config\.data\.image_size = \(9, 9, 9\), expected 1 or 2 numbers"),
        ("--config.data.image_size=(0,9)", r"config\.data\.image_size = \(0, 9\), expected each an integer of at least 1"),
        ("--config.training.device=gpu", r"config\.training\.device = 'gpu', expected .*cpu"),
        ("--config.training.device=", r"config\.training\.device = '', expected .*cpu"),
        ("--config.data.name=idx", r"config\.data\.path = '', expected the file or folder of config\.data\.name = 'idx'"),
        ("--config.data.name=array", r"config\.data\.path = '', expected"),
        ("--config.data.name=folder", r"config\.data\.path = '', expected"),
        ("--config.sampler.t_max=-1", r"config\.sampler\.t_max = -1\.0, expected a number in \[0, 1\]"),
        ("--config.loss.name=epsilon", r"config\.loss\.name = 'epsilon', expected one of cross_entropy"),
    ],
)
def test_wrong_overrides(argument, message):
    with pytest.raises(ConfigError, match=message):
        configuration.override(configuration.load("mnist"), [argument])


def test_a_mask_has_no_place_among_grey_levels():
    with pytest.raises(ConfigError, match=r"config\.sampler\.leap = 'ordinal', expected categorical"):
        configuration.override(configuration.load("mnist_absorbing"), ["--config.sampler.leap=ordinal"])


@pytest.mark.parametrize("device", ["cuda:99", "mps:99", "meta", "gpu"])
def test_devices_of_other_machines(device):
    with pytest.raises(ConfigError, match=rf"device = '{device}' .*expected .*cpu"):
        configuration.check_device(device, "device")
    configuration.check_device("cpu")


def test_a_saved_configuration_may_be_older_than_a_key_of_the_sampler():
    config = configuration.load("mnist")
    old = config.copy_and_resolve_references()
    del old.sampler["t_max"]
    del old.saving["keep"]
    assert configuration.differences(configuration.from_json(configuration.to_json(old)), config) == {}
    del old.model["head"]
    with pytest.raises(ConfigError, match=r"config\.model\.head is missing"):
        configuration.from_json(configuration.to_json(old))


def test_a_saved_configuration_may_be_older_than_networks_it_did_not_choose():
    config = configuration.load("mnist")
    old = config.copy_and_resolve_references()
    del old.model["latent_diffit"]
    assert configuration.differences(configuration.from_json(configuration.to_json(old)), config) == {}
    old.model.name = "latent_diffit"
    with pytest.raises(ConfigError, match=r"config\.model\.latent_diffit\.[a-z_]+ is missing"):
        configuration.from_json(configuration.to_json(old))


@pytest.mark.parametrize("preset", ["mnist", "mnist_absorbing", "mnist_ddpm", "mnist_iddpm"])
def test_a_saved_configuration_may_be_older_than_any_alternative_it_did_not_choose(preset, monkeypatch):
    old, newer = configuration.to_json(configuration.load(preset)), presets.default_config()
    newer.process.ring = ConfigDict({"drift": 0.0})
    newer.process.sigmoid.steepness = 1.0
    newer.loss.ranked = ConfigDict({"power": 2.0})
    newer.model.plain = ConfigDict({"width": 32})
    newer.model.dit.bias = True
    monkeypatch.setattr(presets, "default_config", newer.copy_and_resolve_references)
    config = configuration.from_json(old)
    assert (config.process.ring.drift, config.loss.ranked.power, config.model.plain.width) == (0.0, 2.0, 32)
    assert (config.process.sigmoid.steepness, config.model.dit.bias) == (1.0, True)


@pytest.mark.parametrize(
    ("preset", "section"),
    [
        ("mnist", "process.gaussian_target"),
        ("mnist_ddpm", "process.gaussian"),
        ("mnist_laplace", "process.laplace"),
        ("mnist_iddpm", "loss.hybrid"),
        ("mnist_uvit", "model.uvit"),
    ],
)
def test_what_a_saved_configuration_chose_is_not_made_up(preset, section):
    old = configuration.load(preset).to_dict()
    kind, name = section.split(".")
    del old[kind][name]
    with pytest.raises(ConfigError, match=rf"config\.{kind}\.{name}\.\w+ is missing"):
        configuration.from_json(configuration.to_json(ConfigDict(old)))


def test_right_overrides():
    config = configuration.load("mnist")
    arguments = ["--config.model.name=uvit", "--config.training.steps=7", "--config.optimizer.lr=1", "--config.data.download"]
    configuration.override(config, [*arguments, "--config.data.image_size=(16,12)", "--noconfig.data.quantise"])
    assert (config.model.name, config.training.steps, config.optimizer.lr, config.data.download) == ("uvit", 7, 1.0, True)
    assert (config.data.image_size, config.data.quantise) == ((16, 12), False)


def test_an_override_may_mend_what_was_no_configuration():
    config = configuration.load("mnist")
    config = ConfigDict({**config.to_dict(), "optimizer": {**config.optimizer.to_dict(), "lr": -1.0, "name": "lion"}})
    configuration.override(config, ["--config.optimizer.name=adam", "--config.optimizer.lr=0.1"])
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 0.1)


def test_overrides_of_some_sections_only():
    with pytest.raises(ConfigError, match=r"config\.training\.steps is not a key"):
        configuration.override(configuration.load("mnist"), ["--config.training.steps=3"], sections=("sampler",))


def test_damaged_json(tmp_path):
    for text, message in (
        ("{", "run.json is not JSON"),
        ("[]", "it holds a list"),
        ('{"a": 1}', "run.json: config.a is not a key"),
    ):
        with pytest.raises(ConfigError, match=message):
            configuration.from_json(text, "run.json")


def test_differences_can_ignore_sections():
    one, other = configuration.load("mnist"), configuration.load("mnist")
    other.sampler.steps, other.training.device, other.optimizer.lr = 7, "cuda", 0.5
    assert set(configuration.differences(one, other)) == {"sampler.steps", "training.device", "optimizer.lr"}
    assert set(configuration.differences(one, other, ignore=("sampler", "training.device"))) == {"optimizer.lr"}


def test_every_choice_of_every_process_is_known_to_the_tables():
    for process in (*build.RATES, build.GAUSSIAN):
        config = configuration.load("mnist")
        config.process.name = process
        for key, allowed in build.choices(config).items():
            assert len(allowed) > 0, key
            assert key in configuration.flatten(config)


def test_a_config_without_a_section_is_refused():
    with pytest.raises(ConfigError, match="is missing"):
        configuration.check(ConfigDict({"data": {"name": "embedded_mnist"}}))


def test_the_corrector_begins_with_short_leaps():
    assert configuration.load("mnist").sampler.corrector_multiplier == 0.25
