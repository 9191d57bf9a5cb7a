"""Maps that follow a guide: inside its projection's reach, each cell puts its bits where the guide is large.

With ``K`` the projection and ``g`` the guide, ``map(p) = g(p) sum_i b_i K(p, i) / D_i``, where the guide as cell ``i``
sees it is ``D_i = sum_p K(p, i) g(p)``. A cell's weights add up to one whatever the guide is, so no bit is lost. Three
linear steps, each of which is an operator of its own: the projection's adjoint makes ``D``, the projection itself lays
``b / D`` out, and the guide multiplies the pixels, in the same launch where no gradient is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import autograd, dispatch, library, reference
from .arguments import DTYPES, Call
from .dispatch import MapGeometry
from .memory_pages import on_large_pages
from .projection import Projection
from .torch_internals import are_eager
from .units import kernel_input, value_range

# Smaller values of a guide count as this, so that a cell whose guide is zero all over spreads its bits as without a
# guide; larger ones as that, so that one infinite pixel takes all of a cell's bits.
LEAST, MOST = 2.0**-100, 2.0**100
_KNOWN = "bitrate_ext_bounded"  # attribute of a guide that was made between them: its version then


def picture_guide(picture: Tensor, weights: Sequence[float], phases: Tensor) -> Tensor | None:
    """Return the guide of a picture by the kernel, float32 ``[N, 1, H, W]``, or None where it cannot make it.

    It serves plain tensors of which no gradient is asked, on devices that have a kernel.

    Args:
        picture: ``[N, C, H, W]`` of any floating dtype and strides.
        weights: of the picture's four features, which keep it between ``LEAST`` and ``MOST``.
        phases: float32, logarithms of factors of the places in a cell.
    """
    usable = are_eager([picture]) and not autograd.needs_gradient([picture]) and picture.shape[1] > 0
    if not usable or picture.dtype not in DTYPES or library.why_absent(picture.device):
        return None
    guide = on_large_pages(picture.new_empty((picture.shape[0], 1, *picture.shape[2:]), dtype=torch.float32))
    library.guide(picture, weights, phases.to(picture.device).contiguous(), guide)
    if not guide.is_inference():  # which have no version
        setattr(guide, _KNOWN, guide._version)
    return guide


def check_guide(guide: object, call: Call) -> None:
    """Check a guide's shape, dtype and device for a call; its values are looked at by ``bounded``.

    Raises:
        TypeError, ValueError: naming what was expected and what came.
    """
    made, canvas = call.setting.map, call.setting.geometry.canvas
    shape = (made.shape[0], 1, *canvas)
    if not isinstance(guide, Tensor):
        raise TypeError(f"guide must be a tensor, got {type(guide).__name__}")
    if guide.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"guide must be float32 or float64, got {guide.dtype}")
    if tuple(guide.shape) != shape:
        raise ValueError(f"guide must be {list(shape)}, one value a pixel of size=, got shape {list(guide.shape)}")
    if guide.device != made.device:
        raise ValueError(f"guide must be on {made.device} like the latents, got {guide.device}")


def bounded(guide: Tensor) -> Tensor:
    """Return the guide between ``LEAST`` and ``MOST``: as it is, where it lies there. NaN stays.

    The values of ``picture_guide`` do by their construction, and are not looked at.

    Raises:
        ValueError: it is negative somewhere, or nowhere more than zero. Compiled, transformed and captured calls, which
            cannot look, take negative values for ``LEAST``.
    """
    eager = are_eager([guide])
    if eager and getattr(guide, _KNOWN, None) is not None and getattr(guide, _KNOWN) == guide._version:
        return guide  # nothing has written into it since
    if not eager or dispatch.is_capturing(guide.device):
        return guide.clamp(LEAST, MOST)
    low, high = value_range(guide)
    if guide.numel() and (low < 0 or high <= 0):
        raise ValueError(f"guide must be positive, got values from {low:.8g} to {high:.8g}")
    return guide if low >= LEAST and high <= MOST else guide.clamp(LEAST, MOST)


def cell_bits(values: Tensor, native: bool) -> Tensor:
    """Return the bits of cells, float64 ``[N, h, w]``."""
    if values.dim() == 3 or not native:
        return reference.cell_bits(values, torch.float64)
    grid = (values.shape[-2], values.shape[-1])
    own = MapGeometry(grid, (0, 0, *grid), ["nearest"], True, (0.0, 0.0))
    return autograd.call_map([values], own, torch.float64).squeeze(1)


def sum_guide(guide: Tensor, grid: tuple[int, int], geometry: MapGeometry, native: bool) -> Tensor:
    """Return the window of a guide as each cell sees it, float64 ``[N, h, w]``: its pixels by the cell's weights.

    Args:
        guide: ``[N, 1, height, width]`` of the window.
        grid: (h, w) of the latent.
        geometry: with the keys of the latent's terms, which are added.
        native: the kernel, or the reference.
    """
    cells = guide.new_zeros((guide.shape[0], *grid), dtype=torch.float64)  # of the latent's shape; not read
    sums = torch.zeros_like(cells)
    for key in geometry.projections:
        sums = sums + autograd.run_backward(guide, cells, geometry._replace(projections=[key]), native)
    return sums


def outside_share(
    guide: Tensor, projection: Projection, grid: tuple[int, int], canvas: tuple[int, int], window: Sequence[int]
) -> Tensor:
    """Return the part of each cell's bits that falls outside a window of the canvas, float64 ``[N, h, w]``."""
    top, left, height, width = window
    if (height, width) == canvas:
        return guide.new_zeros((len(guide), *grid), dtype=torch.float64)
    native = not library.why_absent(guide.device)
    geometry = MapGeometry(canvas, (0, 0, *canvas), [term.key for term in projection.terms], True, (0.0, 0.0))
    whole = sum_guide(guide, grid, geometry, native)
    part = guide[:, :, top : top + height, left : left + width]
    inside = sum_guide(part, grid, geometry._replace(window=window), native)
    return share_left(whole, inside)


