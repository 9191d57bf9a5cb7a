"""What people would use instead, each in one place, and two limits: a copy of the same bytes and a call of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workloads import HYPER_STRIDE, Buffers, Workload, projection_of

import bitrate_ext
from bitrate_ext.cli.bench import recipe
from bitrate_ext.mapping.layout import lay_out, sum_cells
from bitrate_ext.ops import dispatch
from bitrate_ext.ops.projection import choose_projections

try:
    import opponents_triton
except Exception:  # no Triton, or none for this GPU
    opponents_triton = None  # type: ignore[assignment]

Call = Callable[[], object]
LIMITS = ("copy", "empty call")  # these compute nothing: their answers are not checked


def strides(workload: Workload) -> dict[str, int]:
    return {"y": workload.stride, "z": HYPER_STRIDE}


def chain(workload: Workload, likelihoods: dict[str, Tensor]) -> Tensor:
    """The recipe for each latent, cropped to the image and added."""
    height, width = workload.size
    maps = [recipe(p, strides(workload)[name])[..., :height, :width] for name, p in likelihoods.items()]
    return maps[0] if len(maps) == 1 else maps[0] + maps[1]


def gradient_of(made: Tensor, buffers: Buffers) -> Call:
    """The gradient alone: the map has been made, and the same graph is walked again."""
    leaves = list(buffers.likelihoods.values())
    return lambda: torch.autograd.grad(made, leaves, buffers.out, retain_graph=True)


def require_gradients(workload: Workload, buffers: Buffers) -> dict[str, Tensor]:
    for p in buffers.likelihoods.values():
        p.requires_grad_(workload.direction == "backward")
    return buffers.likelihoods


def fused(workload: Workload, buffers: Buffers) -> Call:
    likelihoods, projection = require_gradients(workload, buffers), projection_of(workload)
    if workload.direction == "backward":
        return gradient_of(bitrate_ext.bitrate_map(likelihoods, workload.size, projection=projection), buffers)
    if list(likelihoods) == ["y"] and workload.projection == "bilinear":
        p = likelihoods["y"]  # the drop-in call
        return lambda: bitrate_ext.bitrate_map(p, scale_factor=workload.stride, out=buffers.out)
    return lambda: bitrate_ext.bitrate_map(likelihoods, workload.size, projection=projection, out=buffers.out)


def mapper(workload: Workload, buffers: Buffers) -> Call:
    """What a mapper does besides the network: the map of all latents and of each, totals, what the padding costs."""
    projections = choose_projections(projection_of(workload), buffers.likelihoods)
    canvas = workload.size

    def call() -> Tensor:
        return lay_out(sum_cells(buffers.likelihoods), projections, canvas, (0, 0, *canvas), out=buffers.out).map

    return call


def kernel(workload: Workload, buffers: Buffers) -> Call:
    """The fused backward kernel into gradients that are there already: no new memory in a call."""
    canvas = workload.size
    geometry = dispatch.MapGeometry(canvas, (0, 0, *canvas), ["bilinear"], True, (0.0, 0.0))
    p = buffers.likelihoods["y"].detach()
    bands, gradient = dispatch.cached_bands([p], geometry, transposed=True), torch.empty_like(p)

    def call() -> list[Tensor]:
        torch.ops.bitrate_ext._project_backward(buffers.out, p, bands.flat, gradient, bands.plans)
        return [gradient]

    return call


def reference(workload: Workload, buffers: Buffers) -> Call:
    likelihoods, projection = require_gradients(workload, buffers), projection_of(workload)

    def make() -> Tensor:
        made: Tensor = bitrate_ext.bitrate_map(likelihoods, workload.size, projection=projection, impl="reference")
        return made

    return gradient_of(make(), buffers) if workload.direction == "backward" else make


def by_recipe(workload: Workload, buffers: Buffers) -> Call:
    likelihoods = require_gradients(workload, buffers)
    if workload.direction == "backward":
        return gradient_of(chain(workload, likelihoods), buffers)
    return lambda: chain(workload, likelihoods)


def compiled(mode: str | None) -> Callable[[Workload, Buffers], Call]:
    """``torch.compile`` of the recipe, anew for each workload; its sets of buffers share one program."""
    made: dict[Workload, Callable[[Tensor], Tensor]] = {}

    def opponent(workload: Workload, buffers: Buffers) -> Call:
        if workload not in made:
            made.clear()
            torch._dynamo.reset()
            made[workload] = torch.compile(lambda p: recipe(p, workload.stride), dynamic=False, mode=mode)
        program, p = made[workload], buffers.likelihoods["y"]
        return lambda: program(p)

    return opponent


def scipy_zoom(workload: Workload, buffers: Buffers) -> Call:
    """NumPy for the bits and SciPy's zoom for the map, as many do it."""
    import scipy.ndimage  # not above: machines with a GPU need none

    p = buffers.likelihoods["y"].numpy()

    def call() -> Tensor:
        bits = -np.log2(p).sum(axis=1) / workload.stride**2
        zoomed = scipy.ndimage.zoom(bits, (1, *[workload.stride] * 2), order=1, mode="nearest", grid_mode=True)
        return torch.from_numpy(zoomed[:, None])

    return call


