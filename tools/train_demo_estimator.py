"""Train the estimator of the bundled codec's bits, and ship it: weights, and the card that tells how well it does.

    python tools/train_demo_estimator.py --state ~/demo-codec --lomiri ~/lomiri/usr/share/backgrounds

Learns from the photographs of ``demo_photographs``, which must have been run before, and measures its errors on those
of ``check_demo_codec``, which neither the codec nor the estimator learns. Has to be run anew whenever the codec's
weights change; a test tells. Needs the ``train`` extra.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from check_demo_codec import six_photographs, wallpapers
from torch import Tensor, nn

from bitrate_ext import BitrateMapper, RateEstimator, load_demo_codec, train_estimator
from bitrate_ext.choices import DEMO_QUALITIES, DEMO_QUALITY
from bitrate_ext.estimator.estimator import DEMO
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph, load_demo_forward
from bitrate_ext.models.demo_forward import ANALYSIS
from bitrate_ext.receptive_field.fingerprint import weights_fingerprint

CARD = """\
# Estimator of the demo codec: model card

Foretells, from a picture alone, what the demo codec would spend on each block of 16 x 16 pixels, at each of its eight
qualities: `RateEstimator.demo()`, `bitrate-ext estimate`. See `docs/estimator.md`.

| | |
|---|---|
| network | {weights:,} weights, float16: what blocks make of the energies of cosines, and those around them |
| learnt | the codec's maps ({projection}) at all qualities, summed over blocks, on {windows:,} windows \
({megapixels:.0f} megapixels) of the photographs that the codec was trained on (`tools/demo_photographs.tsv`) |
| time | {minutes:g} minutes of running the codec and learning, half each |
| seed | {seed} |
| made by | `tools/train_demo_estimator.py` |
| weights' licence | BSD-3-Clause, as the package |

On photographs that neither it nor the codec was trained on, at each quality: mean absolute error of a photograph's
total bits, and correlation of the bits of its blocks with the codec's, mean. {sets}

| quality | total bits | correlation |
|---|---|---|
{rows}
"""


class AllQualities(nn.Module):
    """The demo codec at its eight qualities at once: of eight copies of a picture, each is coded at one of them.

    Their analysis transforms differ in the last layer alone. Nothing is reconstructed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.codecs = nn.ModuleList(load_demo_forward(quality) for quality in DEMO_QUALITIES)
        self.eval()

    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        last = len(ANALYSIS) - 1
        common = self.codecs[0].layers("g_a", x[:1], ANALYSIS[:last])
        found = []
        for codec in self.codecs:
            y = codec.layers("g_a", common, ANALYSIS[last:], last)
            found.append(codec.rounded(y)[0])
        count = len(x)  # fewer where the model is probed
        return {"likelihoods": {name: torch.cat([one[name] for one in found[:count]]) for name in ("y", "z")}}


class Photographs(Sequence[Tensor]):
    """The pictures in ``pixels.u8``, ``[1, 3, H, W]``, whose places ``pixels.json`` has."""

    def __init__(self, folder: Path) -> None:
        self._places = json.loads((folder / "pixels.json").read_text())["index"]
        self._pixels = np.memmap(folder / "pixels.u8", np.uint8, "r")

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        start, height, width, _ = self._places[index]
        return as_tensor(self._pixels[start : start + 3 * height * width].reshape(height, width, 3))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """``[1, 3, H, W]`` of uint8 ``[H, W, 3]``."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def card(estimator: RateEstimator, minutes: float, sets: str) -> str:
    about = estimator.about
    rows = [
        f"| {quality} | {100 * error.total:.1f} % | {error.correlation:.3f} |"
        for quality, error in zip(about.qualities, about.errors, strict=True)
    ]
    mean = np.mean([(100 * error.total, error.correlation) for error in about.errors], axis=0)
    rows.append(f"| mean | {mean[0]:.1f} % | {mean[1]:.3f} |")
    return CARD.format(
        weights=sum(weight.numel() for weight in estimator.parameters()),
        megapixels=about.training["pixels"] / 1e6,
        minutes=minutes,
        sets=sets,
        rows="\n".join(rows),
        **{name: about.training[name] for name in ("windows", "projection", "seed")},
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder of the codec's training photographs")
    parser.add_argument("--lomiri", type=Path, help="folder of the wallpapers")
    parser.add_argument("--minutes", type=float, default=8.0, help="default %(default)g")
    parser.add_argument("--projection", default="guided", help="of the maps that are learnt (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DEMO, help="default: the shipped file; the card goes beside it")
    args = parser.parse_args(argv)
    unseen = list(six_photographs().values())
    sets = f"Photographs: {len(unseen)} of scikit-image and scikit-learn"
    if args.lomiri:
        found = wallpapers(args.lomiri)
        unseen += found.values()
        sets += f", {len(found)} of Debian's lomiri wallpapers at 768 pixels"
    start = told = time.monotonic()

    def progress(what: str, done: float) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{told - start:.0f} s, {what}, {100 * done:.0f} %", flush=True)

    measured = BitrateMapper(load_demo_codec(DEMO_QUALITY), projection=args.projection)
    measured.resolve(load_image(demo_photograph()), {})
    trained = train_estimator(
        AllQualities(),
        Photographs(args.state),
        qualities=DEMO_QUALITIES,
        projection=measured.projections,
        held_out=[as_tensor(pixels) for pixels in unseen],
        minutes=args.minutes,
        name="demo codec",
        seed=args.seed,
        progress=progress,
    )
    weights = weights_fingerprint([load_demo_codec(quality) for quality in DEMO_QUALITIES])
    training = {**trained.about.training, "projection": args.projection}
    estimator = RateEstimator(trained.network, replace(trained.about, weights=weights, training=training))
    estimator.save(args.output)
    text = card(estimator, args.minutes, f"{sets}.")
    args.output.with_suffix(".md").write_text(text)
    print(f"{text}\n{args.output}: {args.output.stat().st_size:,} bytes, {time.monotonic() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
