"""The errors of a configuration, and the common parts of their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["ConfigError", "UnknownKey", "closest", "named", "one_of"]


class ConfigError(ValueError):
    """A configuration that cannot be used. The message names the key, the value and what is allowed."""


class UnknownKey(ConfigError):
    """A key that does not exist, or that has no effect.

    Arguments:
        key: the key.
        message: the message.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def named(key: str) -> Iterator[None]:
    """Turn the errors of constructors in this context into ConfigErrors with the key."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise ConfigError(f"config.{key}: {error}") from error


def one_of(names: Iterable[object]) -> str:
    """Return `a`, or `one of a, b, c`."""
    listed = [str(name) for name in names]
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"


def closest(name: object, names: Iterable[object]) -> str:
    """Return `. Did you mean a?` if a name is close to a known name, otherwise an empty text."""
    close = difflib.get_close_matches(str(name), [str(known) for known in names], n=1)
    return f". Did you mean {close[0]}?" if close else ""
