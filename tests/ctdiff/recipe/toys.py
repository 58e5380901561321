"""Classes of every kind that a schema is read from, and of every kind that it leaves out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from diffusion_core.ranges import CheckedArguments, Count, Positive, Range, Share

__all__ = [
    "BoxShape",
    "CircleScale",
    "DashedFactor",
    "Frame",
    "HTTPBrush",
    "Mesh",
    "Outline",
    "RoundBrush",
    "SolidFactor",
    "Spiral",
    "Tick",
    "TickFactor",
]


class Brush:
    """What a `type[Brush]` names; a name of its own would be one thing, these have their class's."""

    def __init__(self, hairs: object) -> None:
        self.hairs = hairs


class RoundBrush(Brush):
    """A brush."""


class HTTPBrush(Brush):
    """A brush with capitals."""


@dataclass(frozen=True)
class Stroke(CheckedArguments, ABC):
    """A line."""

    @abstractmethod
    def draw(self) -> None:
        """Draw."""


@dataclass(frozen=True)
class SolidFactor(Stroke):
    """A solid line.

    Arguments:
        width: how wide
            it is.
    """

    width: Positive = 1.0

    def draw(self) -> None:
        """Draw."""


@dataclass(frozen=True)
class DashedFactor(Stroke):
    """A line with gaps."""

    gaps: Count = 3
    between: Stroke = field(default_factory=SolidFactor)  # a stroke of strokes: no part of a configuration

    def draw(self) -> None:
        """Draw."""


@dataclass(frozen=True)
class Dotted(Stroke):
    """A line that its module does not export."""

    def draw(self) -> None:
        """Draw."""


class Shape(ABC):
    """A shape.

    Arguments:
        steps: wired.
        tension: of all shapes.
    """

    def __init__(self, steps: int, *, tension: Share = 0.5) -> None:
        self.steps = steps
        self.tension = tension

    @abstractmethod
    def area(self) -> float:
        """The area."""


class Flat(Shape):
    """A shape with an area."""

    def area(self) -> float:
        """The area."""
        return 0.0


class CircleScale(Flat):
    """A circle.

    Arguments:
        radius: of the circle.
        stroke: its line.
        fill: another line.
    """

    def __init__(
        self,
        steps: int,
        *,
        tension: Share = 0.25,
        radius: Annotated[float, Range(above=0, below=10)] = 1.0,
        stroke: Stroke = SolidFactor(2.5),
        fill: Stroke | None = None,
        observer: object = None,
    ) -> None:
        super().__init__(steps, tension=tension)
        if radius > 9:
            raise ValueError(f"radius = {radius}, expected at most 9 for {steps} steps")
        self.radius, self.stroke, self.fill = radius, stroke, fill


class BoxShape(Flat):
    """A box."""

    name = "box"

    def __init__(
        self,
        steps: int,
        corners: Annotated[tuple[int, int], Range(least=-1)],
        *,
        tension: Share = 0.5,
        sides: Annotated[float | Sequence[float], Range(above=0)] = 1.0,
        depth: Count | None = None,
        mode: Literal["fill", "line"] = "fill",
        level: Literal[1, 3] = 1,
        title: str = "a box",
        closed: bool = True,
        brush: type[Brush] = RoundBrush,
    ) -> None:
        super().__init__(steps, tension=tension)
        self.corners, self.sides, self.depth, self.mode, self.level = corners, sides, depth, mode, level
        self.title, self.closed, self.brush = title, closed, brush


class Frame(Flat):
    """A shape that has a circle, whose values are not the circle's own defaults."""

    def __init__(self, steps: int, inner: SolidFactor = SolidFactor(7.0), outer: type[Brush] = HTTPBrush) -> None:
        super().__init__(steps)
        self.inner, self.outer = inner, outer


class Outline(Flat):
    """A wrapper."""

    def __init__(self, steps: int, shape: Shape) -> None:
        super().__init__(steps)
        self.shape = shape


class Mesh(Flat):
    """A shape of points that no configuration can hold."""

    def __init__(self, steps: int, points: list[object]) -> None:
        super().__init__(steps)
        self.points = points


class Spiral(Flat):
    """A shape that needs what shapes are not given."""

    def __init__(self, steps: int, channels: int) -> None:
        super().__init__(steps)
        self.channels = channels


class Mark:
    """A part whose alternatives have the same name."""


class Tick(Mark):
    """A mark."""


class TickFactor(Mark):
    """Another mark of that name."""
