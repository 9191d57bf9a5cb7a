"""Train the small codec that ships with the package, and write its weights and model card.

    python tools/train_demo_codec.py --output bitrate_ext/data/demo_codec.safetensors

The codec is CompressAI's ``MeanScaleHyperprior`` (Minnen et al. 2018, arXiv 1809.02736) with few channels. Training
photographs come from two Debian packages, fetched with ``apt-get download`` into a folder outside the repository; test
photographs come from scikit-image and scikit-learn and are never trained on. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressai.models import MeanScaleHyperprior
from compressai.ops import quantize_ste
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

CHANNELS = {"N": 64, "M": 96}
PACKAGES = {
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/*.jpg",
    "plasma-workspace-wallpapers": "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
}
# The photographs among the second package's wallpapers; the others are drawings.
PLASMA_PHOTOGRAPHS = (
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
)
REDUCTIONS = (3, 4, 6, 8, 12)  # each training photograph is area-averaged by these whole factors
CROP = 128  # pixels; twice the codec's largest stride


def fetch_photographs(folder: Path) -> list[Path]:
    """Download and unpack the Debian packages once; return the photographs' paths, sorted."""
    for package in PACKAGES:
        target = folder / package
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
            (archive,) = folder.glob(f"{package}_*.deb")
            unpacked = folder / f"{package}.partial"
            subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
            unpacked.rename(target)
    nature = folder / "mate-backgrounds"
    plasma = folder / "plasma-workspace-wallpapers"
    found = list(nature.glob(PACKAGES["mate-backgrounds"]))
    for name in PLASMA_PHOTOGRAPHS:
        found += plasma.glob(PACKAGES["plasma-workspace-wallpapers"].format(name))
    if len(found) < 20:
        raise SystemExit(f"expected at least 20 training photographs under {folder}, found {len(found)}")
    return sorted(found)


def load_reduced(paths: list[Path]) -> list[Tensor]:
    """Every photograph at every reduction, uint8 ``[3, H, W]``; area-averaged, so no resampling artefacts."""
    pictures = []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for factor in REDUCTIONS:
            pixels = torch.from_numpy(np.array(image.reduce(factor))).permute(2, 0, 1).contiguous()
            if min(pixels.shape[1:]) >= CROP:
                pictures.append(pixels)
    return pictures


def random_batch(pictures: list[Tensor], size: int, random: np.random.Generator) -> Tensor:
    """``[size, 3, CROP, CROP]`` in [0, 1], from pictures drawn evenly, each crop changed at random by ``augmented``."""
    crops = []
    for index in random.integers(len(pictures), size=size):
        picture = pictures[index]
        top = random.integers(picture.shape[1] - CROP + 1)
        left = random.integers(picture.shape[2] - CROP + 1)
        crops.append(augmented(picture[:, top : top + CROP, left : left + CROP].float() / 255, random))
    return torch.stack(crops)


