"""Measure the demo codec against JPEG at equal bytes, on photographs that training never sees.

    python tools/check_demo_codec.py --state ~/demo-codec --lomiri ~/lomiri/usr/share/backgrounds

PSNR at 0.25, 0.5 and 1 bit per pixel, interpolated between the codec's eight qualities and between JPEG's (Pillow's,
4:2:0, optimised Huffman tables). Pictures are padded by going on as they end, which spares the codec a black frame;
JPEG does likewise. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from train_demo_codec import CHANNELS, LAMBDAS, variable_rate

from bitrate_ext.models.demo_codec import at_level, lean_codec, with_tables
from bitrate_ext.models.zoo import build

RATES = (0.25, 0.5, 1.0)  # bits per pixel
SIDE = 768  # pixels that the wallpapers' longest side is reduced to
DRAWINGS = ("warty-final", "Painting-Colors", "Infinite-Sea", "umang", "Fossa")  # among the wallpapers


def six_photographs() -> dict[str, np.ndarray]:
    """uint8 ``[H, W, 3]``."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photographs = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return photographs | {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}


def wallpapers(folder: Path) -> dict[str, np.ndarray]:
    """Those of Debian's ``lomiri-wallpapers-16.04`` and ``-20.04`` that are photographs, reduced."""
    found = {}
    for path in sorted(folder.glob("*.jpg")):
        if not path.name.startswith(DRAWINGS):
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
            found[path.stem] = np.array(picture)
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibels between two uint8 pictures."""
    return float(-10 * np.log10(((a.astype(np.float64) - b) ** 2).mean() / 255**2))


def of_jpeg(pixels: np.ndarray) -> list[tuple[float, float]]:
    """Bits per pixel and PSNR of each quality."""
    points = []
    for quality in range(2, 97, 2):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
        points.append((buffer.tell() * 8 / pixels[..., 0].size, psnr(np.array(Image.open(buffer)), pixels)))
    return points


@torch.inference_mode()
def of_codec(models: list[nn.Module], pixels: np.ndarray, coded: bool, mode: str) -> list[tuple[float, float, float]]:
    """Bits per pixel, PSNR, and the bits of the real file over the estimate (``coded``; else 1) of each quality."""
    height, width = pixels.shape[:2]
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    bottom, right = -height % 64, -width % 64
    sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
    padded = F.pad(x, sides, mode=mode)
    points = []
    for model in models:
        out = model(padded)
        bits = sum(float(-p.double().log2().sum()) for p in out["likelihoods"].values())
        ratio = 1.0
        if coded:
            strings = model.compress(padded)["strings"]
            ratio = sum(len(string) * 8 for latent in strings for string in latent) / bits
        x_hat: Tensor = out["x_hat"][0, :, sides[2] : sides[2] + height, sides[0] : sides[0] + width]
        decoded = (x_hat.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        points.append((bits * ratio / (height * width), psnr(decoded, pixels), ratio))
    return points


def at(points: list[tuple[float, ...]], rate: float) -> float:
    """PSNR at a rate, over its logarithm; beyond the first or last point, along the last two."""
    rates, values = np.log([point[0] for point in points]), [point[1] for point in points]
    if np.log(rate) > rates[-1]:
        return float(values[-1] + (values[-1] - values[-2]) / (rates[-1] - rates[-2]) * (np.log(rate) - rates[-1]))
    return float(np.interp(np.log(rate), rates, values))


def report(
    models: list[nn.Module], sets: dict[str, dict[str, np.ndarray]], folder: Path, coded: bool, mode: str
) -> str:
    """A table: by set the means at each rate, over JPEG's, and by quality bits per pixel and PSNR."""
    lines = []
    for title, photographs in sets.items():
        cache = folder / f"jpeg-{title}.json"
        if not cache.exists():
            cache.write_text(json.dumps({name: of_jpeg(pixels) for name, pixels in photographs.items()}))
        jpeg = json.loads(cache.read_text())
        ours = {name: of_codec(models, pixels, coded, mode) for name, pixels in photographs.items()}
        over = {name: [at(ours[name], rate) - at(jpeg[name], rate) for rate in RATES] for name in ours}
        lines.append(f"{title}: over JPEG at {RATES} bpp: {np.mean(list(over.values()), axis=0).round(2).tolist()} dB")
        lines += [f"  {name:16.16} " + " ".join(f"{value:+.2f}" for value in values) for name, values in over.items()]
        for level in range(len(LAMBDAS)):
            bpp, value, ratio = np.mean([points[level] for points in ours.values()], axis=0)
            worst = max(abs(points[level][2] - 1) for points in ours.values())
            lines.append(f"  q{level + 1} {bpp:.3f} bpp {value:.2f} dB, file/estimate {ratio:.4f}, worst {worst:.4f}")
    return "\n".join(lines)


def stored(state: dict[str, Any]) -> dict[str, Tensor]:
    """The moving average as it ships: gains and entropy model in float32, all else in float16."""
    weights = {name: state["averaged"][name] for name, _ in variable_rate().named_parameters()}
    gains = weights.pop("log_gains").exp()
    halves = {name: p if name.startswith("entropy_bottleneck") else p.half() for name, p in weights.items()}
    return {name: p.contiguous() for name, p in {**halves, "gains": gains}.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="the training's folder; the table goes to its log")
    parser.add_argument("--name", default="state.pt", help="state.pt or decayed.pt")
    parser.add_argument("--lomiri", type=Path, help="folder of the wallpapers")
    parser.add_argument("--coded", action="store_true", help="run the entropy coder, too")
    parser.add_argument("--zeros", action="store_true", help="pad with zeros, as CompressAI does, not with the borders")
    parser.add_argument("--output", type=Path, help="also write the weights, as a safetensors file")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    state = torch.load(args.state / args.name, map_location="cpu", weights_only=True)
    weights = stored(state)
    if args.output:
        metadata = {"format": "pt", **{name.upper(): str(size) for name, size in CHANNELS.items()}}
        save_file(weights, args.output, metadata=metadata)
    models = [
        with_tables(build(lean_codec, at_level(weights, level), tuple(CHANNELS.values())))
        for level in range(len(LAMBDAS))
    ]
    sets = {"six": six_photographs()}
    if args.lomiri:
        sets["lomiri"] = wallpapers(args.lomiri)
    mode = "constant" if args.zeros else "replicate"
    table = report(models, sets, args.state, args.coded, mode)
    text = f"{time.strftime('%H:%M')} {args.name} at step {state['step']}, padding {mode}\n{table}"
    print(text)
    with (args.state / "log.txt").open("a") as log:
        print(text, file=log)
    return 0


if __name__ == "__main__":
    sys.exit(main())
