"""The file of a card: what is written is read again, and wrong content is refused by its key and value."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from ctdiff.card import card_text, read_card


def written(card, path, change):
    """A card whose parsed content was changed."""
    content = yaml.safe_load(card_text(card))
    change(content)
    (path / "card.yaml").write_text(yaml.safe_dump(content))
    return path / "card.yaml"


def test_what_is_written_is_read(tiny, tmp_path):
    card = replace(tiny.card, description="Zahlen: 'ä' \"β\" # no comment", limits=["- one", "two: {x}", "null", "1e5"])
    (tmp_path / "card.yaml").write_text(card_text(card), encoding="utf-8")
    assert read_card(tmp_path / "card.yaml") == card


CHANGES = {
    "card.yaml has the unknown key 'extra', expected name": lambda card: card.update(extra=1),
    "card.yaml has no key 'licence', expected name": lambda card: card.pop("licence"),
    "format = 'ctdiff-card-0', expected 'ctdiff-card-1'": lambda card: card.update(format="ctdiff-card-0"),
    "card.yaml: description = 7, expected str": lambda card: card.update(description=7),
    "description = 'a\\x1b[2J', expected a text in one line": lambda card: card.update(description="a\x1b[2J"),
    "name = '../up', expected 1 to 64 letters": lambda card: card.update(name="../up"),
    "name = '..', expected 1 to 64 letters": lambda card: card.update(name=".."),
    "the unknown key '../../evil', expected config, weights, classes": lambda card: card["files"].update({"../../evil": "a"}),
    "weights = 'abc', expected 64 hexadecimal digits": lambda card: card["files"].update(weights="abc"),
    "parameters = 0, expected at least 1": lambda card: card["architecture"].update(parameters=0),
    "FID: value = nan, expected a finite number": lambda card: card["numbers"][0].update(value=float("nan")),
    "value = 'much', expected float": lambda card: card["numbers"][0].update(value="much"),
    "FID: standard_error = -0.5, expected at least 0": lambda card: card["numbers"][0].update(standard_error=-0.5),
    "FID: n = 0, expected at least 1": lambda card: card["numbers"][0].update(n=0),
    "metric = 'F|D', expected a name such as FID": lambda card: card["numbers"][0].update(metric="F|D"),
    "expected either sampler, steps and network_calls, or draws": lambda card: card["numbers"][0].update(draws=4),
    "FID: floor = nan, expected a finite number": lambda card: card["numbers"][0].update(floor=float("nan")),
    "int too large to convert to float": lambda card: card["numbers"][0].update(value=10**400),
    "sampler = 'ddim', expected 'ancestral'": lambda card: card["numbers"][0].update(sampler="ddim"),
    "images_seen = 9, expected steps x batch_size = 8": lambda card: card["training"].update(images_seen=9),
    "expected one number for each metric": lambda card: card["numbers"].append({**card["numbers"][0]}),
}


@pytest.mark.parametrize("message", CHANGES)
def test_wrong_content_is_refused(message, tiny, tmp_path):
    path = written(tiny.card, tmp_path, CHANGES[message])
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path} is no card of a model: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds a NoneType, expected keys and values"),
        (b"- 1\n", "it holds a list"),
        (b"a: [1\n", "it is not YAML"),
        (b"\xff\xfe", "codec can't decode"),
        (b"a: !!python/object/apply:os.system ['true']\n", "it is not YAML: could not determine a constructor"),
        (b"a: &x [1, 1]\nb: [*x, *x]\n", "it has a YAML alias"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"#" * (2**17 + 1), "it has more than 131,072 bytes"),
    ],
)
def test_what_is_no_card(content, message, tmp_path):
    (tmp_path / "card.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_card(tmp_path / "card.yaml")


def test_a_missing_card(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        read_card(tmp_path / "card.yaml")
