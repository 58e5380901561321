"""Faster variants of what `rates.base` does plainly; one test holds each to the plain one."""

__all__: list[str] = []
