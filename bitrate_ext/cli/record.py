"""What the command line says of one image: the record that ``STEM.json`` holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .console import number

JACOBIAN = "jacobian"  # no projection of the cells but of each symbol: see `attribute`
OUTPUTS = (".bitrate.png", ".overlay.png", ".bitrate.npz", ".json")  # the record comes last


@dataclass
class Record:
    """What ``STEM.json`` says of one image. Bits are null where they are infinite or not a number."""

    image: str
    width: int  # pixels
    height: int
    model: str
    projection: str
    device: str
    total_bits: float | None
    padding_bits: float | None  # the part of total_bits that falls outside the image
    bpp: float | None  # total_bits / (width * height)
    latent_bits: dict[str, float | None]  # of each latent; they add up to total_bits
    psnr_db: float | None  # null where the reconstruction is exact, or the model gives none
    version: str
    receptive_field: dict[str, dict[str, Any]] | None = None  # how each latent is laid out, for that projection
    jacobian: dict[str, Any] | None = (
        None  # for that one: passes, and the share of the bits expected in the wrong place
    )
    tiles: dict[str, Any] | None = None  # how a picture was cut that went in tiles, and what memory was planned
    bits: str = "estimated"  # or "coded"
    warnings: list[str] = field(default_factory=list)
    ledger: dict[str, Any] | None = None  # of coded bits
    channels: dict[str, dict[str, list[Any]]] | None = None  # on request: bits of each channel, most first
    files: dict[str, str] = field(default_factory=dict)


def subtitle(record: Record) -> str:
    psnr = "" if record.psnr_db is None else f"   PSNR {record.psnr_db:.2f} dB"
    return f"{number(record.bpp, '.3f')} bits per pixel{psnr}   {record.model}"
