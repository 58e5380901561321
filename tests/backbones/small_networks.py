"""Every shipped network, made small enough for a test, found by walking the subclasses: a new one needs no edit here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import einops
import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones import Backbone, Head, PixelInput

__all__ = ["BACKBONES", "HEADS", "INPUTS", "SMALL", "build", "compiled", "perturbed"]

for module in pkgutil.walk_packages(backbones.__path__, "backbones."):
    importlib.import_module(module.name)


def concrete(base: type) -> list[type]:
    """Every shipped subclass that can be instantiated."""
    found: list[type] = []
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        found += concrete(cls)
        if not inspect.isabstract(cls) and cls.__module__.startswith("backbones."):
            found.append(cls)
    return found


def is_wrapper(cls: type) -> bool:
    """Whether a network is made of another network."""
    return "backbone" in inspect.signature(cls).parameters


BACKBONES, HEADS, INPUTS = [cls for cls in concrete(Backbone) if not is_wrapper(cls)], concrete(Head), concrete(PixelInput)
SMALL: dict[str, Any] = {
    "widths": (4, 8),
    "blocks": 1,
    "windows": 0,
    "groups": 4,
    "patch_size": 2,
    "depth": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "time_dim": 8,
}
"""What makes any backbone small; each takes the settings it knows."""


def build(cls: type, **settings: Any) -> Any:
    """Call a constructor with those of the settings that it names."""
    names = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in settings.items() if name in names})


def perturbed(model: Any, std: float = 0.2) -> Any:
    """The same model with every parameter moved away from its start, where branches are 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


@torch.compiler.allow_in_graph
def _rearranged(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    return einops.rearrange(x, pattern, **sizes)


def compiled(model: nn.Module, backend: str = "eager") -> Callable[..., Any]:
    """Compile a model in one graph, in which a `rearrange` is one node.

    The compiler would trace each pattern through the parser of einops, which takes half of the time. The U-Net's own test of
    graph breaks does without this.
    """
    torch._dynamo.reset()
    module = torch.compile(model, backend=backend, fullgraph=True)
    users = [module for name, module in sys.modules.items() if name.startswith("backbones.") and hasattr(module, "rearrange")]

    def call(*inputs: Any, **cond: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for user in users:
                patch.setattr(user, "rearrange", _rearranged)
            return module(*inputs, **cond)

    return call
