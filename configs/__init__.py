"""Presets: one module each, with a `get_config()` that returns an `ml_collections.ConfigDict`.

A preset is plain data. It names classes, and `ctdiff.build` is the one place where names meet
classes; so a preset imports nothing of ours and can be read, copied and edited on its own.
"""
