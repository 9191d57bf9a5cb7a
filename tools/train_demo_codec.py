"""Train the small codec that ships with the package: one model, eight qualities.

    python tools/train_demo_codec.py --state ~/demo-codec        # goes on where it was stopped
    python tools/train_demo_codec.py --state ~/demo-codec --decay 3000   # the last steps, to a rate of zero

The codec is CompressAI's ``MeanScaleHyperprior`` (Minnen et al. 2018, arXiv 1809.02736) with few channels and gain
units (Cui et al. 2021, arXiv 2003.02012): at each quality, every channel of ``y`` is scaled before and after rounding.
``bitrate_ext`` folds a quality's gains into the linear layers beside them. The photographs are those of
``demo_photographs``, which must have been run before.

The crops of the steps take the eight qualities in turn. A constant learning rate and the moving average of the weights
make every stop a usable model; ``--decay`` starts from there and leaves the state as it was. SIGTERM saves and ends; a
file ``PAUSE`` in the state's folder halts until it is gone. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressai.ops import quantize_ste
from torch import Tensor, nn

from bitrate_ext.models.demo_codec import lean_codec

CHANNELS = {"n": 64, "m": 192}
LAMBDAS = tuple(0.0004 * (0.0446 / 0.0004) ** (level / 7) for level in range(8))  # weight of the distortion
MIDDLE = 0.0075  # the weight at which a gain starts as 1
CROP = 256  # pixels; with 128, the hyperprior learnt the zeros about four cells of z and cost 6 % more on pictures
RATE = 5e-4  # Adam's, until the decay
SAVE_EVERY = 240  # seconds


def variable_rate() -> nn.Module:
    """The codec with the logarithms of the gains before and after rounding, ``[2, levels, M]``."""
    model = lean_codec(**CHANNELS)
    before = (torch.tensor(LAMBDAS) / MIDDLE).log()[:, None].expand(-1, CHANNELS["m"]) / 2
    model.log_gains = nn.Parameter(torch.stack((before, -before)))
    return model


@torch.no_grad()
def start_linear(model: nn.Module, x: Tensor) -> None:
    """Make the two transforms a Karhunen-Loeve transform of 16 x 16 blocks, learnt from ``x``, in four steps of 2 x 2.

    From random weights, or from those of a codec of few bits, reconstruction stays below 31 dB for thousands of steps
    at any rate; so it starts at 34 dB. Other channels are read at random, and are themselves read by none at first.
    """
    parameters = dict(model.named_parameters())
    step = (18 / math.log(2) / MIDDLE) ** 0.5 / 255  # of y: the best for ``MIDDLE`` at high rates
    inputs, t = 3, x - 0.5
    for layer in (0, 2, 4, 6):
        analysis, synthesis = parameters[f"g_a.{layer}.weight"], parameters[f"g_s.{6 - layer}.weight"]
        outputs = min(4 * inputs, len(analysis))
        blocks = F.unfold(t, 2, stride=2).transpose(1, 2).reshape(-1, 4 * inputs)
        blocks = blocks[torch.randperm(len(blocks))[:400_000]]
        basis = torch.linalg.eigh(blocks.T @ blocks / len(blocks))[1].flip(1)[:, :outputs].T  # most energy first
        kernel = basis.reshape(outputs, inputs, 2, 2)
        analysis[:, inputs:] = 0
        analysis[:outputs] = 0
        analysis[:outputs, :inputs, 2:4, 2:4] = kernel / (step if layer == 6 else 1)
        synthesis[outputs:] = 0
        synthesis[:outputs, :inputs] = 0
        synthesis[:outputs, :inputs, 2:4, 2:4] = kernel * step**0.25
        parameters[f"g_a.{layer}.bias"].zero_()
        parameters[f"g_s.{6 - layer}.bias"].zero_()
        inputs, t = outputs, F.conv2d(t, kernel, stride=2)
    parameters["g_a.0.bias"].copy_(-0.5 * parameters["g_a.0.weight"].sum((1, 2, 3)))
    parameters["g_s.6.bias"].fill_(0.5)
    for name, gamma in parameters.items():
        if name.endswith("gamma"):  # next to no normalisation at first; stored as roots
            gamma.copy_((torch.eye(len(gamma)) * 2e-4 + 2**-36).sqrt())
    scales, means = parameters["h_s.4.bias"].chunk(2)
    parameters["h_s.4.weight"].mul_(0.3)
    scales.copy_(0.7 * (t / step).std((0, 2, 3)))
    means.copy_((t / step).mean((0, 2, 3)))


class Crops:
    """Draws random crops of the photographs in ``pixels.u8``, whose places ``pixels.json`` has."""

    def __init__(self, folder: Path, seed: int) -> None:
        index = json.loads((folder / "pixels.json").read_text())["index"]
        self.index = [entry for entry in index if min(entry[1:3]) >= CROP]
        self.pixels = np.memmap(folder / "pixels.u8", np.uint8, "r")
        self.random = np.random.default_rng(seed)
        areas = np.array([min(height * width, 400_000) for _, height, width, _ in self.index], float)
        self.chances = areas**0.5 / (areas**0.5).sum()

    def batch(self, size: int) -> Tensor:
        """``[size, 3, CROP, CROP]`` in [0, 1]."""
        numbers = self.random.choice(len(self.index), size, p=self.chances)
        return torch.stack([self._augmented(self._crop(number)) for number in numbers])

    def _crop(self, number: int) -> Tensor:
        """Half of them the busier of two places: most of most photographs is smooth."""
        start, height, width, _ = self.index[number]
        picture = self.pixels[start : start + 3 * height * width].reshape(height, width, 3)
        random = self.random
        side = CROP
        if random.random() < 0.35:  # reduced by a factor between whole ones
            side = int(min(height, width, CROP * random.uniform(1.0, 2.0)))
        crops = []
        for _ in range(2 if random.random() < 0.5 else 1):
            top, left = random.integers(height - side + 1), random.integers(width - side + 1)
            crops.append(picture[top : top + side, left : left + side])
        crop = max(crops, key=lambda c: np.abs(np.diff(c[::2, :, 1].astype(np.int16), axis=1)).mean())
        x = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255
        if side != CROP:
            x = F.interpolate(x[None], (CROP, CROP), mode="bilinear", antialias=True, align_corners=False)[0]
        return x

    def _augmented(self, x: Tensor) -> Tensor:
        random = self.random
        if random.random() < 0.5:
            x = x.flip(2)
        if random.random() < 0.25:
            x = x.transpose(1, 2)
        if random.random() < 0.1:
            x = x[torch.from_numpy(random.permutation(3))]
        if random.random() < 0.3:
            gains = torch.from_numpy(random.uniform(0.9, 1.1, (3, 1, 1)).astype(np.float32))
            x = ((x - 0.5) * random.uniform(0.85, 1.25) + 0.5 + random.uniform(-0.06, 0.06)) * gains
        if random.random() < 0.15:
            blurred = F.avg_pool2d(F.pad(x[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
            x = x + random.uniform(0.0, 1.0) * (x - blurred)
        if random.random() < 0.1:
            x = x + random.uniform(0.0, 0.02) * torch.randn_like(x)
        if random.random() < 0.08:  # the black that pictures are padded with
            x[:, :, : random.integers(1, CROP // 2)] = 0
            x = x.flip(2) if random.random() < 0.5 else x
            x = x.transpose(1, 2) if random.random() < 0.5 else x
        return x.clamp(0, 1)


def rate_and_distortion(model: nn.Module, x: Tensor, levels: Tensor, low: bool) -> tuple[Tensor, Tensor]:
    """Bits per pixel and MSE of each picture, each at its level.

    Distortion by straight-through rounding, and rate by additive noise (Minnen and Singh 2020, arXiv 2007.08739), but
    for the scales of ``y``: they learn from the rounded values, so that the coder's files are as long as foretold. The
    two big transforms may run in bfloat16 (``low``); entropy models always run in float32.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        y = model.g_a(x)
    y = y.float()
    z = model.h_a(y)
    _, z_likelihoods = model.entropy_bottleneck(z)
    medians = model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    z_hat = quantize_ste(z - medians) + medians
    scales, means = model.h_s(z_hat).chunk(2, 1)
    before, after = model.log_gains[:, levels, :, None, None].exp()
    conditional = model.gaussian_conditional
    _, noisy = conditional(y * before, scales.detach() * before, means=means * before)
    steps = quantize_ste((y - means) * before)
    rounded = conditional._likelihood(steps.detach(), scales * before.detach())
    rounded = conditional.likelihood_lower_bound(rounded).log2()
    y_log2 = rounded + noisy.log2() - noisy.log2().detach()  # the value is that of the rounded ones
    y_hat = (steps + means * before) * after
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        x_hat = model.g_s(y_hat.contiguous(memory_format=torch.channels_last))
    bits = -y_log2.sum((1, 2, 3)) - z_likelihoods.log2().sum((1, 2, 3))
    return bits / (x.shape[2] * x.shape[3]), (x_hat.float() - x).square().mean((1, 2, 3))


