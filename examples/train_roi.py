"""Fine-tune the bundled codec so that it spends its bits on a region of interest, and draw where they go.

    python examples/train_roi.py --output roi.png

The encoder is told the region, the decoder is not. The codec is trained twice for some hundred steps on crops of the
bundled photograph, or one of your own: without a preference, and with importance that makes the background's bits dear
and its errors cheap. Needs CompressAI and Matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

LAMBDA, SIDE, BATCH = 0.006, 128, 4


def ellipse(height: int, width: int) -> Tensor:
    """Return the region of interest, ``[H, W]``: 1 in an ellipse, on the cat's face of the bundled photograph."""
    rows, columns = (torch.linspace(0, 1, length) - 0.42 for length in (height, width))
    return ((rows[:, None] / 0.42) ** 2 + (columns / 0.33) ** 2 <= 1).float()


class RegionCodec(nn.Module):
    """A codec whose encoder knows the region: outside of it latents are scaled by a learned gain for each channel."""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        channels = codec.g_a[-1].out_channels  # type: ignore[index]
        self.codec, self.log_gain = codec, nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.region = torch.ones(1, 1, 1, 1)
        codec.g_a.register_forward_hook(self._scaled)

    def _scaled(self, _: nn.Module, __: object, y: Tensor) -> Tensor:
        inside = nn.functional.adaptive_avg_pool2d(self.region, y.shape[2:])
        return y * (inside + (1 - inside) * self.log_gain.exp())

    def forward(self, x: Tensor, region: Tensor) -> dict[str, Any]:
        """Run the codec; the region is ``[N, 1, H, W]``."""
        self.region = region
        return self.codec(x)  # type: ignore[no-any-return]


def fine_tune(image: Tensor, region: Tensor, background: float, steps: int) -> nn.Module:
    """Return a fine-tuned codec: in the background bits count ``background`` times, and squared errors so much less."""
    model = RegionCodec(bitrate_ext.load_demo_codec()).train()
    generator = torch.Generator().manual_seed(0)
    weights = [p for name, p in model.codec.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam([{"params": weights, "lr": 5e-5}, {"params": [model.log_gain], "lr": 1e-2}])
    rate = bitrate_ext.RateLoss()
    torch.manual_seed(0)
    with bitrate_ext.fuse(model):
        for _ in range(steps):
            tops, lefts = (torch.randint(0, side - SIDE + 1, (BATCH,), generator=generator) for side in region.shape)
            windows = [(slice(t, t + SIDE), slice(s, s + SIDE)) for t, s in zip(tops, lefts, strict=True)]
            x = torch.cat([image[..., rows, columns] for rows, columns in windows])
            inside = torch.stack([region[None, rows, columns] for rows, columns in windows])
            importance = torch.where(inside > 0, 1.0, background)
            out = model(x, inside)
            distortion = ((out["x_hat"] - x).square() / importance).mean()
            loss = rate(out, x, importance=importance) + LAMBDA * 255**2 * distortion
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    return model.eval()


def measure(model: nn.Module, image: Tensor, region: Tensor) -> tuple[Tensor, str]:
    """Return the map of an image ``[H, W]``, and a line of Markdown with what the region and the background get."""
    result = bitrate_ext.BitrateMapper(model)(image, region=region[None, None])
    assert result.x_hat is not None
    bits, errors = result.map[0, 0].double(), (result.x_hat.clamp(0, 1) - image).square().mean((0, 1))
    cells = [f"{float(result.total_bits):,.0f}"]
    for part in (region > 0, region == 0):
        cells += [f"{float(bits[part].sum()):,.0f}", f"{-10 * float(errors[part].mean().log10()):.2f}"]
    return bits, " | ".join(cells)


def draw(maps: dict[str, Tensor], image: Tensor, region: Tensor, path: Path) -> None:
    """Draw the photograph with the region's rim, and the maps beside it on one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6), dpi=80, layout="constrained")
    axes = figure.subplots(1, 1 + len(maps))
    axes[0].imshow(image[0].permute(1, 2, 0))
    axes[0].set_title("photograph and region")
    most = max(float(bits.quantile(0.999)) for bits in maps.values())
    for axis, (name, bits) in zip(axes[1:], maps.items(), strict=True):
        shown = axis.imshow(bits, vmin=0, vmax=most, cmap="magma")
        axis.set_title(name)
    for axis in axes:
        axis.contour(region, levels=[0.5], colors="cyan", linewidths=1)
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes, label="bits per pixel")
    figure.savefig(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=demo_photograph())
    parser.add_argument("--background", type=float, default=4.0, help="how many times dearer its bits are")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path("roi.png"))
    options = parser.parse_args()
    image, maps = load_image(options.picture), dict[str, Tensor]()
    region = ellipse(image.shape[2], image.shape[3])
    print("| codec | bits | in the region | PSNR there, dB | in the background | PSNR there, dB |\n" + "|---" * 6 + "|")
    for name, background in (("no preference", 1.0), ("dear background", options.background)):
        maps[name], line = measure(fine_tune(image, region, background, options.steps), image, region)
        print(f"| {name} | {line} |", flush=True)
    draw(maps, image, region, options.output)


if __name__ == "__main__":
    main()
