"""Progress bars with the remaining time, for every operation of ctdiff that can take more than two seconds.

    for batch in tracked(batches, "features"):
        ...

A bar is written to standard error, and only if it is a terminal. So it is never in a log file or in a pipe. A bar appears after
two seconds, and short operations show none. In a block of `hidden`, no bar is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["bar", "hidden", "tracked"]

T = TypeVar("T")

_HIDDEN: ContextVar[bool] = ContextVar("_HIDDEN", default=False)
_DELAY = 2.0  # seconds
_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # n may be a fraction of a sample


@contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
    """Make a context without progress bars. If `hide` is False, nothing changes."""
    token = _HIDDEN.set(hide or _HIDDEN.get())
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def bar(title: str, total: int | None, *, start: int = 0, leave: bool = False) -> tqdm:
    """Make a progress bar, to be used in a `with` block. Call its method `update` after each part of the work.

    Arguments:
        title: the text on its left.
        total: the number of parts of the work. None means that the number is not known.
        start: the number of parts that are already done.
        leave: whether the bar stays on the screen at its end.
    """
    return tqdm(
        desc=title,
        total=total,
        initial=start,
        leave=leave,
        bar_format=_FORMAT,
        delay=_DELAY,
        dynamic_ncols=True,
        disable=True if _HIDDEN.get() else None,  # None: tqdm asks whether standard error is a terminal
    )


def tracked(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield items, and show a progress bar of how many have been processed.

    Arguments:
        items: the items.
        title: the text on the left of the bar.
        total: the number of items. None means `len(items)`, or that the number is not known if `items` has no length.
    """
    with bar(title, len(items) if total is None and isinstance(items, Sized) else total) as shown:
        for item in items:
            yield item
            shown.update()
