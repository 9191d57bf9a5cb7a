"""Where the bits of a Cool-Chic file go: what its range coder spends on each symbol, its network's weights, headers.

    python examples/cool_chic.py CHECKOUT CHECKOUT/samples/bitstreams/kodim14.cool

Runs the decoder of a checkout of Cool-Chic 5 (github.com/Orange-OpenSource/Cool-Chic, with what its requirements.txt
names), and watches its range coder. The decoder's network travels in the file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bitrate_ext import CellGrid, PictureBits

PRECISION = 24  # bits of the range coder's frequencies
MODULES = ("decode", "header.header", "component.coolchic", "component.latent", "component.rangecoder")


def symbol_bits(symbols: np.ndarray, means: np.ndarray, scales: np.ndarray, most: int) -> np.ndarray:
    """Return what symbols from -most to most - 1 cost by the coder's frequencies of Laplace distributions, float64.

    Frequencies are whole numbers: each symbol has one, and the others are shared by the distribution function, rounded
    down.
    """
    shared, means, scales = 2**PRECISION - 2 * most, means.astype(np.float64), scales.astype(np.float64)

    def below(edges: np.ndarray) -> np.ndarray:
        away = (edges - means) / scales
        tail = 0.5 * np.exp(-np.abs(away))
        return np.floor(shared * np.where(away <= 0, tail, 1 - tail)) + edges + 0.5 + most

    first = np.where(symbols == -most, 0, below(symbols - 0.5))
    end = np.where(symbols == most - 1, 2.0**PRECISION, below(symbols + 0.5))
    return PRECISION - np.log2(end - first)


def load(checkout: str | Path) -> dict[str, Any]:
    """Import the decoder's modules from a checkout."""
    if not (Path(checkout) / "coolchic/bitstream/component/rangecoder.py").is_file():
        raise ValueError(f"checkout must be a folder of Cool-Chic 5, with coolchic/bitstream in it, got {checkout}")
    sys.path.insert(0, str(checkout))
    try:
        return {name: importlib.import_module(f"coolchic.bitstream.{name}") for name in MODULES}
    finally:
        sys.path.remove(str(checkout))


def read_cool_chic(path: str | Path, checkout: str | Path) -> PictureBits:
    """Decode a file of one picture with a checkout of Cool-Chic, and map it: a grid for each latent, finest first.

    Raises:
        ValueError: a checkout that is none, a video, or a decoder whose order of symbols is another than here.
    """
    modules, data, costs, planes = load(checkout), Path(path).read_bytes(), list[np.ndarray](), list[Tensor]()
    headers, ranges, latent = modules["header.header"], modules["component.rangecoder"], modules["component.latent"]
    video, frame, network = headers.VideoHeader(), headers.FrameHeader(), headers.CoolChicHeader()
    try:
        of_frame = video.read_header(data)
        one = video.get_value("n_frames") == 1
        coded = network.read_header(frame.read_header(of_frame)) if one else b""
        weights, strings = (network.get_value(name) if one else 0 for name in ("nn_n_bytes", "n_bytes_latent"))
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path} must be a file of Cool-Chic 5: {error}") from error
    if not one or not 0 < weights + strings <= len(coded):
        raise ValueError(
            f"{path} must be whole and hold one picture, got {video.get_value('n_frames')} in {len(data)} bytes"
        )
    decode, code_latent = ranges.RangeCoder.decode, latent.entropy_coding_latent_arm

    def watched(coder: Any, which: Tensor) -> Tensor:
        symbols, chosen = decode(coder, which), which.numpy()
        means = coder.all_mu.take(chosen[:, 0], mode="clip")
        scales = coder.all_scale.take(chosen[:, 1], mode="clip")
        costs.append(np.stack([symbol_bits(symbols.numpy(), means, scales, coder.AC_MAX_VAL), symbols.numpy()]))
        return symbols

    def placed(*args: Any, **kwargs: Any) -> Tensor:
        costs.clear()
        symbols = code_latent(*args, **kwargs)
        order = latent.generate_coding_order((1, *symbols.shape[2:]), latent._get_mask_size_ctx())
        spent, plane = torch.from_numpy(np.concatenate(costs, axis=1)), torch.empty(2, symbols.numel()).double()
        plane[:, order.flatten().argsort(stable=True)] = spent
        if not torch.equal(plane[1], symbols.flatten().double()):
            raise ValueError("checkout must code symbols in the order of Cool-Chic 5: those seen are not the latent's")
        planes.insert(0, plane[0].reshape(symbols.shape[2:]))
        return symbols

    with (
        torch.no_grad(),
        mock.patch.object(ranges.RangeCoder, "decode", watched),
        mock.patch.object(modules["component.coolchic"], "entropy_coding_latent_arm", placed),
    ):
        decoded = modules["decode"].decode_frame(of_frame, reference_frames=[])[0].data
    (height, width), layout = network.get_value("img_size"), network.get_coolchic_parameter()
    spans = [span for span in (layout.latent_resolution, layout.hyperlatent_resolution) if span]
    strides = sorted(2**level for first, last in spans for level in range(first, last + 1))
    canvas = tuple(-(-side // max(strides)) * max(strides) for side in (height, width))
    grids = {}
    for plane, stride, hyper in zip(planes, strides, layout.flag_is_hyperlatent, strict=True):
        cells = torch.zeros(canvas[0] // stride, canvas[1] // stride).double()
        cells[: plane.shape[0], : plane.shape[1]] = plane
        grids[f"{'hyperlatent' if hyper else 'latent'} 1/{stride}"] = CellGrid(cells)
    symbols = sum(float(plane.sum()) for plane in planes)
    elsewhere = {
        "network weights": 8 * weights,
        "headers": 8 * (len(data) - len(coded)),
        "overhead of the coder": 8 * strings - symbols,
        "after the end": 8 * (len(coded) - weights - strings),
    }
    shown = decoded if isinstance(decoded, Tensor) else None  # three planes of their own sizes in 4:2:0
    crop, name = (0, 0, height, width), "Cool-Chic"
    return PictureBits(grids, canvas, crop, name, "coded", elsewhere, len(data), reconstruction=shown)


if __name__ == "__main__":
    mapped = read_cool_chic(sys.argv[2], sys.argv[1])
    for what, bits in {**mapped.latent_bits, **mapped.elsewhere, "all": mapped.total_bits}.items():
        print(f"{bits:14,.2f} bits of {what}")
