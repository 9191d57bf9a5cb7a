"""Cases at which kernels go wrong: special values, layouts with gaps, sizes that take several threads."""

import math

import numpy as np
import torch
from cases import bytes_of, likelihoods, random_case

SPECIAL = {
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "zero": 0.0, "-zero": -0.0, "negative": -0.25,
    "tiny": 2.0**-149, "-tiny": -(2.0**-149), "largest subnormal": 2.0**-126 - 2.0**-149, "smallest normal": 2.0**-126,
    "below one": 1 - 2.0**-24, "one": 1.0, "above one": 1 + 2.0**-23, "two": 2.0, "largest": 3.4028234663852886e38,
    "floor": 1e-9, "floor - ulp": float(np.nextafter(np.float32(1e-9), np.float32(0))),
    "floor + ulp": float(np.nextafter(np.float32(1e-9), np.float32(1))),
}  # fmt: skip


def map_and_gradients(case, seed: int, tensors=None, **kwargs) -> list[bytes]:
    leaves = [p.detach().requires_grad_() for p in (case.likelihoods if tensors is None else tensors)]
    out = case.run(leaves, **kwargs)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype).to(out.device)
    return [bytes_of(out), *map(bytes_of, torch.autograd.grad(out, leaves, grad))]


def in_another_layout(rng, p):
    """The kernels have paths for adjacent cells, adjacent channels and neither."""
    choice = rng.integers(4)
    if choice == 0:
        return p.contiguous(memory_format=torch.channels_last)
    if choice == 1:
        return torch.stack([p, p], dim=-1)[..., 1]
    if choice == 2:
        return p.transpose(2, 3).contiguous().transpose(2, 3)
    return p


def spoiled(rng, p):
    """Some likelihoods out of range."""
    p = p.clone()
    if p.numel() and rng.random() < 0.2:
        values = [float("nan"), 0.0, -0.0, float("inf"), 1.5, -0.5, 2.0**-140]
        where = torch.from_numpy(rng.integers(0, p.numel(), 3))
        p.view(-1)[where] = torch.tensor(rng.choice(values, 3)).to(p.dtype)
    return p


def large_case(rng, index):
    while True:
        case = random_case(rng, elements=400_000, pixels=300_000, latents=2, empty=False)
        if sum(p.numel() for p in case.likelihoods) > 60_000 or np.prod(case.canvas) > 80_000 or rng.random() < 0.05:
            return case


def in_gaps(values: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The values in that layout, inside a storage that is otherwise NaN; and the storage."""
    n, c, h, w = values.shape
    if layout == "batch stride 0":
        values = values[:1].expand(n, -1, -1, -1)
    if layout == "channel stride 0":
        values = values[:, :1].expand(-1, c, -1, -1)
    strides = {
        "contiguous": (c * h * w, h * w, w, 1),
        "channels_last": (h * w * c, 1, w * c, c),
        "transposed": (c * h * w, h * w, 1, h),
        "sliced": ((c + 1) * (h + 2) * (w + 3), (h + 2) * (w + 3), w + 3, 1),
        "stride 2": (c * h * w * 4, h * w * 4, w * 4, 2),
        "batch stride 0": (0, h * w, w, 1),
        "channel stride 0": (h * w, 0, w, 1),
        "overlapping": (c * h * w, h * w, 1, 1),  # rows that share cells: row r + 1 is row r one cell on
        "permuted": (1, n, n * c, n * c * h),
    }[layout]
    span = 1 + sum((extent - 1) * stride for extent, stride in zip(values.shape, strides, strict=True))
    storage = torch.full((span + 24,), math.nan, dtype=values.dtype)
    view = storage.as_strided(values.shape, strides, 11)
    if layout == "overlapping":
        line = likelihoods(np.random.default_rng(span), (n, c, h + w - 1), values.dtype)
        storage.as_strided((n, c, h + w - 1), (c * h * w, h * w, 1), 11).copy_(line)
    elif 0 in strides:
        view[:1, :1].copy_(values[:1, :1])
        (view[:, 0] if layout == "channel stride 0" else view[0]).copy_(
            values[:, 0] if layout == "channel stride 0" else values[0]
        )
    else:
        view.copy_(values)
    return view, storage
