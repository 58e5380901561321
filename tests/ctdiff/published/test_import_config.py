"""`ctdiff import-config`: published configuration files become presets, without being executed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from backbones import UNET_SIZES
from ctdiff import config as configuration
from ctdiff import cost, load_run, published, recipe, sample_run, train
from ctdiff.cli import main
from ctdiff.published.preset import nested
from ctdiff.recipe import tables

from ..tiny_runs import images

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FILES = ("mnist_dit.py", "mnist_uvit.yaml", "cifar10_unet.py")

EXPECTED = {
    "mnist_dit.py": {
        "data.name": "mnist",
        "data.mnist.download": True,
        "data.mnist.path": "lib/datasets/",
        "data.image_size": (28, 28),
        "data.channels": 1,
        "data.num_values": 256,
        "data.rotation": 0.0,
        "model.name": "dit",
        "model.head.name": "truncated_logistic",
        "model.parameterisation.name": "x0",
        "model.dit.patch_size": 4,
        "model.dit.hidden_dim": 512,
        "model.dit.depth": 7,
        "model.dit.num_heads": 8,
        "model.dit.mlp_ratio": 4.0,
        "model.dit.dropout": 0.0,
        "model.dit.time_scale": 1000.0,
        "process.t_min": 0.02,
        "process.t_max": 0.999,
        "process.rates.name": "gaussian_target",
        "process.rates.gaussian_target.sigma_r": 5.5,
        "process.rates.gaussian_target.Q": 500.0,
        "process.schedule.exponential.a": 2.5,
        "process.schedule.exponential.b": 90.0,
        "loss.name": "cross_entropy",
        "loss.label_dropout": 0.2,
        "training.steps": 300_000,
        "training.clip": 2.0,
        "training.batch_size": 32,
        "training.ema_decay": 0.9999,
        "training.device": "cpu",
        "optimizer.name": "adam",
        "optimizer.lr": 2e-4,
        "optimizer.weight_decay": 0.0,
        "optimizer.adam.betas": (0.9, 0.999),
        "optimizer.schedule.name": "constant",
        "optimizer.schedule.warmup": 0,
        "sampler.name": "tau_leaping",
        "sampler.tau_leaping.leap.name": "ordinal",
        "sampler.steps": 500,
        "sampler.t_min": None,
        "sampler.corrector.name": "none",
        "saving.checkpoint_every": 1000,
        "saving.preview_every": 1500,
    },
    "mnist_uvit.yaml": {
        "training.device": "cuda",
        "training.clip": 0.0,
        "model.name": "uvit",
        "model.head.name": "categorical",
        "model.uvit.depth": 12,
        "model.uvit.time_mlp": True,
        "model.uvit.dropout": 0.0,
        "loss.name": "ct_elbo",
        "loss.ct_elbo.one_forward_pass": True,
        "loss.ct_elbo.nll_weight": 0.001,
        "sampler.tau_leaping.initial.name": "uniform",
        "optimizer.lr": 2e-4,
        "optimizer.schedule.warmup": 2500,
        "process.t_min": 0.01,
        "sampler.t_min": 0.005,
        "sampler.tau_leaping.leap.name": "categorical",
        "sampler.corrector.name": "forward_backward",
        "sampler.corrector.corrector_steps": 10,
        "sampler.corrector.step_multiplier": 1.5,
        "sampler.corrector.entry_time": 0.1,
        "sampler.corrector.forward_backward.leap.name": "categorical",
    },
    "cifar10_unet.py": {
        "data.name": "cifar10",
        "data.cifar10.path": "datasets",
        "data.image_size": (32, 32),
        "data.channels": 3,
        "data.flip": True,
        "model.unet.residual_scale": 0.5**0.5,
        "training.clip": 1.0,
        "training.batch_size": 128,
        "optimizer.schedule.warmup": 5000,
        "saving.keep": 2,
        "saving.preview_every": 10_000,
    },
}


def imported(file, folder, name="mine.py"):
    """The path of the preset that a file becomes."""
    out = folder / name
    assert main(["import-config", str(file), f"--out={out}"]) == 0
    return out


@pytest.mark.parametrize("name", FILES)
def test_values_have_their_homes(name, tmp_path, capsys):
    config = configuration.load(str(imported(HERE / name, tmp_path)))
    flat = configuration.flatten(config)
    assert {key: flat[key] for key in EXPECTED[name]} == EXPECTED[name]
    printed = capsys.readouterr().out
    assert "not understood" not in printed
    for key in ("eps_ratio", "fix_logistic", "distributed", "num_gpus", "train_step_name", "shuffle"):
        assert key in printed
    assert printed.count("torchrun") == 2


def test_the_published_unet_is_ddpms(tmp_path):
    """Its network is `cifar10_tauldr`'s, which has the parameters of DDPM's with 6 channels out."""
    config = configuration.load(str(imported(HERE / "cifar10_unet.py", tmp_path)))
    preset = configuration.load("cifar10_tauldr")
    assert {**config.model.unet, "blocks": (2,) * 4} == {**preset.model.unet}
    assert cost.estimate(config).parameters == cost.estimate(preset).parameters
    assert tuple(config.model.unet.widths) == UNET_SIZES["ddpm_cifar10"]["widths"]
    assert configuration.differences(config.process, preset.process) == {}


@pytest.mark.parametrize("name", FILES)
def test_a_preset_says_only_what_it_changes(name, tmp_path):
    path = imported(HERE / name, tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace: dict = {}
    exec(compile(text, path, "exec"), namespace)  # it is ours
    given = configuration.flatten(namespace["get_config"]().to_dict())
    whole = configuration.flatten(configuration.load(str(path)))
    for key in given:
        fewer = nested({name: value for name, value in given.items() if name != key})
        assert configuration.flatten(configuration.complete(fewer)) != whole, key
    assert max(map(len, text.splitlines())) <= 128


def test_an_imported_configuration_trains_and_samples(tmp_path):
    small = {
        **{key.replace("__", "."): value for key, value in images(tmp_path, 20).items()},
        "data.image_size": (8, 8),
        "model.dit.depth": 1,
        "model.dit.hidden_dim": 16,
        "model.dit.num_heads": 2,
        "training.steps": 2,
        "training.batch_size": 4,
        "training.precision": "float32",
        "sampler.steps": 2,
        "sampler.num_samples": 2,
        "saving.validation_images": 2,
        "saving.preview_samples": 1,
        "saving.preview_steps": 2,
    }
    config = configuration.changed(configuration.load(str(imported(HERE / "mnist_dit.py", tmp_path))), small)
    train(config, tmp_path / "run")
    assert load_run(tmp_path / "run").config.process.t_min == 0.02
    assert all(path.is_file() for path in sample_run(tmp_path / "run", num_samples=1, out=tmp_path / "drawn").files)


def test_the_same_keys_in_yaml_and_in_python_are_the_same(tmp_path):
    lines = ["import ml_collections", "def get_config():", "    config = ml_collections.ConfigDict()"]
    for key, leaf in published.read_published(HERE / "mnist_uvit.yaml").leaves.items():
        section = key.rpartition(".")[0]
        if section and f"config.{section} = " not in "\n".join(lines):
            lines.append(f"    config.{section} = {section} = ml_collections.ConfigDict()")
        lines.append(f"    config.{key} = {leaf.value!r}")
    (tmp_path / "uvit.py").write_text("\n".join([*lines, "    return config", ""]))
    one, other = (
        imported(file, tmp_path, f"{file.suffix[1:]}.py") for file in (tmp_path / "uvit.py", HERE / "mnist_uvit.yaml")
    )
    assert one.read_text().replace("uvit.py", "mnist_uvit.yaml") == other.read_text()


# Translations


def translated(text, folder):
    """The translation of `mnist_dit.py` with lines added before its end."""
    path = folder / "theirs.py"
    added = "".join(f"    {line}\n" for line in text.splitlines())
    path.write_text((HERE / "mnist_dit.py").read_text().replace("    return config", f"{added}    return config"))
    return published.translated(published.read_published(path))


@pytest.mark.parametrize(
    ("line", "homes"),
    [
        ("training.clip_grad = False", {"training.clip": 0.0}),
        ("model.name = 'GaussianLogDiT'", {"training.ema_decay": 0.0}),
        ("model.model_output = 'logits'", {"model.head.name": "categorical"}),
        ("data.S = 16", {"data.num_values": 16}),
        ("data.image_size = 32\ndata.shape = (1, 32, 32)", {"data.image_size": (32, 32)}),
        ("sampler.name = 'ElboLBJF'", {"sampler.name": "euler"}),
        ("sampler.name = 'MidPointTauL'", {"sampler.name": "midpoint_tau_leaping"}),
        ("sampler.initial_dist = 'uniform'", {"sampler.tau_leaping.initial.name": "uniform"}),
        (
            "model.name = 'UniVarUnetEMA'\nmodel.t_func = 'sqrt_cos'\nmodel.rate_const = 2.0\ndata.S = 2",
            {
                "process.schedule.name": "cosine_root",
                "process.rates.uniform.scale": 4.0,
                "sampler.tau_leaping.initial.name": "gaussian",
                "sampler.tau_leaping.initial.gaussian.std": 500.0,
            },
        ),
        ("optimizer = config.optimizer\noptimizer.name = 'AdamW'", {"optimizer.name": "adamw", "optimizer.weight_decay": 0.01}),
        ("training.n_iters = 2e5", {"training.steps": 200_000}),
        ("data.name = 'DiscreteFashionMNIST'", {"data.name": "fashion_mnist", "data.fashion_mnist.path": "lib/datasets/"}),
        # A uniform rate of 0.03 to each of 256 values is a uniform draw at the rate 0.03 * 256.
        (
            "model.name = 'UniformRateUnetEMA'\nmodel.rate_const = 0.03\nmodel.ch = 32\nmodel.ch_mult = [1, 2]\n"
            "model.attn_resolutions = [14]\nmodel.num_res_blocks = 2",
            {
                "process.rates.name": "uniform",
                "process.rates.uniform.scale": 0.03 * 256,
                "process.schedule.name": "constant",
                "process.schedule.constant.rate": 1.0,
                "model.unet.widths": (32, 64),
                "model.unet.groups": 8,
                "model.unet.attention_levels": (1,),
            },
        ),
    ],
)
def test_values_that_are_translated(line, homes, tmp_path):
    given = translated(line, tmp_path).given
    assert {key: given.get(key) for key in homes} == homes


def test_the_uniform_rates_are_the_published_ones(tmp_path):
    """Off the diagonal, the published matrix is rate_const everywhere."""
    text = "data.S = 16\nmodel.name = 'UniformRateUnetEMA'\nmodel.rate_const = 0.03\nmodel.ch = 32\nmodel.ch_mult = [1, 2]"
    config = configuration.complete(nested(translated(text, tmp_path).given))
    process = recipe.build_process(config)
    t = torch.tensor(0.4, dtype=torch.float64)
    rates = process.beta(t) * process.rates.rates_from(torch.arange(16), torch.float64)
    expected = torch.full((16, 16), 0.03, dtype=torch.float64).fill_diagonal_(-15 * 0.03)
    torch.testing.assert_close(rates, expected)


def test_the_published_loss_is_chosen(tmp_path):
    given = translated("loss.name = 'CTElbo'\nloss.nll_weight = 0.5", tmp_path).given
    loss = {"loss.name": "ct_elbo", "loss.ct_elbo.nll_weight": 0.5, "loss.ct_elbo.one_forward_pass": True}
    assert {key: value for key, value in given.items() if key in loss} == loss


def test_keys_that_cannot_act_are_dropped(tmp_path):
    translation = translated(
        "model.name = 'GaussianUViTEMA'\nmodel.ch = 4\nmodel.skip_rescale = True\nmodel.colour = 3", tmp_path
    )
    dropped = {note.key: note.text for note in translation.dropped}
    assert dropped["model.skip_rescale"] == "there is no key model.unet.residual_scale with model.name = 'uvit'"
    assert "only together" in dropped["model.ch"]
    assert "this published key is not known" in dropped["model.colour"]


# What is not understood, and what is refused


NOT_UNDERSTOOD = """\
    lr = find_rate()
    config.optimizer.lr = lr
    if config.device:
        training.n_iters = 7
    data.batch_size += 1
    def inner(): pass
    data.S = [[1], [2]]
    model.depth = 2 ** 10 ** 9
    return config
