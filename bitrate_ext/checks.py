"""Checks of arguments that several rooms have in common."""

from __future__ import annotations


def check_whole_number(name: str, value: object, least: int) -> None:
    """Check that an argument is a whole number of at least so much.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