def share_left(whole: Tensor, inside: Tensor) -> Tensor:
    """Return what part of a cell's guide lies outside, given the sum of all of it and that inside."""
    return ((whole - inside) / whole).clamp_min(0)


def guide_sums(call: Call, guide: Tensor) -> list[Tensor]:
    """Return the whole guide as the cells of each latent see it, float64 ``[N, h, w]``; 1 where they see none of it."""
    canvas, _, keys, conserve, scales = call.setting.geometry
    found: list[Tensor] = []
    first = 0
    for tensor, copies in zip(call.latents.values(), call.setting.copies, strict=True):
        own, first = keys[first : first + copies], first + copies
        geometry = MapGeometry(canvas, (0, 0, *canvas), own, conserve, scales)
        sums = sum_guide(guide, (tensor.shape[-2], tensor.shape[-1]), geometry, call.native)
        found.append(torch.where(sums == 0, 1, sums))
    return found


def guided_bits(call: Call, guide: Tensor) -> list[Tensor]:
    """Return what the projection lays out: for each term the bits of cells over the guide's sums, float64."""
    laid_out: list[Tensor] = []
    for tensor, copies, sums in zip(call.latents.values(), call.setting.copies, guide_sums(call, guide), strict=True):
        laid_out += [cell_bits(kernel_input(tensor, call.unit), call.native) / sums] * copies
    return laid_out


def guided_map(call: Call, guide: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the map of a call under a guide ``[N, 1, H, W]``, or write it into ``out``; see the module."""
    guide, setting = bounded(guide), call.setting
    bits = guided_bits(call, guide)
    top, left, height, width = setting.geometry.window
    window = guide[:, :, top : top + height, left : left + width]
    single = guide.dtype == setting.map.dtype == torch.float32
    if call.native and single and are_eager([*bits, guide]) and not autograd.needs_gradient([*bits, guide]):
        target = on_large_pages(bits[0].new_empty(setting.map.shape, dtype=setting.map.dtype)) if out is None else out
        window = window if window.stride(3) == 1 else window.contiguous()
        return dispatch.project_into(bits, setting.bands(), target, window)
    project = autograd.call_map if call.native else dispatch.project_by_reference
    result = (project(bits, setting.geometry, torch.float64) * window).to(setting.map.dtype)
    return result if out is None else out.copy_(result)