def find_rate():
    return 0.1
"""


def test_lines_that_are_not_understood_are_listed(tmp_path, capsys):
    text = (HERE / "mnist_dit.py").read_text().replace("    return config", "")
    path = tmp_path / "theirs.py"
    path.write_text(text + NOT_UNDERSTOOD)
    translation = published.translated(published.read_published(path))
    start = len(text.splitlines())
    assert {each.line - start: each.why for each in translation.skipped} == {
        1: "find_rate(...)",
        2: "lr",
        3: "If",
        5: "AugAssign",
        6: "FunctionDef",
        7: "a list of lists",
        8: "Pow",
        10: "FunctionDef",
    }
    # What such a line may have assigned is unknown: a value of an earlier line is not taken.
    for home in ("optimizer.lr", "training.steps", "training.batch_size", "data.num_values", "model.dit.depth"):
        assert home not in translation.given
    imported(path, tmp_path)
    assert f"line {start + 1}: lr = find_rate() (find_rate(...))" in capsys.readouterr().out


HARMFUL = """
import os, pathlib
pathlib.Path({mark!r}).touch()
os.system("touch {mark}")
{more}
class Trap(dict):
    pathlib.Path({mark!r}).touch()
@os.system("touch {mark}")
def get_config(x=os.system("touch {mark}")):
    config = Config = __import__("ml_collections").ConfigDict()
    eval("open({mark!r}, 'w')")
    [open({mark!r}, "w") for _ in range(2)]
    return config