class Training:
    """A run that can be stopped and gone on with: weights, their moving average, optimizers, and steps taken."""

    def __init__(self, device: str, start: Tensor | None) -> None:
        self.device = device
        self.model = variable_rate()
        if start is not None:
            start_linear(self.model, start)
        self.model = self.model.train().to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model).eval()
        named = dict(self.model.named_parameters())
        self.quantiles = named.pop("entropy_bottleneck.quantiles")
        self.main = list(named.values())
        self.optimizer = torch.optim.Adam(self.main)
        self.quantile_optimizer = torch.optim.Adam([self.quantiles], lr=1e-3)
        self.weights = torch.tensor(LAMBDAS, device=device)
        self.step, self.decay_from = 0, -1
        self.means = np.zeros((2, len(LAMBDAS)))

    def one_step(self, x: Tensor, rate: float, low: bool) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        levels = (torch.arange(len(x), device=self.device) + self.step * len(x)) % len(LAMBDAS)
        bpp, mse = rate_and_distortion(self.model, x, levels, low)
        weights = self.weights[levels]
        loss = ((bpp + weights * 255**2 * mse) * (MIDDLE / weights).sqrt()).mean()  # all levels weigh alike
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.main, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.quantile_optimizer.zero_grad(set_to_none=True)
        self.model.entropy_bottleneck.loss().backward()
        self.quantile_optimizer.step()
        self.step += 1
        age = self.step - max(self.decay_from, 0)  # the average is over the last quarter of these steps, at most 2000
        decay = min(0.9995, 1 - 4 / (age + 8))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)
            seen, columns = torch.stack((bpp, mse)).cpu().numpy(), levels.cpu().numpy()
        if np.isfinite(seen).all():
            self.means[:, columns] += max(0.003, 1 / self.step) * (seen - self.means[:, columns])

    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model, "averaged": self.averaged, "optimizer": self.optimizer,
            "quantile_optimizer": self.quantile_optimizer,
        }  # fmt: skip

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        numbers = {"step": self.step, "decay_from": self.decay_from, "means": torch.from_numpy(self.means)}
        torch.save({**state, **numbers}, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step, self.decay_from, self.means = state["step"], state["decay_from"], state["means"].numpy()

    def report(self, seconds: float) -> str:
        pairs = (f"{bpp:.3f}/{-10 * np.log10(max(mse, 1e-9)):.2f}" for bpp, mse in self.means.T)
        return f"step {self.step:7d} {seconds:7.0f} s  bpp/dB {' '.join(pairs)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder of the photographs and the run's state")
    parser.add_argument("--batch", type=int, default=4, help="crops a step, at most 8 (default %(default)s)")
    parser.add_argument("--decay", type=int, default=0, help="take this many steps more, to a rate of zero, and end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    state, decayed = args.state / "state.pt", args.state / "decayed.pt"
    torch.manual_seed(args.seed)
    crops = Crops(args.state, args.seed)
    run = Training(args.device, None if state.exists() else crops.batch(200))
    if args.decay and decayed.exists():
        run.load(decayed)
    elif state.exists():
        run.load(state)
    if args.decay and run.decay_from < 0:
        run.decay_from = run.step
    target = decayed if args.decay else state
    torch.manual_seed(args.seed + run.step)
    crops.random = np.random.default_rng(args.seed + run.step)
    log = (args.state / "log.txt").open("a", buffering=1)
    started = saved = time.monotonic()
    while not stopped and (not args.decay or run.step < run.decay_from + args.decay):
        while (args.state / "PAUSE").exists() and not stopped:
            time.sleep(1)
        left = 1.0 if not args.decay else 1 - (run.step - run.decay_from) / args.decay
        batch = crops.batch(args.batch).to(args.device, memory_format=torch.channels_last)
        run.one_step(batch, RATE * left * min(1.0, (run.step + 1) / 200), low=left > 0.1)
        if run.step % 250 == 0:
            print(run.report(time.monotonic() - started), file=log)
        if time.monotonic() - saved > SAVE_EVERY:
            run.save(target)
            saved = time.monotonic()
    run.save(target)
    print(run.report(time.monotonic() - started), "stopped" if stopped else "done", file=log)
    return 0


if __name__ == "__main__":
    sys.exit(main())
