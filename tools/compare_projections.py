"""Compare projections with the exact attribution of each bit, and draw them, for docs/projections.md.

    python tools/compare_projections.py --table                  # as Markdown; ten minutes on two cores
    python tools/compare_projections.py --random                 # decoders of random weights
    python tools/compare_projections.py --folder PHOTOGRAPHS     # one's own, reduced to 768 pixels
    python tools/compare_projections.py --picture docs/images/projections.png

The exact map spreads each symbol's bits by the energy of its own impulse response, which is found one channel and one
comb of cells at a time, a reach apart. Photographs come from scikit-image and scikit-learn: needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.models.demo_codec import more_photographs
from bitrate_ext.models.trace import ModelTrace, symbol_bits
from bitrate_ext.ops.projection import Projection
from bitrate_ext.receptive_field.field import ReceptiveField, Term

SIDE = 192  # of the photographs' middles, pixels
BATCH = 8  # combs at a time
RANDOM = {"mbt2018-mean": {"N": 24, "M": 32}, "cheng2020-anchor": {"N": 12}, "bmshj2018-factorized": {"N": 24, "M": 32}}
SKIMAGE, SKLEARN = ("astronaut", "chelsea", "coffee", "rocket"), ("china", "flower")
REDUCED = 768  # longest side that photographs of a folder are reduced to, pixels
STATIC = ("nearest", "bilinear", "area", "centred bilinear", "receptive field")


def photograph(name: str, side: int = SIDE) -> Tensor:
    """The middle of a photograph, by its name or path, ``[1, 3, side, side]`` in [0, 1]."""
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_image

    if Path(name).is_file():
        with Image.open(name) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((REDUCED, REDUCED), Image.Resampling.BOX)
        pixels = np.asarray(picture)
    else:
        pixels = load_sample_image(f"{name}.jpg") if name in SKLEARN else getattr(skimage.data, name)()
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    return image[..., top : top + side, left : left + side]


def exact(run: ModelTrace) -> Tensor:
    """Where the bits of ``y`` go, float64 ``[H, W]``: each symbol's bits by the energy of its own impulse response."""
    synthesis = run.synthesis("y")
    reach, stride = synthesis.reach()
    bits = symbol_bits(run.likelihoods["y"].double())[0]
    channels, h, w = bits.shape
    apart = [-(-(last - first + 1) // step) for (first, last), step in zip(reach, stride, strict=True)]
    combs = [(c, a, b) for c in range(channels) for a in range(min(apart[0], h)) for b in range(min(apart[1], w))]
    result = torch.zeros(run.size, dtype=torch.float64)
    for start in range(0, len(combs), BATCH):
        chosen = combs[start : start + BATCH]
        tangent = torch.zeros(len(chosen), channels, h, w)
        for one, (c, a, b) in zip(tangent, chosen, strict=True):
            one[c, a :: apart[0], b :: apart[1]] = 1
        several = type(synthesis)("", synthesis.transform, synthesis.inputs.repeat(len(chosen), 1, 1, 1), slice(None))
        for energy, (c, a, b) in zip(several.energy(tangent).double(), chosen, strict=True):
            rows, columns = (
                owner(cells, first, step, reach[axis][0], stride[axis])
                for axis, (cells, first, step) in enumerate(((h, a, apart[0]), (w, b, apart[1])))
            )
            landed = torch.zeros(h, w, dtype=torch.float64)
            landed.index_put_((rows[:, None], columns[None, :]), energy, accumulate=True)
            result += energy * (bits[c] / landed.clamp_min(1e-300))[rows][:, columns]
    return result


def owner(cells: int, first: int, step: int, low: int, stride: int) -> Tensor:
    """Which cell of ``first, first + step ...`` reaches each pixel of an axis."""
    number = (torch.arange(cells * stride) - stride * first - low).div(stride * step, rounding_mode="floor")
    return first + step * number.clamp(0, len(range(first, cells, step)) - 1)


def hat(field: ReceptiveField) -> ReceptiveField:
    """Linear interpolation, moved so that it is centred where the decoder's reach is."""
    (step, _), (center, _) = field.stride, field.center
    reach = (int(np.floor(center - step)) + 1, int(np.ceil(center + step)) - 1)
    kernel = 1 - np.abs(np.arange(reach[0], reach[1] + 1) - center) / step
    return ReceptiveField(field.stride, (reach, reach), [Term(1.0, kernel, kernel)])


def statics(model: nn.Module) -> dict[str, str | Projection]:
    field = bitrate_ext.calibrate(model)
    return dict(zip(STATIC, ("nearest", "bilinear", "area", hat(field), field), strict=True))


def guided(model: nn.Module, name: str) -> ReceptiveField:
    """The field with its guide, which has not seen the photograph: of five that are bundled chelsea is one."""
    if name != "chelsea":
        return bitrate_ext.calibrate(model, guide=True)
    others = load_image(more_photographs())
    return bitrate_ext.calibrate(model, images=others.split(others.shape[2], dim=3), guide=True)


def random_model(name: str) -> nn.Module:
    """Random weights, latents spread over many symbols."""
    from compressai.registry import MODELS

    torch.manual_seed(0)
    model = MODELS[name](**RANDOM[name]).eval()
    with torch.no_grad():
        [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d)][-1].weight.mul_(30)
    return model


def distance(found: Tensor, truth: Tensor) -> float:
    """L1, in per cent of the bits."""
    return 100 * float((found.detach().double() - truth).abs().sum() / truth.sum())


def timed(call: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def compare(model: nn.Module, names: tuple[str, ...], passes: tuple[int, ...], side: int) -> dict[str, list[float]]:
    """Distances to the exact map of ``y``, by method, for each photograph."""
    found: dict[str, list[float]] = {}
    projections = statics(model)
    for name in names:
        x = photograph(name, side)
        run = ModelTrace(ModelAdapter.of(model), x, {})
        truth, seconds = timed(lambda run=run: exact(run))
        print(f"{name}: exact in {seconds:.0f} s", flush=True)
        for method, projection in projections.items():
            one = bitrate_ext.bitrate_map(run.likelihoods["y"], run.size, projection=projection)[0, 0]
            found.setdefault(method, []).append(distance(one, truth))
        field = guided(model, name)
        guide = field.guide and field.guide(run.output["x_hat"])
        one = bitrate_ext.bitrate_map(run.likelihoods["y"], run.size, projection=field, guide=guide)[0, 0]
        found.setdefault("guided", []).append(distance(one, truth))
        for count in passes:
            result, seconds = timed(lambda x=x, count=count: bitrate_ext.attribute(model, x, passes=count))
            found.setdefault(f"Jacobian, {count} passes", []).append(distance(result.maps["y"][0, 0], truth))
            print(
                f"{name}: {count} passes in {seconds:.1f} s, error said {100 * float(result.error):.1f} %", flush=True
            )
    return found


def table(found: dict[str, list[float]], names: tuple[str, ...]) -> str:
    lines = [f"| | {' | '.join(Path(name).stem for name in names)} | mean |", "|---" * (len(names) + 2) + "|"]
    for method, values in found.items():
        numbers = " | ".join(f"{value:.1f}" for value in (*values, sum(values) / len(values)))
        lines.append(f"| {method} | {numbers} |")
    return "\n".join(lines)


def draw(path: Path, name: str = "chelsea") -> None:
    """The photograph and its maps side by side, all in one scale of colours; distances to the exact map below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    codec, x = bitrate_ext.load_demo_codec(), photograph(name)
    run = ModelTrace(ModelAdapter.of(codec), x, {})
    truth = exact(run)
    panels: dict[str, Tensor] = {
        method: bitrate_ext.bitrate_map(run.likelihoods["y"], run.size, projection=projection)[0, 0]
        for method, projection in statics(codec).items()
        if method not in ("nearest", "area")  # squares, the same at whole-number scales
    }
    field = guided(codec, name)
    assert field.guide is not None
    guide = field.guide(run.output["x_hat"])
    panels["guided"] = bitrate_ext.bitrate_map(run.likelihoods["y"], run.size, projection=field, guide=guide)[0, 0]
    for passes in (16, 64):
        panels[f"Jacobian, {passes} passes"] = bitrate_ext.attribute(codec, x, passes=passes).maps["y"][0, 0]
    panels["exact"] = truth
    figure = Figure(figsize=(16, 8.7), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4, gridspec_kw={"wspace": 0.04, "hspace": 0.16, "left": 0.01, "right": 0.99})
    figure.subplots_adjust(top=0.96, bottom=0.05)
    limit = float(torch.quantile(truth.flatten(), 0.995))
    axes[0, 0].imshow(x[0].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0, 0].set_title("photograph", size=16)
    for panel, (method, bits) in zip(axes.flat[1:], panels.items(), strict=True):
        panel.imshow(bits.detach().numpy(), cmap="inferno", vmin=0, vmax=limit, interpolation="nearest")
        away = "" if method == "exact" else f": {distance(bits, truth):.1f} %"
        panel.set_title(f"{method}{away}", size=16)
    for panel in axes.flat:
        panel.set_axis_off()
    figure.text(
        0.01, 0.015, f"0 to {limit:.1f} bits per pixel, black to yellow; % of the bits away from the exact map", size=15
    )
    canvas.print_png(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if arguments.table:
        names = SKIMAGE + SKLEARN
        print(table(compare(bitrate_ext.load_demo_codec(), names, (16, 64), SIDE), names), flush=True)
    if arguments.random:
        names = SKIMAGE[:2]
        for random in RANDOM:
            print(f"\n{random}, random weights\n", flush=True)
            print(table(compare(random_model(random), names, (16, 64), SIDE), names), flush=True)
    if arguments.folder:
        names = tuple(
            sorted(str(path) for path in arguments.folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))
        )
        print(table(compare(bitrate_ext.load_demo_codec(), names, (16,), SIDE), names), flush=True)
    if arguments.picture:
        draw(arguments.picture)


if __name__ == "__main__":
    main()
