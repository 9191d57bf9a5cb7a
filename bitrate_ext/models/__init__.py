"""Models: load them, run them on any image, watch their parts, make them faster."""

from .zoo import load_checkpoint, load_zoo_model

__all__ = ["load_checkpoint", "load_zoo_model"]
