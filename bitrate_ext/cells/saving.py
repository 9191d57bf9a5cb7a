"""Files of cells: npz with float64 cells, exactly, and how they lie over the pixels. No pickle."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..atomic import open_all_or_none
from ..io.files import shown, unusable
from ..ops.projection import PROJECTIONS, Projection
from ..receptive_field.field import ReceptiveField
from .grid import CellGrid

Arrays = dict[str, NDArray[Any]]
FORMAT = 1
ABOUT = "bits"  # the array with what is not an array, as JSON
IMAGES = "picture", "reconstruction"


def pack(
    about: Mapping[str, Any], grids: Mapping[str, CellGrid], channel_bits: Mapping[str, Tensor], *, guides: bool
) -> Arrays:
    """Return the arrays of a file: ``bits`` (JSON), ``cells/y``, ``channels/y``, ``projections/y``, ``guides/y``.

    Args:
        about: what JSON can hold.
        grids: of each latent.
        channel_bits: of each latent, float64 ``[C]``, where they are known.
        guides: whether guides are saved, float32 ``[H, W]`` of the canvas.
    """
    latents = {name: _name(grid.projection) or repr(grid.projection) for name, grid in grids.items()}
    arrays: Arrays = {ABOUT: np.array(json.dumps({"format": FORMAT, **about, "latents": latents}))}
    for name, grid in grids.items():
        arrays[f"cells/{name}"] = _as_small(grid.bits)
        if isinstance(grid.projection, ReceptiveField):
            file = io.BytesIO()
            grid.projection.save(file)
            arrays[f"projections/{name}"] = np.frombuffer(file.getvalue(), dtype=np.uint8)
        if guides and grid.guide is not None:
            arrays[f"guides/{name}"] = grid.guide[0, 0].cpu().numpy()
    return arrays | {f"channels/{name}": _as_small(bits) for name, bits in channel_bits.items()}


def check_projections(grids: Mapping[str, CellGrid]) -> None:
    """Raise ``ValueError`` where a projection is neither built in nor measured, and so cannot be read again."""
    for latent, grid in grids.items():
        if _name(grid.projection) is None:
            raise ValueError(
                f"projection of latent {latent!r} must be built in or a ReceptiveField to be saved, got "
                f"{grid.projection!r}; keep the map itself: np.save(path, bits.map().numpy())"
            )


def _name(projection: Projection) -> str | None:
    """Return the name of a projection that can be read again; None of one's own."""
    known = isinstance(projection, ReceptiveField) or projection is PROJECTIONS.get(projection.name)
    return projection.name if known else None


def _as_small(values: Tensor) -> NDArray[Any]:
    """Return values in float64, or in float32 where that loses nothing."""
    exact = values.detach().cpu().double().numpy()
    with np.errstate(over="ignore"):
        small = exact.astype(np.float32)
    return small if np.array_equal(small, exact, equal_nan=True) else exact


def write(path: str | os.PathLike[str], arrays: Arrays, *, packed: bool) -> None:
    """Write a file in one step, deflated on request."""
    with open_all_or_none([Path(path)]) as (file,):
        write_arrays(file, arrays, packed=packed)


def write_arrays(file: IO[bytes], arrays: Arrays, *, packed: bool) -> None:
    """Write arrays into an open file as npz, deflated on request."""
    (np.savez_compressed if packed else np.savez)(file, **arrays)


def read(path: str | os.PathLike[str], make: Callable[..., Any]) -> Any:
    """Read a file, and have ``make`` check it and make what it held; raises ``ValueError``, which names the file."""
    reason = unusable(path, "an npz")
    if reason is not None:
        raise ValueError(f"{shown(path)}: {reason}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if ABOUT not in file:
                raise ValueError("it holds no cells, as those of older versions; map the picture again")
            return make(**_unpack(file))
    except Exception as error:  # damaged bytes raise anything: of zip, zlib, npy headers, JSON
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{shown(path)}: no saved bits of a picture, or damaged ({words})") from error


def _unpack(file: Any) -> dict[str, Any]:
    about = json.loads(str(file[ABOUT]))
    if about.pop("format") != FORMAT:
        raise ValueError(f"of another format than {FORMAT}, which this version reads")
    canvas = _whole(about["canvas"], 2)
    names, warnings = about.pop("latents"), list(about.pop("warnings"))
    grids = {}
    for name, projection in names.items():
        laid = _projection(file, name, projection)
        guide = _tensor(file, f"guides/{name}", 2)[None, None] if f"guides/{name}" in file else None
        if guide is not None and guide.shape[2:] != canvas:
            raise ValueError(f"guides/{name} must be {list(canvas)} like the canvas, got {list(guide.shape[2:])}")
        grids[name] = CellGrid(_tensor(file, f"cells/{name}", 2).double(), laid, guide)
        note = f"the guide of latent {name!r} was not saved: its bits are laid out by the receptive field alone"
        if laid.guide is not None and guide is None and note not in warnings:
            warnings.append(note)
    return {
        "grids": grids,
        "canvas": canvas,
        "crop": _whole(about["crop"], 4),
        "name": str(about["name"]),
        "kind": str(about["kind"]),
        "elsewhere": {str(what): float(bits) for what, bits in about["elsewhere"].items()},
        "file_bytes": None if about["file_bytes"] is None else int(about["file_bytes"]),
        "channel_bits": {n: _tensor(file, f"channels/{n}", 1).double() for n in names if f"channels/{n}" in file},
        "warnings": tuple(map(str, warnings)),
        **{name: _tensor(file, name, 3)[None] for name in IMAGES if name in file},
    }


def _projection(file: Any, latent: str, name: str) -> Projection:
    measured = f"projections/{latent}"
    if measured not in file and name not in PROJECTIONS:
        raise ValueError(
            f"latent {latent!r} was laid out by a projection of one's own, {name}; its cells are cells/{latent}"
        )
    return ReceptiveField.load(io.BytesIO(file[measured].tobytes())) if measured in file else PROJECTIONS[name]


def _whole(values: Any, count: int) -> tuple[int, ...]:
    found = tuple(int(one) for one in values)
    if len(found) != count:
        raise ValueError(f"{count} whole numbers were expected, got {values}")
    return found


def _tensor(file: Any, name: str, dims: int) -> Tensor:
    array = file[name]
    if array.dtype.kind != "f" or array.ndim != dims:
        raise ValueError(f"{name} must be floating point of {dims} dimensions, got {array.dtype} {list(array.shape)}")
    return torch.from_numpy(np.ascontiguousarray(array))