def triton_pair(workload: Workload, buffers: Buffers, blocks: Any = None) -> Call:
    """Two kernels by hand: bits of the cells, then the map."""
    p = buffers.likelihoods["y"]
    scratch, blocks = opponents_triton.scratch(p), blocks or opponents_triton.TRIALS[0]
    return lambda: opponents_triton.by_triton(p, buffers.out, scratch, workload.stride, blocks)


def copy(workload: Workload, buffers: Buffers) -> Call:
    """Reads and writes, together, as many bytes as the workload must."""
    source = torch.ones(workload.bytes // 2, dtype=torch.uint8, device=buffers.out.device)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def empty_call(workload: Workload, buffers: Buffers) -> Call:
    one = buffers.out.view(-1)[:1]
    return one.zero_


OPPONENTS: dict[str, Callable[[Workload, Buffers], Call]] = {
    "copy": copy,  # first: the others are measured by it
    "fused": fused,
    "mapper": mapper,
    "recipe": by_recipe,
    "kernel": kernel,
    "compiled recipe": compiled(None),
    "compiled recipe, max-autotune": compiled("max-autotune"),
    "reference": reference,
    "NumPy and SciPy": scipy_zoom,
    "Triton": triton_pair,
    "empty call": empty_call,
}


def calls_of(opponent: str, workload: Workload, buffers: list[Buffers]) -> tuple[list[Call], object]:
    """A call for each set of buffers, each run once, the first of them last; and that one's answer."""
    calls = [OPPONENTS[opponent](workload, one) for one in buffers]
    answer: object = None
    for call in calls[::-1]:
        answer = call()
    return calls, answer


def relative_error(found: Any, exact: list[Tensor]) -> float:
    """The largest difference over the largest value, of all tensors."""
    tensors = [found] if isinstance(found, Tensor) else list(found)
    assert [t.shape for t in tensors] == [e.shape for e in exact]
    return max(float((t.double() - e).abs().max() / e.abs().max()) for t, e in zip(tensors, exact, strict=True))


def allowed_error(workload: Workload, opponent: str) -> float:
    if workload.dtype == "float32":
        return 1e-5
    if opponent == "recipe" and workload.direction == "forward":
        return 0.1  # it takes logarithms, and gives the map, in the likelihoods' type
    return 1e-5 if workload.direction == "forward" else 1e-2


def checked(workload: Workload, opponent: str, answer: Any, exact: list[Tensor]) -> float | None:
    """Return an answer's error; None for one that computes nothing.

    Raises:
        AssertionError: it is too large; wrong answers are not timed.
    """
    if opponent in LIMITS:
        return None
    error = relative_error(answer, exact)
    assert error <= allowed_error(workload, opponent), f"{opponent} is wrong by {error:.1e}; it was not timed"
    return error


def why_not(opponent: str, workload: Workload, device: torch.device) -> str:
    """Why an opponent does not take part in a workload; "" where it does."""
    plain = list(workload.shapes) == ["y"] and workload.projection == "bilinear"
    usual = plain and workload.direction == "forward" and workload.frames == 1 and workload.channels == 192
    usual = usual and (workload.dtype, workload.layout, workload.stride) == ("float32", "contiguous", 16)
    if opponent == "mapper" and not (workload.hyper and workload.projection == "bilinear"):
        return "it is for the latents of a codec"
    if opponent == "recipe" and workload.projection != "bilinear":
        return "it knows bilinear interpolation only"
    if opponent == "kernel" and not (workload.direction == "backward" and plain):
        return "it is the backward pass"
    if opponent.startswith("compiled") and not (usual and isinstance(workload.image, str)):
        return "the usual workloads tell enough"
    if opponent == "compiled recipe, max-autotune" and device.type != "cuda":
        return "it is for GPUs"
    if opponent == "reference" and not (usual or workload.direction == "backward" or workload.projection != "bilinear"):
        return "the usual workloads tell enough"
    if opponent == "NumPy and SciPy" and not (usual and device.type == "cpu" and isinstance(workload.image, str)):
        return "it is for the usual workloads on a CPU"
    if opponent == "Triton":
        if device.type != "cuda" or opponents_triton is None:
            return "it needs a GPU and Triton"
        if not (plain and workload.direction == "forward" and workload.layout == "contiguous"):
            return "it is written for contiguous likelihoods of one latent"
    if opponent == "empty call" and not isinstance(workload.image, tuple):
        return "it counts where there is nothing to compute"
    return ""
