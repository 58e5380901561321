"""Faster implementations of methods of `rates.base`. Tests compare each with the default implementation."""

__all__: list[str] = []