"""


def test_nothing_is_executed(tmp_path, capsys, monkeypatch):
    """Not in the file, and not in modules beside it that it imports."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "executed"
    (tmp_path / "beside.py").write_text(f"open({str(mark)!r}, 'w')\n")
    source = (HERE / "mnist_dit.py").read_text()
    (tmp_path / "a.py").write_text(HARMFUL.format(mark=str(mark), more="import beside"))
    (tmp_path / "b.py").write_text(
        source.replace("import os", f"import os, beside\nos.system('touch {mark}')").replace(
            "512", f"(open({str(mark)!r}, 'w'), 512)[1]"
        )
    )
    (tmp_path / "c.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {mark}']\n")
    (tmp_path / "d.yaml").write_text(f"model: {{name: !!python/object/apply:os.system ['touch {mark}']}}\n")
    assert main(["import-config", "a.py"]) == 2
    assert main(["import-config", "b.py"]) == 0
    for name in ("c.yaml", "d.yaml"):
        assert main(["import-config", name]) == 2
        assert "line 1: not understood" in capsys.readouterr().err
    assert not mark.exists()
    text = (tmp_path / "b_ctdiff.py").read_text()
    assert "touch" not in text
    assert "512" not in text


def test_names_and_texts_of_a_file_stay_texts(tmp_path):
    """A value, or the name of a file, cannot put code into the preset."""
    path = tmp_path / '""" + print(1) + """.py'
    text = """'"); import os #\\'\\"\\n"""
    path.write_text((HERE / "mnist_dit.py").read_text().replace('"lib/datasets/"', repr(text)))
    out = imported(path, tmp_path)
    assert configuration.load(str(out)).data.mnist.path == text
    assert out.read_text().splitlines()[0] == '"""Imported from ___ _ print_1_ _ ___.py by `ctdiff import-config`."""'


