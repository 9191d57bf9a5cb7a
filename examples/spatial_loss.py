"""Train where the bits go: a rate loss under a mask.

    python examples/spatial_loss.py [FOLDER] [STEPS]

Fine-tunes the bundled codec on one crop for a few steps. Outside of a mask bits are made four times as dear; the loss
takes them straight from the latents' distributions, and no map is made. train_roi.py does it at length.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

LAMBDA, DEAR = 0.006, 4.0


def bits_of(model: torch.nn.Module, x: Tensor, mask: Tensor) -> str:
    """Say how many bits lie in the mask, and how many outside."""
    table = bitrate_ext.BitrateMapper(model)(x).region(mask, names=["mask"])
    return ", ".join(f"{row.name} {row.bits:,.0f} bits" for row in table.rows)


def main(folder: Path, steps: int = 12) -> None:
    """Write into a folder; see above."""
    torch.manual_seed(0)
    x = load_image(demo_photograph())[..., 40:168, 140:268]  # the cat's face
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    mask = rows**2 + columns**2 < 0.5  # bool [H, W]
    model = bitrate_ext.load_demo_codec()
    print("before:", bits_of(model, x, mask))

    loss = bitrate_ext.RateLoss(importance=torch.where(mask, 1.0, DEAR), lmbda=LAMBDA)
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(weights, lr=1e-4)
    model.train()
    with bitrate_ext.fuse(model):  # entropy models that make no likelihoods
        for step in range(steps):
            terms = loss(model(x), x)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            print(f"step {step}: weighted rate {terms['bpp_loss'].item():.3f}, loss {terms['loss'].item():.3f}")
    print("after:", bits_of(model.eval(), x, mask))
    torch.save(model.state_dict(), folder / "model.pth")
    print(f"written: {folder}/model.pth")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(Path(given[0]) if given else Path(tempfile.mkdtemp()), *map(int, given[1:2]))
