"""Train small codecs with CompressAI's chain and with sources of bits, from the same seeds, for docs/training.md.

    python tools/compare_training.py FOLDER --steps 2000 --seeds 8 --output training.json --picture training.png
    python tools/compare_training.py --table training.json

FOLDER has photographs. Each model is trained from each seed twice, on the same crops in the same order with the same
noise: by ``RateDistortionLoss`` of likelihoods, and by ``RateLoss`` of a fused model. Rate and distortion are measured
on crops that nothing is trained on, in eval mode, by CompressAI's own loss. The runs take turns by seed. Stopped at any
time, the same command goes on with the run that it was at. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import operator
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from compressai.losses import RateDistortionLoss
from compressai.registry import MODELS
from torch import Tensor

import bitrate_ext
from bitrate_ext.io.images import load_image

CODECS = {"bmshj2018-factorized": {"N": 16, "M": 24}, "mbt2018-mean": {"N": 16, "M": 24}}
CHAINS = ("CompressAI", "bitrate_ext")
LAMBDA, SIDE, BATCH, HELD_OUT, CLIP = 0.01, 64, 8, 64, 1.0
EVERY = 50  # steps from one measurement to the next


def crops(folder: Path) -> Tensor:
    """Cut photographs into uint8 ``[n, 3, 96, 96]``, in an order that is always the same."""
    cut: list[Tensor] = []
    for path in sorted(folder.iterdir()):
        image = (load_image(path)[0] * 255).round().to(torch.uint8)
        cut += [
            image[:, top : top + 96, left : left + 96]
            for top in range(0, image.shape[1] - 95, 96)
            for left in range(0, image.shape[2] - 95, 96)
        ]
    return torch.stack(cut)[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))]


def train(name: str, chain: str, seed: int, steps: int, data: Tensor) -> dict[str, Any]:
    """Train one codec, and return its curve on held-out crops and the seconds that steps took."""
    torch.manual_seed(seed)
    model = MODELS[name](**CODECS[name]).train()
    pick = torch.Generator().manual_seed(seed)
    tables = {id(p) for n, p in model.named_parameters() if n.endswith("quantiles")}
    main = torch.optim.Adam([p for p in model.parameters() if id(p) not in tables], lr=1e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(main, steps)
    aside = torch.optim.Adam([p for p in model.parameters() if id(p) in tables], lr=1e-2)
    ours = bitrate_ext.RateLoss(lmbda=LAMBDA) if chain == CHAINS[1] else None
    theirs = RateDistortionLoss(lmbda=LAMBDA)
    fused = bitrate_ext.fuse(model) if ours else None
    curve, seconds = [], 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(HELD_OUT, len(data), (BATCH,), generator=pick)
        top, left = torch.randint(0, 96 - SIDE + 1, (2,), generator=pick).tolist()
        x = data[rows, :, top : top + SIDE, left : left + SIDE].float() / 255
        start = time.perf_counter()
        loss = (ours or theirs)(model(x), x)["loss"]
        main.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if id(p) not in tables], CLIP)
        main.step()
        decay.step()
        aside.zero_grad()
        model.aux_loss().backward()
        aside.step()
        seconds += time.perf_counter() - start
        if step % EVERY == 0:
            model.eval()
            with torch.no_grad():
                x = data[:HELD_OUT, :, :SIDE, :SIDE].float() / 255
                found = theirs(model(x), x)
            model.train()
            curve.append({"step": step, "bpp": float(found["bpp_loss"]), "mse": float(found["mse_loss"])})
    if fused:
        fused.undo()
    return {"model": name, "chain": chain, "seed": seed, "steps": steps, "curve": curve, "seconds": seconds}


def loss_of(point: dict[str, float]) -> float:
    """Return rate and distortion in one number."""
    return point["bpp"] + LAMBDA * 255**2 * point["mse"]


def psnr_of(point: dict[str, float]) -> float:
    """Return the PSNR in dB."""
    return -10 * math.log10(point["mse"])


def table(runs: list[dict[str, Any]]) -> str:
    """Return the last measurements as Markdown: means and deviations over seeds, and of the differences of pairs."""
    lines = ["| model | loss by | bpp | PSNR, dB | bpp + distortion |", "|---|---|---|---|---|"]
    quantities = ((operator.itemgetter("bpp"), 4), (psnr_of, 2), (loss_of, 3))
    for name in dict.fromkeys(run["model"] for run in runs):
        last = {(run["chain"], run["seed"]): run["curve"][-1] for run in runs if run["model"] == name}
        seeds = sorted({seed for _, seed in last if all((chain, seed) in last for chain in CHAINS)})
        shown: dict[str, list[str]] = defaultdict(list)
        for quantity, digits in quantities:
            theirs, ours = ([quantity(last[chain, seed]) for seed in seeds] for chain in CHAINS)
            for chain, values in zip(CHAINS, (theirs, ours), strict=True):
                shown[chain].append(f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}")
            apart = [one - other for one, other in zip(ours, theirs, strict=True)]
            error = stdev(apart) / math.sqrt(len(seeds))
            shown["difference of pairs"].append(f"{mean(apart):+.{digits}f} ± {error:.{digits}f}")
        lines += [f"| {name} | {label} | {' | '.join(values)} |" for label, values in shown.items()]
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw rate and PSNR of each run over its steps."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run["model"] for run in runs))
    figure = Figure(figsize=(8, 3 * len(names)), dpi=80, layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False)
    for run in runs:
        steps = [one["step"] for one in run["curve"]]
        look = {"color": f"C{run['seed']}", "linestyle": "-" if run["chain"] == CHAINS[0] else "--", "linewidth": 1}
        rate, psnr = axes[names.index(run["model"])]
        rate.plot(steps, [one["bpp"] for one in run["curve"]], label=run["chain"] if run["seed"] == 0 else None, **look)
        psnr.plot(steps, [psnr_of(one) for one in run["curve"]], **look)
    for name, (rate, psnr) in zip(names, axes, strict=True):
        rate.set(title=name, xlabel="step", ylabel="bits per pixel", yscale="log")
        psnr.set(title=name, xlabel="step", ylabel="PSNR, dB")
        rate.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of photographs")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("training.json"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of runs that are kept, and train nothing")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be 2 or more: the table tells deviations over them")
    if options.table:
        runs = json.loads(options.table.read_text())
    elif options.folder is None:
        parser.error("give the folder of photographs, or --table FILE")
    else:
        data = crops(options.folder)
        runs = json.loads(options.output.read_text()) if options.output.exists() else []
        done = {(run["model"], run["seed"], run["chain"], run["steps"]) for run in runs}
        for seed, name, chain in itertools.product(range(options.seeds), CODECS, CHAINS):
            if (name, seed, chain, options.steps) in done:
                continue
            runs.append(train(name, chain, seed, options.steps, data))
            print(name, chain, seed, runs[-1]["curve"][-1], f"{runs[-1]['seconds']:.0f} s", flush=True)
            options.output.write_text(json.dumps(runs))
    print(table(runs))
    if options.picture:
        draw(runs, options.picture)


if __name__ == "__main__":
    main()
