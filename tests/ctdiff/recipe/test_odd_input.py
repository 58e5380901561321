"""Odd input is refused in one line: values that no setting has, classes that cannot be read, files of other people."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ctdiff import config as configuration
from ctdiff.config import ConfigError
from ctdiff.recipe import user_classes
from ctdiff.sample_files import name_of_file
from diffusion_core import HalfMask, Objective, StratifiedTimes
from diffusion_core.known import KnownMask, PrefixMask
from discrete_diffusion import CTELBO, CTMC, ELBO, LeaveOneOutDenoiser
from discrete_diffusion.rates import UniformRates
from discrete_diffusion.samplers.initial import GaussianInitialLaw
from discrete_diffusion.schedules import Constant


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.unet.widths", "b'@@'"),
        ("model.unet.widths", "{64: 1, 128: 2}"),
        ("model.unet.widths", "{64, 128}"),
        ("training.steps", "{[]: 1}"),
        ("training.steps", "-" * 100_000 + "1"),
        ("optimizer.lr", "1" + "0" * 400),
        ("process.rates.gaussian_target.sigma_r", "1e308"),
        ("sampler.guidance.name", "interval"),
    ],
)
def test_no_text_ends_in_a_trace(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.{key.rpartition('.')[0]}"):
        configuration.load("mnist", [f"--config.{key}={text}"])


def test_numbers_of_numpy_become_pythons() -> None:
    config = configuration.complete({"training": {"steps": np.int64(5)}, "optimizer": {"lr": np.float64(0.5)}})
    assert (type(config.training.steps), type(config.optimizer.lr)) == (int, float)
    assert configuration.from_json(configuration.to_json(config)) == config


SAMPLERS = """
from continuous_diffusion.samplers import *
from diffusion_core.ranges import Positive


class TauLeaping(DDIM):
    '''A name that the other engine has too.

    Arguments:
        strength: a number.
    '''

    def __init__(self, denoiser, grid, *, strength: Positive = 1.0) -> None:
        super().__init__(denoiser, grid)
        self.strength = strength


class A(B):
    pass


class B(A):
    pass
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_classes, "_TRUSTED", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "odd_samplers.py").write_text(SAMPLERS.split("class A")[0])
    (tmp_path / "odd_circle.py").write_text("class A(B): pass\n\n\nclass B(A): pass\n")
    (tmp_path / "odd_syntax.py").write_text("class A(:\n")
    (tmp_path / "odd_hints.py").write_text(
        "from __future__ import annotations\nimport torch\nfrom continuous_diffusion.samplers import DDIM\n\n\n"
        "class A(DDIM):\n    def __init__(self, denoiser, grid: Unknown) -> None:\n        pass\n\n\n"
        "class B(A):\n    def __init__(self, denoiser, grid, table: torch.Tensr) -> None:\n        pass\n\n\n"
        "class C(A):\n    def __init__(self, denoiser, grid, table: '1 +') -> None:\n        pass\n\n\n"
        "class D(A):\n    def __init__(self, denoiser, grid, table: type[torch.Tensor] | None) -> None:\n        pass\n"
    )
    yield tmp_path
    for name in ("odd_samplers", "odd_circle", "odd_syntax", "odd_hints"):
        sys.modules.pop(name, None)


