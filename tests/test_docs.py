"""The form of the documents: lines of prose are short, links lead to files and headings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from ctdiff.recipe import tables

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PAGES = [*(ROOT / name for name in OTHERS), *sorted(DOCS.glob("*.md"))]
WIDTH = 120

EXEMPT = [
    re.compile(f"{re.escape(tables.BEGIN)}.*?{re.escape(tables.END)}", re.DOTALL),  # generated from docstrings
    re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE),  # code and formulas
    re.compile(r"^\$\$.*?\$\$$", re.DOTALL | re.MULTILINE),  # formulas
    re.compile(r"(?<=\n\n)(?: {4}.*\n)+"),  # indented code
    re.compile(r"^ *\|.*$", re.MULTILINE),  # tables
    re.compile(r"^!\[.*\]\(\S+\)$", re.MULTILINE),  # pictures
]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(text: str) -> list[tuple[int, str]]:
    """The lines of prose of a page with their numbers, from 1 on."""
    for pattern in EXEMPT:
        text = pattern.sub(lambda found: "\n" * found[0].count("\n"), text)
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = EXEMPT[1].sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_prose_is_told_from_the_rest() -> None:
    long = "word " * 30
    page = f"{long}\n\n- {long}\n  {long}\n\n    {long}\n\n| {long} |\n```\n{long}\n```\n![{long}](a.png)\nshort\n"
    assert [number for number, line in prose(page) if len(line) > WIDTH] == [1, 3, 4]


@every_page
def test_lines_of_prose_are_short(page: Path) -> None:
    lines = prose(page.read_text(encoding="utf-8"))
    assert len(lines) > 10
    long = [f"line {number}: {len(line)} characters: {line[:60]}" for number, line in lines if len(line) > WIDTH]
    assert not long, "\n".join(long)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links point to."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_every_page_is_on_the_start_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_the_citation_is_of_this_version() -> None:
    """In the form of https://citation-file-format.github.io, with the version of setup.py."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (setup,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"]
    given = {each.arg: each.value.value for each in setup.keywords if isinstance(each.value, ast.Constant)}
    assert str(citation["version"]) == given["version"]
    assert citation["title"].startswith(f"{given['name']}: ")
    assert [author["name"] for author in citation["authors"]] == [given["author"]]
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "MIT")
    assert {*citation} == {"cff-version", "message", "type", "title", "version", "license", "authors"}
