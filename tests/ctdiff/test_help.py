"""What a user meets before anything is computed: help and the ways to write a flag."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from absl.flags import Error

from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.cli import main
from ctdiff.cli.verb import Result, Verb, apply
from diffusion_core.ranges import Range
from discrete_diffusion.rates import GaussianTargetRates

ROOT = Path(__file__).resolve().parents[2]
VERBS = [
    "train", "sample", "evaluate", "compare", "models", "verify", "push", "pull", "import-config", "info", "completion"
]  # fmt: skip


def verb(name):
    return importlib.import_module(f"ctdiff.cli.{name.replace('-', '_')}").VERB


def test_help_lists_the_verbs_and_the_presets(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in VERBS:
        assert f"  {name} " in printed
        assert verb(name).function.__doc__.splitlines()[0] in printed
    samplers = {name for engine in recipe.engines() for name in recipe.samplers_of(engine)}
    assert {*configuration.preset_names(), *samplers} <= set(printed.replace(",", " ").split())
    assert max(map(len, printed.splitlines())) <= 100
    for arguments, status in (([], 2), (["help"], 0), (["-h"], 0), (["-help"], 0)):
        assert main(arguments) == status
        assert capsys.readouterr().out == printed
    assert main(["help", "trian"]) == 2
    assert "'trian' is not a command" in capsys.readouterr().err


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    (usage,) = [line for line in lines if line.startswith("Usage:")]
    wanted = inspect.getfullargspec(verb(name).function)
    words = [word.upper() for word in wanted.args]
    words = [f"[{word}]" for word in words] if wanted.defaults else words
    words += ["[RUN ...]"] if wanted.varargs else []
    assert usage == " ".join(["Usage: ctdiff", name, *words, "[--FLAG=VALUE ...]"])
    assert max(map(len, lines)) <= 100
    assert not {"None", "nan"} & set(printed.split())
    (example,) = [line for line in lines if line.startswith(f"    ctdiff {name} ")]
    values = verb(name).flag_values()
    for key in {*values} - {"help", "h"}:
        (at,) = [i for i, line in enumerate(lines) if line.startswith((f"  --{key}: ", f"  --[no]{key}: "))]
        explained = " ".join(" ".join(lines[at:]).split())
        assert explained.partition(": ")[2].startswith(values[key].help)
        assert len(values[key].help) > 20
        if values[key].default is None:
            assert "Without it, " in values[key].help, key
        else:
            shown = str(values[key].default).lower() if values[key].boolean else values[key].default
            assert explained.partition(values[key].help)[2].startswith(f" (default: '{shown}')")
    for other in ([name, "-h"], [name, "absent", "--help"], ["help", name]):
        assert main(other) == 0
        assert capsys.readouterr().out == printed
    verb(name).check(verb(name).read(shlex.split(example)[2:])[0])


def test_flags_are_read_from_functions(capsys, monkeypatch):
    """Types, bounds and defaults of signatures, and meanings of docstrings; the first function of an argument counts."""
    monkeypatch.setenv("COLUMNS", "80")

    def inner(count: Annotated[int, Range(least=2)] = 3, mark: str = "inner", replicates: int = 5):
        """Do something.

        Arguments:
            count: how often. None means twice.
            mark: not shown.
            replicates: no flag.
        """
        return count, mark

    def outer(
        file: str,
        *,
        mark: str | None = None,
        part: bool | str | None = None,
        names: Sequence[str] = (),
        overrides: Sequence[str] = (),
        **flags: Any,
    ):
        """Do it.

        Usage: ctdiff outer FILE

        Arguments:
            file: the file.
            mark: a text. None means
                that there is none.
            part: all or a part. None means nothing.
            names: some names.
            overrides: no flag.
            flags: more.
        """
        called.append((file, mark, part, names, apply(inner, flags)))
        return Result("done", {"answer": 7}, status=7)

    called = []
    verb = Verb(outer, reads=(inner,))
    assert "--count: How often. Without it, twice.\n    (default: '3')\n    (integer >= 2)\n" in verb.help()
    assert "--mark: A text. Without it, there is none.\n" in verb.help()
    assert verb.help().startswith("Do it.\n\nUsage: ctdiff outer FILE\n\nFlags:\n")
    assert {*verb.flag_values()} == {"help", "h", "count", "mark", "part", "names", "trust", "quiet", "json"}
    for words, expected in (
        (["a"], ("a", None, None, (), (3, "inner"))),
        (["--count=5", "a", "--mark", "b"], ("a", "b", None, (), (5, "inner"))),
        (["a", "--part", "--names=b,c"], ("a", None, "true", ["b", "c"], (3, "inner"))),
        (["a", "--part=b"], ("a", None, "b", (), (3, "inner"))),
    ):
        assert verb.run(words) == 7
        assert called.pop() == expected
    for words, message in (
        ([], r"^the file is missing \(see ctdiff outer --help\)"),
        (["a", "b"], "^unexpected 'b'"),
        (["a", "--count=1"], "flag --count=1: 1 is not integer >= 2"),
        (["a", "--replicates=1"], "Unknown command line flag 'replicates'"),
    ):
        with pytest.raises((ValueError, Error), match=message):
            verb.run(words)
    assert called == []


def explained(capsys, *arguments):
    """What `--help_config` prints: the text under each `key=value`."""
    assert main(["train", *arguments]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 110
    paragraphs = [text.split("\n", 1) for text in re.split(r"\n(?=--config\.)", printed.rstrip("\n"))]
    return {head.removeprefix("--config.").replace("=None", "=none"): " ".join(text.split()) for head, text in paragraphs}


@pytest.mark.parametrize("preset", configuration.preset_names())
def test_every_key_is_explained(preset, capsys, tmp_path, monkeypatch):
    """With its value, which can be typed as it is printed, what it may be, its default and its meaning."""
    monkeypatch.chdir(tmp_path)
    config = configuration.load(preset)
    keys = configuration.flatten(config)
    texts = explained(capsys, f"--config={preset}", "--help_config")
    assert sorted(texts) == sorted(f"{key}={shown(value)}" for key, value in keys.items())
    assert configuration.load(preset, [f"--config.{setting}" for setting in texts]) == config
    choices = {key: value for key, value in keys.items() if key.endswith((".name", ".engine"))}
    required = {key: value for key, value in keys.items() if "it has to be given" in texts[f"{key}={shown(value)}"]}
    assert set(required) <= {"loss.times.piecewise.edges"}
    defaults = configuration.flatten(configuration.complete(nested(choices | required)))
    for key, value in keys.items():
        text = texts[f"{key}={shown(value)}"]
        default = r"\w+"
        if key not in choices:  # one number may stand for several
            default = "|".join({re.escape(shown(defaults[key])), re.escape(shown(defaults[key]).strip("(,)"))})
        assert key in required or re.search(rf"; default ({default})(\]|\.( |$))", text), key
        assert value == "none" or len(text) > 30, key
    assert not [*tmp_path.iterdir()]


def shown(value):
    """A value as it is printed."""
    return "none" if value is None else str(value)


def nested(flat):
    """Values by dotted key as a configuration of dictionaries."""
    result = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        node = result
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return result


def test_an_explanation_of_a_part(capsys):
    texts = explained(capsys, "--config=mnist", "--help_config=process.rates")
    documented = " ".join((inspect.getdoc(GaussianTargetRates) or "").split())
    choice = texts.pop("process.rates.name=gaussian_target")
    assert "one of absorbing, birth_death, gaussian_target, uniform; default gaussian_target" in choice
    assert f"gaussian_target: {documented.partition(' References:')[0].partition('. ')[0]}." in choice
    for setting, default in (("sigma_r=6.0", "6.0"), ("Q=512.0", "512.0"), ("scale=47.8", "1.0")):
        allowed = f"a number above 0; default {default}"
        text = texts.pop(f"process.rates.gaussian_target.{setting}")
        assert allowed in text
        assert f" {setting.partition('=')[0]}: {text.replace(allowed, '').strip(' .[]')}" in documented
    assert texts == {}
    keys = configuration.flatten(configuration.load("mnist"))
    for part in ("sampler", "training.steps", "model.unet"):
        texts = explained(capsys, f"--help_config={part}", "--config=mnist")
        below = {key: value for key, value in keys.items() if f"{key}.".startswith(f"{part}.")}
        assert {*texts} == {f"{key}={shown(value)}" for key, value in below.items()}
    heads = {
        *explained(capsys, "--config=mnist", "--config.model.name=dit", "--help_config=model.dit", "--config.model.dit.depth=3")
    }
    assert "model.dit.depth=3" in heads
    assert not [head for head in heads if not head.startswith("model.dit.")]


@pytest.mark.parametrize("part", ["samplr", "sample", "model.uvit", "model.unet.width", "config.sampler", "."])
def test_a_part_that_there_is_not(part, capsys):
    assert main(["train", "--config=mnist", f"--help_config={part}"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"--help_config={part}: no key begins like this, expected one of data, loss, model, " in err


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["--config.training.steps=7"], ["training.steps=7"]),
        (["-config.training.steps=7"], ["training.steps=7"]),
        (["--config.training.steps", "7"], ["training.steps=7"]),
        (["-config.training.steps", "7"], ["training.steps=7"]),
        (["--config.process.rates.uniform.scale", "-7"], ["process.rates.uniform.scale=-7"]),
        (["--config.data.idx.path", "a=b"], ["data.idx.path=a=b"]),
        (["--config.data.idx.path="], ["data.idx.path="]),
        (["--config.data.flip"], ["data.flip=true"]),
        (["-config.data.flip"], ["data.flip=true"]),
        (["--config.data.flip=no"], ["data.flip=no"]),
        (["--noconfig.data.flip"], ["data.flip=false"]),
        (["-noconfig.data.flip"], ["data.flip=false"]),
        (["--config.training.steps=7", "--config.sampler.steps=9"], ["training.steps=7", "sampler.steps=9"]),
    ],
)
def test_keys_between_flags_and_runs(arguments, overrides):
    others = ["one", "--calls=4", "--out", "folder", "two", "--fresh", "-device=cuda"]
    for i in (0, 1, 2, 4, 5, 6, 7):
        runs, given = verb("compare").read([*others[:i], *arguments, *others[i:]])
        assert runs == ["one", "two"]
        assert given == {
            "calls": "4",
            "out": "folder",
            "fresh": True,
            "device": "cuda",
            "overrides": [f"--config.{override}" for override in overrides],
        }


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--config.data.flip", "--noconfig.data.flip"], "config.data.flip"),
        (["--config.training.steps=7", "--config.training.steps", "8"], "config.training.steps"),
        (["--out=a", "-out=b"], "out"),
        (["--fresh", "--nofresh"], "fresh"),
        (["--calls=4", "--calls=4"], "calls"),
    ],
)
def test_a_flag_with_one_value_is_given_once(words, flag):
    with pytest.raises(Error, match=f"flag --{flag}=.*: already defined as "):
        verb("compare").read(["one", *words])


def test_values_of_a_list_are_joined():
    _, given = verb("sample").read(["one", "--trust=evil,mine", "--steps=3", "--trust", "other"])
    assert given == {"trust": ["evil", "mine", "other"], "steps": 3}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_can_be_quiet_and_write_json(name):
    assert {"quiet", "json"} <= {*verb(name).flag_values()}


@pytest.mark.parametrize("name", ["info", "completion bash", "import-config mine.py"])
def test_flags_that_would_do_nothing_are_refused(name, capsys):
    assert main([*name.split(), "--trust=mine"]) == 2
    assert "Unknown command line flag 'trust'" in capsys.readouterr().err
    assert main([*name.split(), "--config.foo=1"]) == 2
    assert capsys.readouterr().err == f"ctdiff: --config.foo=1: ctdiff {name.split()[0]} changes no configuration\n"


def test_nohelp_is_not_help(capsys):
    texts = explained(capsys, "--config=mnist", "--nohelp", "--help_config=optimizer.lr")
    assert [*texts] == ["optimizer.lr=0.002"]


def test_behind_two_dashes_there_are_no_flags():
    runs, given = verb("compare").read(["one", "--config.sampler.steps=3", "--", "--config.sampler.num_samples=9", "--fresh"])
    assert runs == ["one", "--config.sampler.num_samples=9", "--fresh"]
    assert given == {"overrides": ["--config.sampler.steps=3"]}
    _, given = verb("compare").read(["one", "--out", "--config.sampler.steps=3"])
    assert given == {"out": "--config.sampler.steps=3"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config=mnist", "--workdir="],
        ["train", "--config=", "--workdir=run"],
        ["sample", "run", "--format=png", "--out="],
        ["sample", "run", "--given", ""],
        ["evaluate", "--repeat="],
        ["compare", "run", "--out="],
        ["import-config", "mine.py", "--out="],
    ],
)
def test_an_empty_path_is_not_the_default(arguments, capsys):
    """It is a shell variable that is not set."""
    assert main(arguments) == 2
    (flag,) = [word for word in arguments if word.endswith("=") or word == "--given"]
    assert capsys.readouterr().err == f"ctdiff: --{flag.strip('-=')}= is empty, expected a path\n"


@pytest.mark.parametrize("arguments", [["sample", ""], ["compare", "run", ""], ["import-config", ""]])
def test_an_empty_argument_is_not_the_working_directory(arguments, capsys):
    assert main(arguments) == 2
    assert "an argument is empty" in capsys.readouterr().err


def described(capsys, *arguments):
    """The configuration that a dry run prints."""
    assert main(["train", "--dry_run", *arguments]) == 0
    return json.JSONDecoder().raw_decode(capsys.readouterr().out)[0]


def test_what_is_typed_is_read_by_its_key(capsys):
    typed = {
        "training.steps": "7",
        "training.device": "cpu",
        "optimizer.lr": "1e-3",
        "optimizer.weight_decay": "1",
        "model.unet.widths": "(8,16)",
        "model.unet.blocks": "1",
        "model.unet.attention_levels": "[]",
        "model.unet.num_heads": "2",
        "model.use_checkpoint": "yes",
        "data.image_size": "8",
        "sampler.t_min": "0.25",
        "sampler.t_max": "None",
        "process.rates.name": "uniform",
        "process.schedule.name": "cosine",
        "loss.times.name": "importance",
        "loss.times.importance.bins": "3",
        "sampler.name": "tau_leaping",
        "sampler.tau_leaping.leap.name": "categorical",
    }
    config = described(capsys, "--config=mnist", *(f"--config.{key}={value}" for key, value in typed.items()))
    flat = configuration.flatten(config)
    assert {key: flat[key] for key in typed} == {
        "training.steps": 7,
        "training.device": "cpu",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1,
        "model.unet.widths": [8, 16],
        "model.unet.blocks": [1],
        "model.unet.attention_levels": [],
        "model.unet.num_heads": 2,
        "model.use_checkpoint": True,
        "data.image_size": [8],
        "sampler.t_min": 0.25,
        "sampler.t_max": None,
        "process.rates.name": "uniform",
        "process.schedule.name": "cosine",
        "loss.times.name": "importance",
        "loss.times.importance.bins": 3,
        "sampler.name": "tau_leaping",
        "sampler.tau_leaping.leap.name": "categorical",
    }
    assert "gaussian_target" not in config["process"]["rates"], "only what is chosen has keys"
    for setting in (["--config.data.flip"], ["--config.data.flip=true"], ["-config.data.flip"]):
        assert described(capsys, *setting, "--config", "mnist", "--config.training.steps", "7")["data"]["flip"] is True
    for setting, flips in (([], True), (["--noconfig.data.flip"], False)):
        assert f"data.flip={flips}" in explained(capsys, "--config=cifar10_unet", *setting, "--help_config=data.flip")


MISTAKES = [
    (["config.model.nme=unet"], "config.model.nme is not a key, expected one of name, num_classes, "),
    (["config.modle.name=unet"], "config.modle.name is not a key, expected one of data, model, process, loss, "),
    (["config.modle.name=unet"], "Did you mean model?"),
    (["config.model.unet.widht=3"], "Did you mean widths?"),
    (["config.sampler.ddim.eta=0.5"], "config.sampler.ddim.eta is not a key, expected one of name, steps, "),
    (["config.training.steps.x=3"], "config.training.steps.x is not a key: config.training.steps holds no keys"),
    (
        ["config.sampler.name.x=3"],
        "config.sampler.name = {'x': '3'}, expected one of ancestral, euler, midpoint_tau_leaping",
    ),
    (["config.model=unet"], "config.model = 'unet': it is a section, expected one of its keys, such as config.model.name"),
    (["config.training=3"], "config.training = '3': it is a section, expected one of its keys, such as config.training.steps"),
    (["config.training.steps=many"], "config.training.steps = 'many', expected an integer of at least 1"),
    (["config.training.steps=1.5"], "config.training.steps = 1.5, expected an integer of at least 1"),
    (["config.training.steps=True"], "config.training.steps = True, expected an integer of at least 1"),
    (["config.training.steps="], "config.training.steps = '', expected an integer of at least 1"),
    (["config.training.steps=none"], "config.training.steps = 'none', expected an integer of at least 1"),
    (["noconfig.training.steps"], "config.training.steps = 'false', expected an integer of at least 1"),
    (["config.data.flip=maybe"], "config.data.flip = 'maybe', expected True or False"),
    (["config.model.unet.widths=wide"], "config.model.unet.widths = 'wide', expected integers, each of at least 1"),
    (["config.model.unet.widths=(8,0.5)"], "config.model.unet.widths = (8, 0.5), expected integers, each of at least 1"),
    (["config.optimizer.adamw.betas=0.9"], "config.optimizer.adamw.betas = (0.9,), expected 2 numbers, each in [0, 1)"),
    (["config.training.steps=0"], "config.training.steps = 0, expected an integer of at least 1"),
    (["config.optimizer.lr=nan"], "config.optimizer.lr = 'nan', expected a number above 0"),
    (["config.optimizer.lr=1e999"], "config.optimizer.lr = inf, expected a number above 0"),
    (["config.training.clip=-0.1"], "config.training.clip = -0.1, expected a number of at least 0"),
    (["config.data.fraction=2"], "config.data.fraction = 2, expected a number in (0, 1]"),
    (["config.sampler.t_min=1.0"], "config.sampler.t_min = 1.0, expected a number in [0, 1)"),
    (
        ["config.optimizer.adamw.betas=(0.9,1.0)"],
        "config.optimizer.adamw.betas = (0.9, 1.0), expected 2 numbers, each in [0, 1)",
    ),
    (["config.data.channels=True"], "config.data.channels = True, expected one of 1, 3"),
    (["config.data.channels=2"], "config.data.channels = 2, expected one of 1, 3"),
    (["config.model.name=vit"], "config.model.name = 'vit', expected one of diffit, dit, latent_diffit, ssm, unet, uvit. Did "),
    (["config.process.engine=gausian"], "config.process.engine = 'gausian', expected one of discrete, gaussian. Did you mean "),
    (["config.data.name=folder"], "config.data.folder.path is missing: the folder."),
    (["config.process.t_min=0.5", "config.process.t_max=0.5"], "t_min = 0.5, t_max = 0.5"),
    (["config.model.unet.widths=(8,8,8)"], "config.model.unet: blocks = (1, 2), expected one integer or 3 integers"),
    (["config.model.uvit.depth=3"], "config.model.uvit.depth = 3 cannot act: config.model.name = 'unet', expected 'uvit'"),
    (["config.model.dit=3"], "config.model.dit = 3 cannot act: config.model.name = 'unet', expected 'dit'"),
    (
        ["config.sampler.corrector.corrector_steps=2"],
        "config.sampler.corrector.corrector_steps = 2 cannot act: config.sampler.corrector.name = 'none', expected "
        "'forward_backward'",
    ),
    (
        ["config.sampler.evidence_floor=0.5", "config.model.parameterisation.name=leave_one_out"],
        "config.sampler.evidence_floor = 0.5 cannot act, expected none",
    ),
    (["config.sampler.guidance.g=2"], "config.sampler.guidance.g = 2, expected 1.0: config.model.num_classes = 0"),
    (["config.process.rates.gaussian_target.scale=1"], "config.process.rates.gaussian_target.scale = 1, expected about 47.8"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_a_wrong_key_or_value_is_one_line(settings, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config=mnist", *(f"--{setting}" for setting in settings)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("ctdiff: config.")
    assert message in err
    assert not [*tmp_path.iterdir()]
