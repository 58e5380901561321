"""Returns the values of a published configuration after a check of their types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any, NoReturn, TypeAlias

from ctdiff.published.contents import Leaf, Published, PublishedError
from ctdiff.published.keys import DATA, NETWORKS, RATES, ROWS, fits
from ctdiff.recipe.errors import closest, one_of

__all__ = ["Homes", "Values", "refuse"]

Homes: TypeAlias = dict[str, Any]
"""A dictionary from keys of ctdiff to values."""

_UNET: Mapping[str, object] = {
    "patch_size": 1,
    "num_heads": 1,
    "scale_shift": False,
    "skip_every_map": True,
    "upsample": "nearest_conv",
    "xavier": True,
}
"""The settings of the published U-Net, which is the U-Net of DDPM."""


def refuse(source: str, key: str, leaf: Leaf, text: str) -> NoReturn:
    """Raise an error about a value.

    Raises:
        PublishedError: always. The message has the line, the key, the value and the text.
    """
    raise PublishedError(f"{source}, line {leaf.line}: config.{key} = {shortened(leaf.value)}: {text}")


class Values:
    """The values of a published configuration, with some keys of ctdiff that follow from them.

    Arguments:
        published: the configuration.
    """

    def __init__(self, published: Published) -> None:
        self.published = published
        self.kinds = {name: row.kind for row in ROWS for name in row.names}
        self.rates, self.model, self.averaged = self.split_name()
        self.data = self.named("data.name", DATA)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a published key, after a check of its type. Without the key, return the default."""
        if (leaf := self.published.leaves.get(key)) is None:
            return default
        if not fits(leaf.value, self.kinds[key]):
            refuse(self.published.source, key, leaf, f"expected {self.kinds[key]}")
        if isinstance(leaf.value, float) and "integer" in self.kinds[key]:
            return int(leaf.value)
        return leaf.value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a value as a float, after a check of its type and size."""
        try:
            return float(self.get(key, default))
        except OverflowError:
            self.refuse(key, "expected a smaller number")

    def refuse(self, key: str, text: str) -> NoReturn:
        """Raise an error about the value of a key, or about a missing key.

        Raises:
            PublishedError: always. The message has the line, the key, the value and the text.
        """
        if (leaf := self.published.leaves.get(key)) is None:
            raise PublishedError(f"{self.published.source}: config.{key} is missing, {text}")
        refuse(self.published.source, key, leaf, text)

    def named(self, key: str, names: Mapping[str, str]) -> str:
        """Return the name in ctdiff that belongs to the published name."""
        if (value := self.get(key)) in names:
            return names[value]
        self.refuse(key, f"expected {one_of(list(names))}{closest(value, list(names))}")

    def split_name(self) -> tuple[str, str, bool]:
        """Split `model.name`. Return the names of the rates and of the network in ctdiff, and whether weights are averaged."""
        found = re.fullmatch(f"({'|'.join(RATES)})({'|'.join(NETWORKS)})(EMA)?(Paul)?", self.get("model.name") or "")
        if found is None:
            begin, end = (one_of(list(names)) for names in (RATES, NETWORKS))
            self.refuse("model.name", f"expected {begin}, then {end}, such as GaussianLogDiTEMA")
        return RATES[found[1]], NETWORKS[found[2]], found[3] is not None

    def implied(self) -> Homes:
        """Return the settings of the published network and process that have no published key."""
        homes: Homes = {}
        if self.model == "unet":
            homes.update({f"model.unet.{name}": value for name, value in _UNET.items()})
        if self.model == "uvit":
            homes["model.uvit.time_mlp"] = True
        if self.rates == "birth_death":
            homes["process.schedule.name"] = "geometric"
        if self.rates == "uniform":
            homes.update({"process.schedule.name": "constant", "process.schedule.constant.rate": 1.0})
        return homes
