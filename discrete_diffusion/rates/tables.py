"""Constant tables of numbers as tensors on any device, and a small cache of recent results.

The tables of a rate matrix are computed once, in numpy and float64, and never change. Tensors with these numbers are made
on the device where they are used. So a module gives the same numbers if it was built on another device, on the meta device
or under a FakeTensorMode.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core.arrays import plain
from diffusion_core.values import listed

__all__ = ["Array", "Recent", "Tables", "key_of", "narrowed"]

Value = TypeVar("Value")

_NEGLIGIBLE = {torch.float32: 1e-30, torch.float64: 1e-150}

Array = NDArray[np.float64]
"""A float64 array."""


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a float64 table of probabilities in another dtype, with 0 in place of subnormal numbers of float32.

    Subnormal numbers are below 1e-38. They have few digits, and products with them are many times slower on a CPU.
    """
    result = tensor.to(dtype)
    return result if dtype == torch.float64 else torch.nn.functional.hardshrink(result, 1e-38)


class Tables:
    """Named numpy arrays, and their tensors for each device and dtype.

    Copies of a module share its tables, because the tables never change.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}
        self._tensors: dict[tuple[str, str, torch.dtype | None], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Tables:
        return self

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __setitem__(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = plain(array)
        self._tensors = {key: tensor for key, tensor in self._tensors.items() if key[0] != name}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def on(self, name: str, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the table as a tensor on a device. dtype None means the dtype of the array."""
        key = (name, str(device), dtype)
        if key in self._tensors:
            return self._tensors[key]
        tensor = torch.as_tensor(self._arrays[name], device=device)
        if dtype is not None:
            # Very small rates become 0. They add nothing to a sum of rates, but their products can be subnormal.
            tensor = torch.nn.functional.hardshrink(tensor.to(dtype), _NEGLIGIBLE[dtype])
        # A fake tensor is not cached, because it must not be used after its mode has ended.
        if type(tensor) is Tensor:
            self._tensors[key] = tensor
        return tensor


def key_of(*tensors: Tensor) -> Hashable | None:
    """Return the numbers of tensors as a key for `Recent`, or None if they should not be read, as on an accelerator."""
    rows = [tuple(listed(tensor.flatten(), unseen=None)) for tensor in tensors]
    return None if any(None in row for row in rows) else tuple(rows)


class Recent(Generic[Value]):
    """A cache of the last few computed values by key. A copy of a module starts with an empty cache.

    Arguments:
        size: the number of values in the cache.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> Recent[Value]:
        return Recent(self._size)

    def get(self, key: Hashable | None, make: Callable[[], Value]) -> Value:
        """Return the cached value of a key. If it is not in the cache, `make` is called. With key None, nothing is cached."""
        if key is None:
            return make()
        if key in self._values:
            self._values.move_to_end(key)
        else:
            self._values[key] = make()
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        return self._values[key]
