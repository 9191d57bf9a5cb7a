"""The ledger of a coded image: every bit of the strings that its model wrote, by latent and by what it was spent on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rans import overhead_is_possible

TOLERANCE = 1e-6  # bits, of sums in float64; beyond a million bits this part of them
# What CompressAI's examples/codec.py writes around the strings: model and quality, image size, bit depth, latent grid
# and number of strings; and the length of each string.
CONTAINER_BYTES, CONTAINER_BYTES_A_STRING = 2 + 8 + 1 + 12, 4


@dataclass(frozen=True, eq=False)
class Account:
    """One latent of N images: ``located + padding + overhead == 8 * string_bytes``."""

    located: Tensor  # float64 [N], bits that the map shows
    padding: Tensor  # float64 [N], bits that its projection puts outside of the image
    overhead: Tensor  # float64 [N], bits of the coder's final states, 32 to 64 for each string
    string_bytes: Tensor  # int64 [N]
    strings: Tensor  # int64 [N], how many
    escapes: Tensor  # int64 [N], symbols outside of their table
    overhead_possible: Tensor  # bool [N]: each string's overhead is one that the coder can have
    estimated: Tensor | None = None  # float64 [N], bits by the likelihoods of forward()
    disagreement: Tensor | None = None  # float64 [N], sum over cells of |coded - estimated|, over the sum of coded

    @property
    def closure(self) -> Tensor:
        """Bits missing from the account, float64 ``[N]``; zero but for rounding."""
        return self.located + self.padding + self.overhead - 8 * self.string_bytes


@dataclass(frozen=True, eq=False)
class Ledger:
    """All latents of N images."""

    latents: dict[str, Account]

    @property
    def string_bytes(self) -> Tensor:
        """Bytes of all strings, int64 ``[N]``."""
        return torch.stack([one.string_bytes for one in self.latents.values()]).sum(dim=0)

    @property
    def container_bytes(self) -> Tensor:
        """Bytes that the container of CompressAI's ``examples/codec.py`` adds to the strings, int64 ``[N]``."""
        strings = torch.stack([one.strings for one in self.latents.values()]).sum(dim=0)
        return CONTAINER_BYTES + CONTAINER_BYTES_A_STRING * strings

    @property
    def closes(self) -> Tensor:
        """Whether the accounts of each image add up to its strings, bool ``[N]``.

        Every latent's bits in the image, in the padding and in the coder's overhead are 8 times its bytes, to 1e-6 bit
        (or 1e-12 of them), and the overhead of each string is one that the coder can have.
        """
        verdicts = [
            (one.closure.abs() <= (1e-12 * 8 * one.string_bytes).clamp(min=TOLERANCE)) & one.overhead_possible
            for one in self.latents.values()
        ]
        return torch.stack(verdicts).all(dim=0)


class LedgerBuilder:
    """Collect the strings of one latent of N images."""

    def __init__(self, images: int) -> None:
        self.overhead = torch.zeros(images, dtype=torch.float64)
        self.string_bytes, self.strings, self.escapes = torch.zeros(3, images, dtype=torch.int64)
        self.overhead_possible = torch.ones(images, dtype=torch.bool)

    def enter(self, image: int, string_bytes: int, bits: float, escapes: int, steps: int) -> None:
        """Add a string of one image.

        Args:
            image: its number in the batch.
            string_bytes: the string's length.
            bits: of its symbols.
            escapes: symbols outside of their table.
            steps: that the coder took.
        """
        overhead = 8 * string_bytes - bits
        self.overhead[image] += overhead
        self.string_bytes[image] += string_bytes
        self.strings[image] += 1
        self.escapes[image] += escapes
        self.overhead_possible[image] &= overhead_is_possible(overhead, steps)

    def account(self, located: Tensor, padding: Tensor) -> Account:
        """Close the account with the bits, float64 ``[N]``, that were found inside and outside of the image."""
        return Account(
            located=located.cpu(),
            padding=padding.cpu(),
            overhead=self.overhead,
            string_bytes=self.string_bytes,
            strings=self.strings,
            escapes=self.escapes,
            overhead_possible=self.overhead_possible,
        )
