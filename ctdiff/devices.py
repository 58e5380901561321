"""The devices of this machine."""

from __future__ import annotations

import torch

from ctdiff.recipe.errors import ConfigError, one_of

__all__ = ["check_device", "devices"]


def devices() -> list[str]:
    """Return the devices of this machine: cpu, cuda:0 and so on, mps."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *["mps"] * torch.backends.mps.is_available()]


def check_device(device: str, name: str = "config.training.device", here: bool = True) -> None:
    """Raise an error if a text names no device, or a device that this machine does not have.

    Arguments:
        device: the device.
        name: the name of the argument, for the message.
        here: whether this machine has to have the device. A run may come from another machine.

    Raises:
        ConfigError: the message names the device and the devices of this machine.
    """
    there = one_of(devices())
    try:
        found = torch.empty(0, device=device).device if here else torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError if it was compiled without a device
        raise ConfigError(f"{name} = {device!r}{' cannot be used on this machine' * here}, expected {there}") from error
    if here and found.type == "meta":
        raise ConfigError(f"{name} = {device!r} computes nothing, expected {there}")
