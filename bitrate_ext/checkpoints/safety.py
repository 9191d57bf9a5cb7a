"""Refuse files of weights that are damaged or hostile before they cost memory, time, or the process.

Nothing of a file is ever executed (see ``inert.py``). Here is what data alone can do: archives that grow when they are
unpacked, tensors that are larger than their bytes, sizes that make a constructor ask for more memory than there is, and
parameters from which coder tables of any length would follow.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..io.files import shown

LARGEST_TABLES = 2**21  # entries of the tables of one entropy bottleneck; trained ones have some ten thousand
END = b"PK\x05\x06" + bytes(18)  # of an archive without a comment
KERNEL_BYTES = 4 * 9  # of one pair of channels in a 3 x 3 convolution: the least that an architecture of n channels has


def check_archive(path: Path) -> None:
    """Check that a file which ``torch.save`` is said to have written is no program and does not grow when unpacked.

    Raises:
        ValueError: it is, or would.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = archive.infolist()
            file.seek(-len(END), os.SEEK_END)
            plain = file.read().startswith(END[:4]) and min((one.header_offset for one in entries), default=1) == 0
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{shown(path)} is not a readable PyTorch file: {error}") from error
    if not plain:  # one reader of archives would find in it what another does not
        raise ValueError(
            f"{shown(path)} is an archive with something before or after it, as torch.save writes none; refused"
        )
    if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
        raise ValueError(
            f"{shown(path)} is a TorchScript program; its code is not run. If you trust it, save its weights alone: "
            f'torch.save(torch.jit.load({str(path)!r}).state_dict(), "weights.pth")'
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{shown(path)} is a compressed archive, which torch.save does not write; it is refused")
    size, held = sum(entry.file_size for entry in entries), path.stat().st_size
    if size > held:
        raise ValueError(f"{shown(path)} is an archive of {held:,} bytes that says to hold {size:,}; it is refused")


def check_weights(path: Path, weights: Mapping[Any, Tensor]) -> None:
    """Check that each weight is a plain tensor, no larger than the bytes that it has in the file.

    Raises:
        ValueError: one is not; names it.
    """
    for name, weight in weights.items():
        if not isinstance(name, str):
            raise ValueError(f"{shown(path)}: names of weights must be text, got {type(name).__name__}")
        if weight.layout != torch.strided or weight.is_nested or weight.device.type != "cpu":
            kind = "nested" if weight.is_nested else str(weight.layout).removeprefix("torch.")
            raise ValueError(
                f"{shown(path)}: weight {name!r} must be a dense tensor, got a {kind} one on {weight.device}"
            )
        if weight.is_quantized or weight.is_complex():
            raise ValueError(f"{shown(path)}: weight {name!r} must be of real numbers, got {weight.dtype}")
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(
                f"{shown(path)}: weight {name!r} of shape {list(weight.shape)} is larger than its "
                f"{weight.untyped_storage().nbytes():,} bytes in the file"
            )


def rehearse(build: Callable[..., nn.Module], architecture: Any, weights: Mapping[str, Tensor], sizes: Any) -> bool:
    """Build a model without memory, so that weights that do not fit ask for none.

    Returns:
        Whether it could be done: constructors that compute with values cannot be run this way. Of these the weights
        must be large enough for the channels that they claim.

    Raises:
        What ``build`` raises.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            build(architecture, weights, sizes)
    except DataDependentOutputException:
        channels = max((weight.shape[0] for weight in weights.values() if weight.dim() == 4), default=0)
        held = sum(weight.numel() * weight.element_size() for weight in weights.values())
        if KERNEL_BYTES * max([channels, *sizes]) ** 2 > held:
            raise ValueError(f"{channels} channels in {held:,} bytes of weights") from None
        return False
    return True


def check_quantiles(model: nn.Module) -> None:
    """Check that no entropy bottleneck's quantiles ask for tables of a senseless length.

    Raises:
        ValueError: one's do; names it.
    """
    for name, part in model.named_modules():
        quantiles = getattr(part, "quantiles", None)
        if not isinstance(quantiles, Tensor) or quantiles.dim() != 3 or quantiles.shape[2] != 3:
            continue
        span = (quantiles.amax(dim=2) - quantiles.amin(dim=2)).detach()
        entries = float(span.max() + 3) * len(span) if span.isfinite().all() else float("inf")
        if not entries <= LARGEST_TABLES or not quantiles.isfinite().all():
            raise ValueError(
                f"{name}.quantiles ask for coder tables of {entries:.3g} entries; at most {LARGEST_TABLES:,}"
            )