START = "import ml_collections\ndef get_config():\n    config = ml_collections.ConfigDict()\n"
NINE = [", ".join(f"k{j}: *x{i}" for j in range(9)) for i in range(7)]
ALIASES = "x0: &x0 {k: 1}\n" + "".join(f"x{i + 1}: &x{i + 1} {{{nine}}}\n" for i, nine in enumerate(NINE))
"""Few lines that stand for 9^7 keys."""

DAMAGED = [
    ("a.py", "def get_config(:\n", "a.py, line 1: not Python: "),
    ("a.py", "x = '\0'\n", "a.py"),
    ("a.py", "x = " + "(" * 3000 + ")" * 3000, "a.py"),
    ("a.py", "x = 1\n", "a.py: has no function get_config()"),
    ("a.py", "def get_config():\n    pass\n", "a.py: get_config() returns nothing"),
    ("a.py", "def get_config():\n    return 3\n", "a.py, line 2: get_config() does not return a ConfigDict that it has made"),
    ("a.py", START + "    config.device = cuda\n    return config\n", "a.py, line 4: the name 'cuda' is not defined"),
    ("a.py", START + "    config.a = config.b\n    return config\n", "a.py, line 4: config.b is not assigned before"),
    (
        "a.py",
        START + "    config.a = [1, 2]\n    config.b = config.a[2]\n    return config\n",
        "a.py, line 5: config.a[2] does not exist",
    ),
    ("a.py", START + "    config.a = config\n    return config\n", "a.py: nested too deeply"),
    ("a.py", START + "    return config\n", "a.py: config.model.name is missing, expected one of GaussianTargetRate, "),
    ("a.yaml", "a: [1\n", "a.yaml, line 2: not YAML: "),
    ("a.yaml", "a: {b: '\0'}\n", "a.yaml: not YAML: "),
    ("a.yaml", "a: {b: 2024-13-45}\n", "a.yaml, line 1: not YAML: "),
    ("a.yaml", "- 1\n", "a.yaml: there is no configuration, expected sections with keys"),
    ("a.yaml", "", "a.yaml: there is no configuration"),
    ("a.yaml", "a: &a {b: *a}\n", "a.yaml: nested too deeply"),
    ("a.yaml", "a: {b: " * 3000 + "1" + "}" * 3000, "a.yaml"),
    ("a.yaml", ALIASES, "a.yaml: more than 2000 keys"),
    ("a.json", "{}", "a.json: expected a .py or a .yaml file"),
]


