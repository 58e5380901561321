"""The error of a configuration, and the words that its messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["ConfigError", "UnknownKey", "closest", "named", "one_of"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the value and what is allowed."""


class UnknownKey(ConfigError):
    """A key that there is not, or that cannot act.

    Arguments:
        key: the key.
        message: the message.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def named(key: str) -> Iterator[None]:
    """What a constructor refuses in this context is told with a key."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"config.{key}: {error}") from error


def one_of(names: Iterable[object]) -> str:
    """`a`, or `one of a, b, c`."""
    listed = [str(name) for name in names]
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"


def closest(name: object, names: Iterable[object]) -> str:
    """`. Did you mean a?` if a name is close to another one, else nothing."""
    close = difflib.get_close_matches(str(name), [str(known) for known in names], n=1)
    return f". Did you mean {close[0]}?" if close else ""
