"""Read what strangers' models return: latents' likelihoods or bits by name, and a reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..ops.arguments import SUFFIX, by_suffix
from ..ops.functional import image_latents
from ..ops.units import LIKELIHOOD

LIKELIHOODS, X_HAT = "likelihoods", "x_hat"
REMEDY = "say where they are, BitrateMapper(model, likelihoods=lambda output: ..., unit=...), or ModelAdapter likewise"


class OutputError(ValueError):
    """What a model returned has no values of latents of an image."""


class OutputReader:
    """Reads the output of a model.

    Args:
        likelihoods: returns the latents' values, a tensor or nested dicts and lists of them, given the output. Default:
            they are looked for under the key or attribute "likelihoods"; in tensors "y_likelihoods", "z_likelihoods";
            and, in tuples, in the one part that has them or is a dict of tensors.
        unit: of these values, as for ``bitrate_map``.
    """

    def __init__(self, likelihoods: Callable[[Any], Any] | None = None, unit: str = LIKELIHOOD) -> None:
        self.likelihoods, self.unit = likelihoods, unit

    def read(self, output: Any, x: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the output as a dict, the reconstruction under "x_hat", and the latents' values by name.

        Args:
            output: what the model returned.
            x: ``[N, C, H, W]``, what it was given.

        Raises:
            TypeError, OutputError: there are no values of latents of an image; says what came.
        """
        x_hat = _find_reconstruction(output, x)
        values = self.likelihoods(output) if self.likelihoods is not None else _find_values(output, x)
        found = dict(output) if isinstance(output, Mapping) else {} if x_hat is None else {X_HAT: x_hat}
        return found, self._named(values)

    def _named(self, values: Any) -> dict[str, Tensor]:
        if isinstance(values, Mapping) and all(str(key).endswith(SUFFIX) for key in values):
            values = by_suffix(values, quantized=True) or values  # {"likelihoods": {"y_likelihoods": ...}}
        named = image_latents(values, self.unit)
        if not named:
            raise OutputError("model returned no likelihoods: the mapping under 'likelihoods' is empty")
        ranks = (4,) if self.unit == LIKELIHOOD else (3, 4)
        for name, value in named.items():
            if value.dim() not in ranks:
                hint = (
                    f"; what is known of whole images only, such as bits per pixel, cannot be mapped: {REMEDY}"
                    if value.dim() < 3
                    else ""
                )
                raise OutputError(
                    f"likelihoods of latent {name!r} must be [N, C, h, w]{' or [N, h, w]' if len(ranks) > 1 else ''}, "
                    f"got shape {list(value.shape)}; models of point clouds and of vectors have no image to map onto"
                    f"{hint}"
                )
        return named


def _find_values(output: Any, x: Tensor) -> Any:
    found = _values_in(output)
    if found is None and isinstance(output, (list, tuple)):
        parts = [one for one in map(_values_in, output) if one is not None]
        if not parts:  # (x_hat, {"y": ...}) and (x_hat, p): what is not the picture
            parts = [one for one in output if _is_values(one, x)]
        if len(parts) == 1:
            return parts[0]
        if parts:
            raise TypeError(
                f"model returned a {type(output).__name__} with {len(parts)} parts that may be likelihoods; {REMEDY}"
            )
    if found is not None:
        return found
    expected = "model must return a mapping with the key 'likelihoods'"
    if isinstance(output, Mapping):
        keys = ", ".join(repr(key) for key in output) or "none"
        raise OutputError(f"{expected}, got the keys {keys}; {REMEDY}")
    raise TypeError(f"{expected}, got {_described(output)}; {REMEDY}")


def _values_in(output: Any) -> Any:
    """Return what a mapping or an object says are its likelihoods; None where it does not."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        if LIKELIHOODS in output:
            return output[LIKELIHOODS]
        return by_suffix(output, quantized=True) or None
    if hasattr(output, LIKELIHOODS):
        return getattr(output, LIKELIHOODS)
    return by_suffix(_fields(output), quantized=True) or None


def _fields(output: Any) -> dict[str, Any]:
    """Return the fields of a namedtuple or another object by name."""
    if hasattr(output, "_asdict"):
        return dict(output._asdict())
    return dict(vars(output)) if hasattr(output, "__dict__") else {}


def _is_values(part: Any, x: Tensor) -> bool:
    if isinstance(part, Mapping):
        return bool(part) and all(isinstance(one, (Tensor, Mapping, list, tuple)) for one in part.values())
    coarser = isinstance(part, Tensor) and part.dim() == 4 and part.shape[-2:] != x.shape[-2:]
    return coarser and part.is_floating_point()


def _find_reconstruction(output: Any, x: Tensor) -> Any:
    if not isinstance(output, (Tensor, Mapping)) and hasattr(output, X_HAT):
        return getattr(output, X_HAT)
    if isinstance(output, (list, tuple)):
        for part in output:
            if isinstance(part, Tensor) and part.shape == x.shape:
                return part
            if isinstance(part, Mapping) and X_HAT in part:
                return part[X_HAT]
    return None


def _described(output: Any) -> str:
    if isinstance(output, (list, tuple)):
        return f"{type(output).__name__} of {', '.join(type(one).__name__ for one in output) or 'nothing'}"
    return type(output).__name__
