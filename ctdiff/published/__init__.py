"""Converts configuration files of tauLDR, and of MNIST projects that are based on it, to presets of ctdiff.

A published key or value is one of such a file. A home of a published key is a key of ctdiff with the same meaning.

keys.py         the table of all published keys with their homes
contents.py     the content of a file; files.py, python_files.py and yaml_files.py read it without executing it
translation.py  translates published keys and values; rules.py and values.py have the cases that need more than the table
preset.py       writes the text of a preset
"""

from ctdiff.published.contents import Leaf, Published, PublishedError, Skipped
from ctdiff.published.files import read_published
from ctdiff.published.keys import ROWS, Row, table, with_table
from ctdiff.published.preset import preset_text
from ctdiff.published.translation import Note, Translation, translated

__all__ = [
    "ROWS",
    "Leaf",
    "Note",
    "Published",
    "PublishedError",
    "Row",
    "Skipped",
    "Translation",
    "preset_text",
    "read_published",
    "table",
    "translated",
    "with_table",
]
