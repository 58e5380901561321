"""Faster implementations of methods of `rates.base`. Tests compare each of them with the default implementation."""

__all__: list[str] = []
