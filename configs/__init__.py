"""Presets: each module is one preset, with a function `get_config()` that returns an `ml_collections.ConfigDict`.

A preset contains only the values that it changes. `ctdiff.config.load` adds the defaults, which are those of the constructors,
and `ctdiff.recipe` makes the objects. A preset is plain data. It imports only the preset that it starts from.
"""
