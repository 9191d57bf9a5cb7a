"""Checks of arguments that several rooms make."""

from __future__ import annotations


def check_whole_number(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number, or one that is too small.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
