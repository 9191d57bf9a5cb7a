"""The one place of the package's version; a tag of a release is it with a v before it."""

__version__ = "0.2.0"
