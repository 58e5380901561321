"""Describes the installation and the machine: what a report about a bug needs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from ctdiff.data import MNIST
from ctdiff.data.image_cache import cache_folder
from ctdiff.devices import devices
from ctdiff.metrics.inception_v3 import hub_folder
from ctdiff.records import environment
from ctdiff.runs import RUNS

__all__ = ["description"]

_CPU = Path("/proc/cpuinfo")
_VECTOR_UNITS = re.compile(r"sse4_2|avx\w*|fma|amx\w*|asimd\w*|sve\w*", re.ASCII)
"""The names of vector and matrix instructions in the flags of an x86 or ARM processor."""


def description() -> dict[str, Mapping[str, object]]:
    """Return sections of names and values, as JSON content. A value that is not known is None."""
    here = environment()
    return {
        "versions": {
            "ctdiff": here.ctdiff,
            "python": here.python,
            "torch": here.torch,
            "numpy": here.numpy,
            "system": platform.platform(),
        },
        **_packages(),
        "processor": {"machine": here.machine, **_processor(), "used by torch": here.cpu, "threads of torch": here.threads},
        "memory in GiB": {"total": _gibibytes("SC_PHYS_PAGES"), "free": _gibibytes("SC_AVPHYS_PAGES")},
        "devices": {name: _device(name) for name in devices()},
        "folders": {
            "runs": str(RUNS.absolute()),
            "data": str(Path(MNIST().path).absolute()),
            "cache of image folders": str(cache_folder()),
            "cache of Inception weights": str(hub_folder()),
        },
    }


def _packages() -> dict[str, Mapping[str, object]]:
    """Return the versions of the packages that ctdiff requires, and of its optional packages, each with its extra."""
    found: dict[str, dict[str, object]] = {"required packages": {}, "optional packages": {}}
    try:
        requirements = metadata.requires("ctdiff") or []
    except metadata.PackageNotFoundError:  # imported from a folder
        requirements = []
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        found["optional packages" if "extra ==" in requirement else "required packages"][name] = _version(name)
    return {title: dict(sorted(names.items())) for title, names in found.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, object]:
    """Return the model of the processor, its cores and its vector units. The units are known on Linux only."""
    text = _CPU.read_text() if _CPU.exists() else ""
    lines = [line.partition(":") for line in text.splitlines()]
    values = {key.strip().lower(): value.strip() for key, _, value in lines}
    flags = values.get("flags") or values.get("features") or ""
    return {
        "model": values.get("model name") or platform.processor() or None,
        "vector units": [unit for unit in flags.split() if _VECTOR_UNITS.fullmatch(unit)] or None,
        "cores": os.cpu_count(),
        "cores of this process": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def _gibibytes(pages: str) -> float | None:
    """Return an amount of memory that the system gives in pages; None if it does not give it."""
    if pages not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _device(name: str) -> str:
    """Return the model of a GPU and its memory."""
    if not name.startswith("cuda"):
        return "available"
    properties = torch.cuda.get_device_properties(name)
    return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
