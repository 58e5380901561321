"""Configuration files of tauLDR and of the MNIST projects that descend from it, as presets of ours.

keys.py         the table: each published key, its home here and what it does, or why it is gone
contents.py     what a file assigns; files.py, python_files.py and yaml_files.py read it, and never execute anything
translation.py  from published keys and values to ours; rules.py and values.py have what needs more than the table
preset.py       the text of a preset
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
