"""A user's own classes: chosen as `module:Class`, imported only where a user says so, refused where they do not fit."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from ctdiff import config as configuration
from ctdiff import cost
from ctdiff.cli import main
from ctdiff.cli.main import verb
from ctdiff.config import ConfigError
from ctdiff.recipe import (
    build_denoiser,
    build_network,
    build_process,
    build_sampler,
    build_shapes,
    engine_of,
    user_classes,
)
from ctdiff.recipe.user_classes import trust
from ctdiff.runs import RunError, RunFolder
from diffusion_core import Denoiser
from discrete_diffusion import PosteriorGuidance

RATES = """
from pathlib import Path
from continuous_diffusion import BoundedLogSNRGrid
from diffusion_core import GuidanceScale
from discrete_diffusion import X0Denoiser
from discrete_diffusion.rates import BirthDeathRates, RateMatrix
from discrete_diffusion.samplers import Ancestral

Path(__file__).with_suffix(".imported").touch()


class SlowRates(BirthDeathRates):
    '''Slow ones.'''


class Steep(SlowRates):
    name = "steeper"


class Unfinished(RateMatrix):
    pass


class Picky(BirthDeathRates):
    def __init__(self, num_states, table):
        super().__init__(num_states)


class Alone:
    pass


class Name(BirthDeathRates):
    pass


class Dotted(BirthDeathRates):
    name = "a.b"


class Steps(Ancestral):
    pass


class Guidance(Ancestral):
    pass


class Scale(GuidanceScale):
    name = "g"

    def __call__(self, t):
        return t


class FlooredDenoiser(X0Denoiser):
    pass


class BareDenoiser(X0Denoiser):
    def __init__(self, process, network, event_shape):
        super().__init__(process, network, event_shape)


class NarrowGrid(BoundedLogSNRGrid):
    pass


class Fixed(GuidanceScale):
    def __init__(self, strength: float = 3.0):
        object.__setattr__(self, "strength", strength)

    def __call__(self, t):
        return t * 0 + self.strength


class Failure(Exception):
    pass


class Loud(Failure):
    pass


class Listed(list):
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory, which nobody trusts yet; next to it is what its import leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_classes, "_TRUSTED", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_rates", raising=False)
    path = tmp_path / "own_rates.py"
    path.write_text(RATES)
    yield path.with_suffix(".imported")
    sys.modules.pop("own_rates", None)


def load(name: str) -> configuration.ConfigDict:
    return configuration.load("mnist_uniform", [f"--config.process.rates.name={name}"])


def test_a_class_that_was_typed_is_imported_from_the_working_directory(module: Path) -> None:
    config = load("own_rates:SlowRates")
    assert module.exists()
    assert config.process.rates.to_dict() == {"name": "own_rates:SlowRates", "slow": {"scale": 1.0}}
    assert type(build_process(config).rates).__name__ == "SlowRates"
    changed = configuration.load(
        "mnist_uniform", [*[f"--config.process.rates.{key}" for key in ("name=own_rates:Steep", "steeper.scale=2")]]
    )
    assert build_process(changed).rates.scale == 2


def test_a_configuration_file_may_name_a_class(module: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from configs import mnist_uniform\n\n\ndef get_config():\n    config = mnist_uniform.get_config()\n"
        "    config.update(process={'rates': {'name': 'own_rates:SlowRates', 'slow': {'scale': 48.0}}})\n    return config\n"
    )
    assert configuration.load("./mine.py").process.rates.slow.scale == 48


def test_the_constructor_of_a_network_may_read_values(module: Path, tmp_path: Path) -> None:
    """As networks do that compute a share of dropout for each block."""
    (tmp_path / "own_network.py").write_text(
        "import torch\nfrom backbones import DiT\n\n\nclass Deep(DiT):\n"
        "    def __init__(self, img_size, in_channels, out_channels):\n"
        "        self.shares = [share.item() for share in torch.linspace(0, 0.1, 3)]\n"
        "        super().__init__(img_size, in_channels, depth=1, hidden_dim=16, num_heads=2, out_channels=out_channels)\n"
    )
    config = configuration.load("mnist_uniform", ["--config.model.name=own_network:Deep"])
    assert cost.estimate(config).parameters == sum(each.numel() for each in build_network(config).parameters())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("own_rates:SlowRates", "'slow': {'scale': 48.0}"), ("own_rates:Missing", ""), ("json:nope", ""), ("nowhere:Rates", "")],
)
def test_a_choice_of_a_configuration_file_can_be_replaced(module: Path, tmp_path: Path, name: str, settings: str) -> None:
    """The settings of the first choice are left out, even if its module was not imported before, or does not exist."""
    (tmp_path / "mine.py").write_text(
        "from configs import mnist_uniform\n\n\ndef get_config():\n    config = mnist_uniform.get_config()\n"
        f"    config.update(process={{'rates': {{'name': '{name}', {settings}}}}})\n    return config\n"
    )
    config = configuration.load("./mine.py", ["--config.process.rates.name=uniform"])
    assert config == configuration.load("mnist_uniform", ["--config.process.rates.name=uniform"])