@pytest.mark.parametrize(("name", "text", "message"), DAMAGED)
def test_a_damaged_file_is_one_line(name, text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    refused(["import-config", name], message, capsys)


def refused(arguments, message, capsys):
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("ctdiff: ")
    assert message in err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


WRONG = [
    ("training.n_iters = 'many'", "config.training.n_iters = 'many': expected an integer"),
    ("training.n_iters = 2.5", "config.training.n_iters = 2.5: expected an integer"),
    ("training.n_iters = 0", "config.training.n_iters = 0: config.training.steps = 0, expected an integer of at least 1"),
    ("training.clip_grad = 1", "config.training.clip_grad = 1: expected True or False"),
    ("training.max_t = 2", "config.training.max_t = 2: config.process.t_max = 2.0, expected a number in (0, 1]"),
    ("data.shape = [1, 28]", "config.data.shape = [1, 28]: expected channels, height and width"),
    (
        "data.shape = [1, 32, 32]",
        "config.data.shape = [1, 32, 32]: expected a height and a width of config.data.image_size = 28",
    ),
    ("model.input_channel = 3", "config.model.input_channel = 3: expected the channels of config.data.shape = [1, 28, 28]"),
    ("data.name = 'LakhPianoroll'", "config.data.name = 'LakhPianoroll': expected one of DiscreteMNIST, "),
    ("model.name = 'GaussianHollowEMA'", "config.model.name = 'GaussianHollowEMA': expected one of GaussianTargetRate, "),
    ("model.model_output = 'pars'", "config.model.model_output = 'pars': expected one of logistic_pars, "),
    ("loss.name = 'CatRM'", "config.loss.name = 'CatRM': expected one of CTElbo, GenericAux, NLL"),
    ("sampler.name = 'CRMTauL'", "config.sampler.name = 'CRMTauL': expected one of TauL, "),
    ("sampler.initial_dist = 'absorbing'", "config.sampler.initial_dist = 'absorbing': expected one of uniform, gaussian"),
    (
        "config.optimizer.name = 'Adamax'",
        "config.optimizer.name = 'Adamax': expected one of Adam, AdamW, SGD. Did you mean Adam",
    ),
    ("config.device = 'gpu'", "its values do not fit together: config.training.device = 'gpu', expected "),
    ("model.num_heads = 7", "its values do not fit together: config.model.dit"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_wrong_value_names_its_line(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (HERE / "mnist_dit.py").read_text().replace("    return config", f"    {line}\n    return config")
    Path("theirs.py").write_text(text)
    refused(["import-config", "theirs.py"], message, capsys)
    if "fit together" not in message:
        number = text.splitlines().index(f"    {line}") + 1
        refused(["import-config", "theirs.py"], f"theirs.py, line {number}: ", capsys)


def test_files_are_not_overwritten(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(HERE / "mnist_dit.py", "theirs.py")
    assert main(["import-config", "theirs.py"]) == 0
    assert main(["import-config", "theirs.py"]) == 0  # the same text
    capsys.readouterr()
    Path("theirs_ctdiff.py").write_text("# mine\n")
    Path("latin.py").write_bytes("# caf\u00e9\n".encode("latin-1"))
    for arguments, message in (
        (["theirs.py"], "theirs_ctdiff.py exists and holds something else"),
        (["theirs.py", "--out=theirs.py"], "theirs.py exists and holds something else"),
        (["theirs.py", "--out=latin.py"], "latin.py exists and holds something else"),
        (["theirs.py", "--out=absent/mine.py"], "--out=absent/mine.py: there is no folder absent"),
        (["theirs.py", "--out=mine.yaml"], "--out=mine.yaml, expected the path of a .py file"),
        (
            ["theirs.py", "--config.training.steps=3"],
            "--config.training.steps=3: ctdiff import-config changes no configuration",
        ),
        (["absent.py"], "absent.py"),
        ([], "the configuration file is missing (see ctdiff import-config --help)"),
        (["theirs.py", "other.py"], "unexpected 'other.py'"),
    ):
        refused(["import-config", *arguments], message, capsys)


# The table

PUBLISHED_KEYS = {
    "": "device distributed num_gpus",
    "loss": "name eps_ratio nll_weight min_time one_forward_pass",
    "training": "train_step_name n_iters clip_grad grad_norm warmup max_t",
    "data": "name train download S batch_size shuffle image_size shape use_augm location",
    "model": "name ema_decay patch_size input_channel concat_dim hidden_dim depth num_heads mlp_ratio dropout "
    "time_scale_factor model_output fix_logistic data_min_max rate_sigma Q_sigma time_exp time_base ch num_res_blocks "
    "num_scales ch_mult input_channels scale_count_to_put_attn skip_rescale time_embed_dim",
    "optimizer": "name lr",
    "saving": "checkpoint_freq sample_plot_path",
    "sampler": "name num_steps min_t eps_ratio initial_dist num_corrector_steps corrector_step_size_multiplier "
    "corrector_entry_time is_ordinal sample_freq",
}


def test_every_published_key_has_a_row() -> None:
    names = [name for row in published.ROWS for name in row.names]
    assert len(names) == len({*names})
    for section, members in PUBLISHED_KEYS.items():
        assert {f"{section}.{member}".removeprefix(".") for member in members.split()} <= {*names}
    for row in published.ROWS:
        assert row.meaning.endswith("."), row.key
        assert row.meaning.startswith("Gone: ") == (not row.homes), row.key


@pytest.mark.parametrize("name", FILES)
def test_the_files_of_this_test_have_published_keys_only(name):
    names = {each for row in published.ROWS for each in row.names}
    assert {*published.read_published(HERE / name).leaves} <= names


def test_homes_are_keys() -> None:
    keys = set(re.findall(r"^\| `([\w.]+)` \|", tables.tables(), re.MULTILINE))
    for home in {home for row in published.ROWS for home in row.homes}:
        filled = {home.replace("<model>", model).replace("<data>", "mnist") for model in ("unet", "dit", "uvit")}
        assert filled & keys, home


def test_the_table_of_the_documentation_is_up_to_date() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert published.with_table(text) == text