def test_settings_of_a_users_class_survive_whatever_the_other_engine_calls_its_own(modules: Path) -> None:
    flags = ["--config.sampler.name=odd_samplers:TauLeaping", "--config.sampler.tau_leaping.strength=0.5"]
    config = configuration.load("mnist_ddpm", flags)
    assert configuration.from_json(configuration.to_json(config)) == config
    assert configuration.changed(config, {"sampler.steps": 3}).sampler.tau_leaping.strength == 0.5
    assert "tau_leaping" not in configuration.changed(config, {"sampler.name": "ddim"}).sampler


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_circle:A", "is no subclass of Sampler"),
        ("odd_syntax:A", "is no Python"),
        (
            "odd_hints:A",
            "annotations that cannot be evaluated: NameError: name 'Unknown' is not defined; import what they name",
        ),
        ("odd_hints:B", "annotations that cannot be evaluated: AttributeError: module 'torch' has no attribute 'Tensr'"),
        ("odd_hints:C", "annotations that cannot be evaluated: SyntaxError: "),
        ("odd_hints:D", "the argument table of D can be no setting"),
        (":A", "expected one of ancestral"),
    ],
)
def test_classes_that_cannot_be_read_are_refused(modules: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.sampler\.name = ") as error:
        configuration.load("mnist_ddpm", [f"--config.sampler.name={name}"])
    assert message in str(error.value)


def test_trust_in_a_typed_class_is_for_that_class_alone(modules: Path) -> None:
    text = configuration.to_json(configuration.load("mnist_ddpm", ["--config.sampler.name=odd_samplers:TauLeaping"]))
    configuration.from_json(text)
    with pytest.raises(ConfigError, match="--trust=odd_samplers allows it"):
        configuration.from_json(text.replace("odd_samplers:TauLeaping", "odd_samplers:DDIM"))


def test_a_preset_can_be_trained_with_the_other_engine() -> None:
    flags = ["--config.process.engine=discrete", "--config.process.schedule.name=exponential"]
    config = configuration.load("cifar10_ddpm", flags)
    assert (config.process.engine, config.sampler.name) == ("discrete", "ancestral")


def test_configuration_files_do_not_share_their_neighbours(tmp_path: Path) -> None:
    for folder, steps in (("one", 11), ("other", 22)):
        (tmp_path / folder / "common").mkdir(parents=True)
        (tmp_path / folder / "common" / "__init__.py").write_text(f"STEPS = {steps}\n")
        (tmp_path / folder / "mine.py").write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom common import STEPS\n"
            "from configs import mnist\n\n\n@dataclass\nclass Mine:\n    steps: int = STEPS\n\n\n"
            "def get_config():\n    config = mnist.get_config()\n    config.update(training={'steps': Mine().steps})\n"
            "    return config\n"
        )
    loaded = [configuration.load(str(tmp_path / folder / "mine.py")).training.steps for folder in ("one", "other")]
    assert loaded == [11, 22]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"training": {"steps": 1' + "0" * 5000 + "}}"])
def test_damaged_json_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json"):
        configuration.from_json(text, "config.json")


class Padded(LeaveOneOutDenoiser):
    """The last two positions are padding."""

    def active(self, x_0: torch.Tensor, **cond: torch.Tensor) -> torch.Tensor:
        return (torch.arange(8) < 6).expand_as(x_0)


def _denoiser(cls: type[LeaveOneOutDenoiser]) -> LeaveOneOutDenoiser:
    return cls(CTMC(UniformRates(4), Constant(4.0)), lambda x, t, **cond: torch.zeros(*x.shape, 4), (8,))


def test_known_positions_stay_clean_beside_padding() -> None:
    x_0 = torch.randint(4, (64, 8), generator=torch.Generator().manual_seed(0))
    sample, cond = Objective(_denoiser(Padded), ELBO(), StratifiedTimes(), known=HalfMask()).draw(x_0)
    assert torch.equal(sample.x_t[cond["known"]], x_0[cond["known"]])
    assert not (sample.active & cond["known"]).any()


def test_an_example_that_is_all_known_has_no_loss() -> None:
    objective = Objective(_denoiser(LeaveOneOutDenoiser), CTELBO(), StratifiedTimes(), known=PrefixMask((0.0, 1.0)))
    sample, cond = objective.draw(torch.randint(4, (64, 8)), torch.Generator().manual_seed(0))
    whole = cond["known"].all(1)
    loss = objective(sample, **cond)
    assert whole.any()
    assert loss.isfinite().all()
    assert (loss[whole] == 0).all()


def test_a_mask_of_rows_and_columns_is_of_rows_and_columns() -> None:
    class FirstRow(KnownMask):
        def draw(self, batch: int, size: tuple[int, int], randomness: object, device: object) -> torch.Tensor:
            return (torch.arange(size[0]) == 0)[:, None].expand(size)

    for shape in ((2, 4, 4, 4), (2, 1, 4, 6)):
        known = FirstRow()(shape)
        assert known[:, :, 0].all()
        assert not known[:, :, 1:].any()


def test_a_narrow_initial_law_is_one_value() -> None:
    law = GaussianInitialLaw(1e-200)(4, torch.device("cpu"))
    assert law.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_given_files_of_one_name_get_different_samples(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_text(folder)
    names = [name_of_file(str(tmp_path / folder / "x.png")) for folder in ("a", "b")]
    assert names[0] != names[1]
    assert name_of_file("test:0-7") == "test:0-7"