def test_the_replaced_choice_of_a_loaded_configuration_is_not_imported(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"process": {"rates": {"name": "own_rates:SlowRates"}}}
    monkeypatch.setitem(sys.modules, "own_rates", Unread())
    assert configuration._with(given, {"process.rates.name": "uniform"}) == {"process": {"rates": {"name": "uniform"}}}
    assert not module.exists()


class Unread:
    """A module that nobody trusts."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was read")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("subprocess:Popen", "'subprocess:Popen': there is no module subprocess of yours"),
        ("os.path:join", "there is no module os.path of yours"),
        ("nowhere:Rates", "there is no module nowhere of yours"),
        ("own_rates:SlowRate", "defines no class SlowRate. Did you mean SlowRates?"),
        ("own_rates:Alone", "'own_rates:Alone': it is no subclass of RateMatrix"),
        ("own_rates:Loud", "'own_rates:Loud': it is no subclass of RateMatrix"),
        ("own_rates:Listed", "'own_rates:Listed': it is no subclass of RateMatrix"),
    ],
)
def test_what_is_no_subclass_is_refused_before_it_is_imported(module: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.process\.rates\.name = ") as error:
        load(name)
    assert message in str(error.value)
    assert not module.exists()
    assert "own_rates" not in sys.modules


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("process.schedule", "own_rates:SlowRates", "'own_rates:SlowRates': it is no subclass of Schedule"),
        (
            "process.rates",
            "own_rates:Unfinished",
            "'own_rates:Unfinished': it is abstract: it lacks kernel, rates_from, rates_to",
        ),
        ("process.rates", "own_rates:Picky", "'own_rates:Picky': the argument table of Picky can be no setting"),
    ],
)
def test_what_cannot_be_chosen_there_is_refused(module: Path, key: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"config.{key}.name = ") as error:
        configuration.load("mnist_uniform", [f"--config.{key}.name={name}"])
    assert message in str(error.value)


def test_a_setting_acts_on_a_class_that_has_the_argument(module: Path) -> None:
    def denoiser(cls: str, floor: float | str) -> Denoiser:
        flags = [f"--config.model.parameterisation.name=own_rates:{cls}", f"--config.sampler.evidence_floor={floor}"]
        config = configuration.load("mnist_uniform", flags)
        return build_sampler(config, build_denoiser(config, build_process(config), build_shapes(config))).denoiser

    assert denoiser("FlooredDenoiser", 0.2).evidence_floor == 0.2
    assert denoiser("BareDenoiser", "none").evidence_floor == 0
    expected = r"evidence_floor = 0\.2 cannot act, expected none: config\.model\.\w+\.name = 'own_rates:BareDenoiser'$"
    with pytest.raises(ConfigError, match=rf"^config\.sampler\.{expected}"):
        denoiser("BareDenoiser", 0.2)


def test_a_scale_without_the_argument_g_always_guides(module: Path) -> None:
    flags = ["--config.sampler.guidance.name=own_rates:Fixed", "--config.sampler.guidance.fixed.strength=5"]
    config = configuration.load("mnist_guided_discrete", flags)
    sampled = build_sampler(config, build_denoiser(config, build_process(config), build_shapes(config))).denoiser
    assert isinstance(sampled, PosteriorGuidance)
    assert sampled.scale.strength == 5
    expected = r"^config\.sampler\.guidance\.name = 'own_rates:Fixed', expected 'constant': config\.model\.num_classes = 0"
    with pytest.raises(ConfigError, match=expected):
        configuration.check(configuration.load("mnist", flags))


def test_the_bound_takes_the_times_of_a_grid_with_its_own_ends(module: Path) -> None:
    flags = [
        "--config.process.T=50",
        "--config.sampler.grid.name=own_rates:NarrowGrid",
        "--config.sampler.grid.narrow.log_snr_max=7",
    ]
    config = configuration.load("mnist_laplace", flags)
    grid = engine_of(config).bound_times(config).grid
    assert (type(grid).__name__, grid.steps, grid.log_snr_max) == ("NarrowGrid", 49, 7)


@pytest.mark.parametrize(
    ("key", "name", "called"),
    [
        ("sampler", "Steps", "steps"),  # a setting beside the choice
        ("sampler", "Guidance", "guidance"),  # a place beside it
        ("sampler.guidance", "Scale", "g"),  # an argument of the base class
        ("process.rates", "Name", "name"),  # the choice itself
        ("process.rates", "Dotted", "a.b"),  # two keys
    ],
)
def test_a_class_whose_name_cannot_be_a_key_is_refused(module: Path, key: str, name: str, called: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration.load("mnist_uniform", [f"--config.{key}.name=own_rates:{name}"])
    assert str(error.value) == (
        f"config.{key}.name = 'own_rates:{name}': {name} is called '{called}' in keys, expected a name without dots that is no "
        "key beside it: set its class attribute `name`"
    )


def test_a_module_that_fails_says_how(module: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_rates.py").write_text("from own_rates import SlowRates\nclass Mine(SlowRates): pass\n1 / 0\n")
    with pytest.raises(ConfigError, match="'broken_rates:Mine': it cannot be imported: ZeroDivisionError: division by zero"):
        load("broken_rates:Mine")


def test_a_configuration_that_is_loaded_chooses_no_code(module: Path) -> None:
    text = configuration.to_json(load("own_rates:SlowRates"))
    sys.modules.pop("own_rates")
    module.unlink()
    user_classes._TRUSTED.clear()
    with pytest.raises(ConfigError, match=r"--trust=own_rates allows it"):
        configuration.from_json(text)
    trust(["another"])
    with pytest.raises(ConfigError, match=r"--trust=own_rates allows it"):
        configuration.from_json(text)
    assert not module.exists()
    trust(["own_rates"])
    assert configuration.from_json(text).process.rates.name == "own_rates:SlowRates"
    assert module.exists()


def test_the_messages_about_a_run_say_which_module_to_trust(module: Path, tmp_path: Path) -> None:
    config, folder = load("own_rates:SlowRates"), RunFolder(tmp_path / "my runs")
    folder.prepare(config)
    words = shlex.split(folder.resume_command(config))
    assert words[:2] == ["ctdiff", "train"]
    _, given = verb("train").read(words[2:])
    assert (given["workdir"], given["resume"], given["trust"]) == (f"{tmp_path}/my runs", True, ["own_rates"])
    user_classes._TRUSTED.clear()
    with pytest.raises(RunError, match=r"my runs has config.json, .*Nothing was changed.*--trust=own_rates allows it$"):
        folder.inspect(configuration.load("mnist_uniform"))
    assert "--trust" not in folder.resume_command(configuration.load("mnist_uniform"))


@pytest.mark.parametrize("path", ["data", "loss", "sampler", "model", "sampler.grid", "model.head", "optimizer.schedule"])
def test_no_place_of_a_loaded_configuration_chooses_code(module: Path, path: str) -> None:
    content = json.loads(configuration.to_json(configuration.load("mnist_uniform")))
    node = content
    for key in path.split("."):
        node = node[key]
    node["name"] = "own_rates:SlowRates"
    with pytest.raises(ConfigError, match=f"config.{path}.name = .*--trust=own_rates allows it"):
        configuration.from_json(json.dumps(content))
    assert not module.exists()


def test_the_command_line_trusts_what_it_is_told_to(module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = (
        "training.steps=1",
        "training.batch_size=2",
        "sampler.steps=1",
        "sampler.num_samples=1",
        "saving.validation_images=2",
    )
    flags = [
        f"--config.{each}"
        for each in (*short, "process.rates.name=own_rates:SlowRates", "model.unet.widths=8", "model.unet.blocks=1")
    ]
    assert main(["train", "--config=mnist_uniform", f"--workdir={tmp_path / 'run'}", *flags]) == 0
    for command in (["sample", f"{tmp_path / 'run'}"], ["train", f"--workdir={tmp_path / 'run'}", "--resume"]):
        user_classes._TRUSTED.clear()
        sys.modules.pop("own_rates", None)
        capsys.readouterr()
        assert main(command) == 2
        assert "--trust=own_rates allows it" in capsys.readouterr().err
        assert "own_rates" not in sys.modules
        assert main([*command, "--trust=own_rates"]) == 0
