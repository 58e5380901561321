"""The values of a published configuration, with their types checked."""

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
"""Values by our keys."""

_UNET: Mapping[str, object] = {
    "patch_size": 1,
    "num_heads": 1,
    "scale_shift": False,
    "skip_every_map": True,
    "upsample": "nearest_conv",
    "xavier": True,
}
"""The published U-Net, which is that of DDPM."""


def refuse(source: str, key: str, leaf: Leaf, text: str) -> NoReturn:
    """Refuse a value.

    Raises:
        PublishedError: with the line, the key, the value and the text.
    """
    raise PublishedError(f"{source}, line {leaf.line}: config.{key} = {shortened(leaf.value)}: {text}")


class Values:
    """The values of a published configuration, and where they move.

    Arguments:
        published: the configuration.
    """

    def __init__(self, published: Published) -> None:
        self.published = published
        self.kinds = {name: row.kind for row in ROWS for name in row.names}
        self.rates, self.model, self.averaged = self.split_name()
        self.data = self.named("data.name", DATA)

    def get(self, key: str, default: Any = None) -> Any:
        """A value, checked for its type."""
        if (leaf := self.published.leaves.get(key)) is None:
            return default
        if not fits(leaf.value, self.kinds[key]):
            refuse(self.published.source, key, leaf, f"expected {self.kinds[key]}")
        if isinstance(leaf.value, float) and "integer" in self.kinds[key]:
            return int(leaf.value)
        return leaf.value

    def number(self, key: str, default: float | None = None) -> float:
        """A value as a float, checked for its type and size."""
        try:
            return float(self.get(key, default))
        except OverflowError:
            self.refuse(key, "expected a smaller number")

    def refuse(self, key: str, text: str) -> NoReturn:
        """Refuse the value of a key, or its absence.

        Raises:
            PublishedError: with the line, the key, the value and the text.
        """
        if (leaf := self.published.leaves.get(key)) is None:
            raise PublishedError(f"{self.published.source}: config.{key} is missing, {text}")
        refuse(self.published.source, key, leaf, text)

    def named(self, key: str, names: Mapping[str, str]) -> str:
        """One of our names, by the published one."""
        if (value := self.get(key)) in names:
            return names[value]
        self.refuse(key, f"expected {one_of(list(names))}{closest(value, list(names))}")

    def split_name(self) -> tuple[str, str, bool]:
        """Our names of the rates and of the network that `model.name` joins, and whether weights are averaged."""
        found = re.fullmatch(f"({'|'.join(RATES)})({'|'.join(NETWORKS)})(EMA)?(Paul)?", self.get("model.name") or "")
        if found is None:
            begin, end = (one_of(list(names)) for names in (RATES, NETWORKS))
            self.refuse("model.name", f"expected {begin}, then {end}, such as GaussianLogDiTEMA")
        return RATES[found[1]], NETWORKS[found[2]], found[3] is not None

    def implied(self) -> Homes:
        """What the published network and process do without a key."""
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