def augmented(crop: Tensor, random: np.random.Generator) -> Tensor:
    """Turned, recoloured, sharpened, and noisy at random: the few photographs are soft and much alike."""
    if random.random() < 0.5:
        crop = crop.flip(2)
    if random.random() < 0.25:
        crop = crop.transpose(1, 2)
    if random.random() < 0.3:
        crop = crop[torch.from_numpy(random.permutation(3))]
    if random.random() < 0.5:
        blurred = F.avg_pool2d(F.pad(crop, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        crop = crop + random.uniform(0.0, 2.0) * (crop - blurred)
    if random.random() < 0.5:
        crop = (crop - 0.5) * random.uniform(0.7, 1.4) + 0.5 + random.uniform(-0.1, 0.1)
    if random.random() < 0.3:
        noise = random.standard_normal(crop.shape, dtype=np.float32)
        crop = crop + random.uniform(0.0, 0.03) * torch.from_numpy(noise)
    return crop.clamp(0, 1)


def training_loss(
    model: MeanScaleHyperprior, x: Tensor, lmbda: float, low_precision: bool
) -> tuple[Tensor, float, float]:
    """``bpp + lmbda * 255^2 * MSE``, its bpp and its MSE.

    Rate by additive noise, distortion by straight-through rounding (Minnen and Singh 2020, arXiv 2007.08739).

    The two big transforms may run in bfloat16; entropy models always run in float32.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        y = model.g_a(x)
    y = y.float()
    z = model.h_a(y)
    _, z_likelihoods = model.entropy_bottleneck(z)
    medians = model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    z_hat = quantize_ste(z - medians) + medians
    scales, means = model.h_s(z_hat).chunk(2, 1)
    _, y_likelihoods = model.gaussian_conditional(y, scales, means=means)
    y_hat = quantize_ste(y - means) + means
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        x_hat = model.g_s(y_hat)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bpp = sum(-likelihoods.log2().sum() for likelihoods in (y_likelihoods, z_likelihoods)) / pixels
    mse = F.mse_loss(x_hat.float(), x)
    return bpp + lmbda * 255**2 * mse, float(bpp), float(mse)


def learning_rate(progress: float) -> float:
    """Adam's rate after ``progress`` (0 to 1) of the run: a short warm-up, then cosine decay from 1e-3 to 1e-6."""
    warm_up = min(1.0, progress / 0.01)
    return 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + np.cos(np.pi * progress)) * warm_up


def train(
    pictures: list[Tensor], steps: int, seed: int, batch: int, lmbda: float, checkpoint: Path, resume_at: int
) -> MeanScaleHyperprior:
    """Train from scratch, or from step ``resume_at`` with the weights of ``checkpoint``.

    Returns the moving average of the weights, which ``checkpoint`` also keeps.
    """
    torch.manual_seed(seed + resume_at)
    random = np.random.default_rng(seed + resume_at)
    model = MeanScaleHyperprior(**CHANNELS).train()
    if resume_at:
        load_weights(model, checkpoint)
    averaged = copy.deepcopy(model).eval()
    quantiles = {name: p for name, p in model.named_parameters() if name.endswith(".quantiles")}
    main = [p for name, p in model.named_parameters() if name not in quantiles]
    optimizer = torch.optim.Adam(main)
    quantile_optimizer = torch.optim.Adam(quantiles.values(), lr=1e-3)
    started, bpp_mean, mse_mean = time.monotonic(), 0.0, 0.0
    for step in range(resume_at, steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        loss, bpp, mse = training_loss(model, random_batch(pictures, batch, random), lmbda, progress < 0.97)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(main, 1.0)
        optimizer.step()
        quantile_optimizer.zero_grad(set_to_none=True)
        model.entropy_bottleneck.loss().backward()
        quantile_optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, value in zip(averaged.parameters(), model.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        smoothing = max(0.005, 1 / (step - resume_at + 1))  # a moving mean, for the log only
        bpp_mean += smoothing * (bpp - bpp_mean)
        mse_mean += smoothing * (mse - mse_mean)
        if step % 500 == 0 or step == steps - 1:
            psnr = -10 * np.log10(mse_mean)
            seconds = time.monotonic() - started
            print(f"step {step:6d}  {seconds:6.0f} s  {bpp_mean:.3f} bpp  {psnr:.2f} dB", flush=True)
            save_weights(averaged, checkpoint)
    return averaged


def save_weights(model: MeanScaleHyperprior, path: Path) -> None:
    """Parameters in float16 (half the file; the figures are those of the rounded weights), written atomically."""
    weights = {name: p.detach().half().contiguous() for name, p in model.named_parameters()}
    temporary = path.with_suffix(".partial")
    save_file(weights, temporary, metadata={"format": "pt", "N": str(CHANNELS["N"]), "M": str(CHANNELS["M"])})
    temporary.chmod(0o644)
    os.replace(temporary, path)


def load_weights(model: MeanScaleHyperprior, path: Path) -> None:
    with torch.no_grad():
        for name, value in load_file(path).items():
            model.get_parameter(name).copy_(value)


def test_photographs() -> dict[str, np.ndarray]:
    """uint8 ``[H, W, 3]`` photographs that training never sees."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photographs = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    photographs["motorcycle"] = data.stereo_motorcycle()[0]
    for name in ("china", "flower"):
        photographs[name] = load_sample_image(f"{name}.jpg")
    return photographs


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Decibels between two uint8 pictures."""
    return float(-10 * np.log10(((a.astype(np.float64) - b) ** 2).mean() / 255**2))


def jpeg_at(pixels: np.ndarray, bpp: float) -> float:
    """PSNR of Pillow's JPEG (optimised Huffman tables, 4:2:0) at ``bpp``, interpolated between its qualities."""
    rates, values = [], []
    for quality in range(2, 96):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
        rates.append(buffer.tell() * 8 / (pixels.shape[0] * pixels.shape[1]))
        values.append(psnr(np.array(Image.open(buffer)), pixels))
    return float(np.interp(bpp, rates, values))


@torch.inference_mode()
def evaluate(weights: Path) -> list[dict[str, Any]]:
    """Coded bits (the entropy coder's strings), estimated bits and PSNR of every test photograph."""
    model = MeanScaleHyperprior(**CHANNELS)
    load_weights(model, weights)
    model.eval().update(force=True)
    rows = []
    for name, pixels in test_photographs().items():
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[:2]
        bottom, right = -height % 64, -width % 64
        padded = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        out = model(padded)
        estimate = sum(float(-p.double().log2().sum()) for p in out["likelihoods"].values())
        coded = sum(len(string) * 8 for strings in model.compress(padded)["strings"] for string in strings)
        x_hat = out["x_hat"][0, :, bottom // 2 : bottom // 2 + height, right // 2 : right // 2 + width]
        decoded = (x_hat.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        bpp = coded / (height * width)
        rows.append(
            {
                "name": name,
                "estimated_bpp": estimate / (height * width),
                "bpp": bpp,
                "psnr": psnr(decoded, pixels),
                "jpeg_psnr": jpeg_at(pixels, bpp),
            }
        )
    return rows


def model_card(rows: list[dict[str, Any]], args: argparse.Namespace, seconds: float, photographs: int) -> str:
    """The model card, Markdown."""

    def line(name: str, *values: float) -> str:
        estimated, coded, ours, jpeg = values
        return f"| {name} | {estimated:.3f} | {coded:.3f} | {ours:.2f} | {jpeg:.2f} |"

    keys = ("estimated_bpp", "bpp", "psnr", "jpeg_psnr")
    six = [row for row in rows if row["name"] != "motorcycle"]
    table = [line(row["name"], *(row[key] for key in keys)) for row in rows]
    table.append(line("mean without motorcycle", *(float(np.mean([row[key] for row in six])) for key in keys)))
    table.append(line("mean", *(float(np.mean([row[key] for row in rows])) for key in keys)))
    return "\n".join(
        [
            "# Demo codec: model card",
            "",
            "A small learned image codec, there to make maps with out of the box; no competitor to published codecs.",
            "",
            "| | |",
            "|---|---|",
            f"| architecture | CompressAI `MeanScaleHyperprior`, N = {CHANNELS['N']}, M = {CHANNELS['M']}"
            " (Minnen et al. 2018, arXiv 1809.02736) |",
            "| weights | `demo_codec.safetensors`, float16, converted to float32 on loading |",
            "| weights' licence | BSD-3-Clause, as the package |",
            f"| objective | bpp + {args.lmbda} * 255^2 * MSE; rate by additive noise, distortion by straight-through"
            " rounding |",
            f"| training | {args.steps} steps of {args.batch} crops of {CROP}x{CROP}, Adam 1e-3 with cosine decay,"
            " moving average of the weights |",
            f"| seed | {args.seed} |",
            f"| time | {seconds / 60:.0f} minutes on {torch.get_num_threads()} shared cores"
            f" ({platform.machine()}, torch {torch.__version__}) |",
            f"| data | {photographs} photographs: `nature` of Debian's `mate-backgrounds` (GPL-2+) and"
            " the photographs of Debian's `plasma-workspace-wallpapers` (LGPL-3), area-averaged"
            f" {', '.join(map(str, REDUCTIONS))} times; none of them is shipped |",
            f"| made by | `tools/train_demo_codec.py --steps {args.steps} --seed {args.seed} --batch {args.batch}"
            f" --lmbda {args.lmbda}` |",
            "",
            "Photographs it never saw (scikit-image and scikit-learn). JPEG is Pillow's, with optimised Huffman tables,"
            " at the same bits.",
            "",
            "| photograph | estimated bpp | coded bpp | PSNR, dB | JPEG's PSNR at that bpp |",
            "|---|---|---|---|---|",
            *table,
            "",
            "Limits: one rate; trained on few photographs, mostly of nature, so text and faces are not its strength.",
            "",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="safetensors file; the card goes beside it")
    parser.add_argument("--photographs", type=Path, default=Path("~/.cache/bitrate-ext/photographs").expanduser())
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--lmbda", type=float, default=0.0075, help="weight of the distortion: more is better and larger"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume-at", type=int, default=0, help="step to go on from, with the weights of --output")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    paths = fetch_photographs(args.photographs)
    averaged = train(load_reduced(paths), args.steps, args.seed, args.batch, args.lmbda, args.output, args.resume_at)
    save_weights(averaged, args.output)
    seconds = time.monotonic() - started
    card = model_card(evaluate(args.output), args, seconds, photographs=len(paths))
    card_path = args.output.with_name("demo_codec.md")
    temporary = card_path.with_suffix(".partial")
    temporary.write_text(card)
    os.replace(temporary, card_path)
    print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
