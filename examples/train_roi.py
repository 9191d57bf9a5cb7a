"""Fine-tune the bundled codec so that it spends its bits on a region of interest, and draw where they go.

    python examples/train_roi.py --output roi.png

The codec is trained twice for some hundred steps on crops of the bundled photograph, or of pictures of your own: as it
is, and with a mask that makes the background's bits dear and its errors cheap. Needs CompressAI and Matplotlib.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

LAMBDA, SIDE, BATCH = 0.006, 128, 4


def ellipse(size: tuple[int, int], centre: tuple[float, float], axes: tuple[float, float]) -> Tensor:
    """Return the region of interest, ``[H, W]``: 1 in an ellipse, given as parts of the height and of the width."""
    rows, columns = ((torch.arange(length) + 0.5) / length for length in size)
    distance = ((rows - centre[0]) / axes[0])[:, None] ** 2 + ((columns - centre[1]) / axes[1]) ** 2
    return (distance <= 1).float()


def fine_tune(model: nn.Module, image: Tensor, region: Tensor, background: float, steps: int) -> nn.Module:
    """Return a fine-tuned copy: in the background bits count ``background`` times, and squared errors so much less."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if not name.endswith("quantiles")], lr=1e-4)
    rate = bitrate_ext.RateLoss()
    dearness = torch.where(region > 0, 1.0, background)
    torch.manual_seed(0)
    with bitrate_ext.fuse(model):
        for _ in range(steps):
            corners = [
                (
                    int(torch.randint(0, image.shape[2] - SIDE + 1, (), generator=generator)),
                    int(torch.randint(0, image.shape[3] - SIDE + 1, (), generator=generator)),
                )
                for _ in range(BATCH)
            ]
            x = torch.cat([image[..., top : top + SIDE, left : left + SIDE] for top, left in corners])
            weights = torch.stack([dearness[None, top : top + SIDE, left : left + SIDE] for top, left in corners])
            out = model(x)
            distortion = ((out["x_hat"] - x).square() / weights).mean()
            loss = rate(out, x, importance=weights) + LAMBDA * 255**2 * distortion
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def measure(model: nn.Module, image: Tensor, region: Tensor) -> tuple[Tensor, str]:
    """Return the map of an image ``[H, W]``, and a line of Markdown with what the region and the background get."""
    result = bitrate_ext.BitrateMapper(model)(image)
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
    parser.add_argument(
        "--region",
        type=float,
        nargs=4,
        default=(0.42, 0.42, 0.42, 0.33),
        metavar="PART",
        help="ellipse: centre down and across, half axes down and across, parts of the picture",
    )
    parser.add_argument("--background", type=float, default=4.0, help="how many times dearer its bits are")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("roi.png"))
    options = parser.parse_args()
    image = load_image(options.picture)
    down, across, half_down, half_across = options.region
    region = ellipse((image.shape[2], image.shape[3]), (down, across), (half_down, half_across))
    codec, maps = bitrate_ext.load_demo_codec(), dict[str, Tensor]()
    print("| codec | bits | in the region | PSNR there, dB | in the background | PSNR there, dB |")
    print("|---" * 6 + f"|\n| as it ships | {measure(codec, image, region)[1]} |", flush=True)
    for name, background in (("fine-tuned, no mask", 1.0), ("fine-tuned, mask", options.background)):
        maps[name], line = measure(fine_tune(codec, image, region, background, options.steps), image, region)
        print(f"| {name} | {line} |", flush=True)
    draw(maps, image, region, options.output)


if __name__ == "__main__":
    main()
