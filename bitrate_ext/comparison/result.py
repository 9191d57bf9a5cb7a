"""What a comparison of codecs on one picture gives: their bits in one scale, differences, a table, blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cells.picture import PictureBits
from ..cells.quality import measure_ms_ssim, measure_psnr
from ..models.padding import Size
from ..viz.colormap import Rim, colour_limit, inside_rim
from ..viz.print_figure import Panel, in_rows, print_figure, rate_words
from .rate import Found, bytes_of

BLOCK, BLOCKS = 64, 5  # pixels on a side, and how many are told of


@dataclass(frozen=True)
class Row:
    """One codec's line in the table."""

    letter: str
    name: str
    kind: str  # of its bits: "estimated" or "coded"
    quality: float | None  # that was asked for, or found; None: the codec's own
    bytes: float  # of the file; of estimated bits an eighth of their number
    bpp: float  # bits per pixel of the picture, all of them
    psnr_db: float | None  # None where nothing is reconstructed, or without an error
    ms_ssim: float | None  # None where nothing is reconstructed, or a side has 160 pixels or fewer
    padding_share: float  # of the bits, that fall outside of the picture
    encodes: int = 1
    off: float | None = None  # of a rate that was searched: its bytes over those asked for, minus one


@dataclass(frozen=True)
class Block:
    """Bits of all codecs in one block of pixels, ``difference`` being those of the first minus those of the others."""

    left: int
    top: int
    width: int
    height: int
    bits: dict[str, float]
    difference: dict[str, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The bits of several codecs on one picture of H x W pixels, by their letters.

    Example:
        >>> both = bitrate_ext.compare(x, "demo:3", "demo:6")
        >>> [row.letter for row in both.rows], both.maps["a"].shape
        (['a', 'b'], torch.Size([64, 64]))
        >>> print(both.table().splitlines()[0].split())
        ['codec', 'bits', 'bytes', 'bpp', 'PSNR', 'MS-SSIM', 'padding']
    """

    pictures: Mapping[str, PictureBits]
    rows: tuple[Row, ...]
    limit: float  # where the one scale of all maps ends, bits per pixel
    difference_limit: float  # and that of differences, at both ends
    warnings: tuple[str, ...] = ()

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """Bits per pixel of each, float64 ``[H, W]``, on the CPU."""
        return {letter: bits.map().cpu() for letter, bits in self.pictures.items()}

    @property
    def size(self) -> Size:
        """``(H, W)``, pixels."""
        return next(iter(self.pictures.values())).size

    @property
    def rim(self) -> Rim:
        """Top, bottom, left, right: pixels beside the padding of any codec."""
        top, bottom, left, right = (
            max(sides) for sides in zip(*(one.rim for one in self.pictures.values()), strict=True)
        )
        return top, bottom, left, right

    def difference(self, first: str = "a", second: str = "b") -> Tensor:
        """Return where the first codec spends more than the second, and where less, ``[H, W]``, bits per pixel.

        Raises:
            ValueError: there is no such codec.
        """
        for letter in (first, second):
            if letter not in self.maps:
                raise ValueError(f"the codecs of this comparison are {', '.join(self.maps)}, got {letter!r}")
        return self.maps[first] - self.maps[second]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The first codec beside each of the others."""
        first, *others = self.pictures
        return [(first, other) for other in others]

    def figure(
        self, *, photograph: Tensor | None = None, width: str | float = "page", **options: Any
    ) -> tuple[Any, Any]:
        """Draw the photograph and the codecs' maps for print, in the comparison's scale.

        Args:
            photograph: ``[1, 3, h, w]`` in [0, 1], of any size. Default: what the first codec was given, if it is kept.
            width, options: as ``print_figure`` has them: "column", "page" or inches; ``power``, ``notes``.

        Returns:
            Matplotlib's figure and its axes ``[rows, columns]``; ``figure.savefig("name.pdf")`` keeps text as text.
        """
        maps = [
            Panel(self.maps[row.letter], row.name, rate_words(row.bpp, row.psnr_db), self.pictures[row.letter].rim)
            for row in self.rows
        ]
        rows = in_rows([*self._photograph(photograph), *maps])
        return print_figure(rows, width=width, limit=self.limit, **options)

    def difference_figure(
        self,
        first: str = "a",
        second: str = "b",
        *,
        photograph: Tensor | None = None,
        width: str | float = "column",
        **options: Any,
    ) -> tuple[Any, Any]:
        """Draw the photograph and where the first codec spends more than the second for print; see ``figure``.

        Raises:
            ValueError: there is no such codec.
        """
        names = {row.letter: row.name for row in self.rows}
        apart = self.difference(first, second)
        panel = Panel(apart, names[first], f"minus {names[second]}", self.rim)
        ends = (f"{second.upper()} spends more", f"{first.upper()} spends more")
        scale: dict[str, Any] = {"limit": self.difference_limit, "signed": True, "ends": ends}
        return print_figure([[*self._photograph(photograph), panel]], width=width, **scale, **options)

    def _photograph(self, given: Tensor | None) -> list[Panel]:
        if given is not None:
            return [Panel(given, "photograph", f"{self.size[1]} \N{MULTIPLICATION SIGN} {self.size[0]} pixels")]
        kept = next(iter(self.pictures.values())).picture_panel()
        return [] if kept is None else [kept]

    def top_blocks(self, count: int = BLOCKS, side: int = BLOCK) -> list[Block]:
        """Return the blocks in which the first codec and another differ most, largest difference first.

        Args:
            count: how many at most.
            side: of a block, pixels; those at the right and at the bottom may be smaller.
        """
        height, width = self.size
        sums = {letter: _block_sums(bits, side) for letter, bits in self.maps.items()}
        (first, _), *_ = self.pairs
        apart = {other: sums[first] - sums[other] for _, other in self.pairs}
        most = torch.stack(list(apart.values())).abs().amax(dim=0)
        columns = most.shape[1]
        blocks = []
        for place in most.flatten().argsort(descending=True, stable=True)[:count].tolist():
            i, j = divmod(place, columns)
            blocks.append(
                Block(
                    left=j * side,
                    top=i * side,
                    width=min(side, width - j * side),
                    height=min(side, height - i * side),
                    bits={letter: float(one[i, j]) for letter, one in sums.items()},
                    difference={other: float(one[i, j]) for other, one in apart.items()},
                )
            )
        return blocks

    def table(self) -> str:
        """Return the table as text, a line for each codec."""
        wide = max(len(row.name) for row in self.rows)
        head = f"{'':4}{'codec':{wide}}  {'bits':9}{'bytes':>12}{'bpp':>9}{'PSNR':>12}{'MS-SSIM':>10}{'padding':>10}"
        lines = [head]
        for row in self.rows:
            psnr = "" if row.psnr_db is None else f"{row.psnr_db:.2f} dB"
            ms_ssim = "" if row.ms_ssim is None else f"{row.ms_ssim:.4f}"
            lines.append(
                f"{row.letter:4}{row.name:{wide}}  {row.kind:9}{row.bytes:>12,.0f}{row.bpp:>9.3f}{psnr:>12}"
                f"{ms_ssim:>10}{100 * row.padding_share:>8.1f} %"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Comparison on {width} x {height} pixels\n{self.table()}"


def make_comparison(
    pictures: Mapping[str, PictureBits],
    found: Mapping[str, Found],
    asked: Mapping[str, float | None],
    limit: float | None = None,
) -> Comparison:
    """Measure what several codecs made of one picture.

    Args:
        pictures: bits of each, by its letter, the first one first.
        found: of rates that were searched.
        asked: qualities.
        limit: where the scale of the maps ends, bits per pixel. Default: that of the costliest map.

    Raises:
        ValueError: they differ in size or in colour channels.
    """
    _check_comparable(pictures)
    warnings = [f"{letter}: {words}" for letter, bits in pictures.items() for words in bits.warnings]
    rows = []
    for letter, bits in pictures.items():
        psnr = ms_ssim = None
        if bits.reconstruction is not None and bits.picture is not None:
            psnr = measure_psnr(bits.reconstruction, bits.picture)
            ms_ssim = measure_ms_ssim(bits.reconstruction, bits.picture)
        searched = found.get(letter)
        row = Row(
            letter=letter,
            name=bits.name,
            kind=bits.kind,
            quality=asked.get(letter) if searched is None else searched.quality,
            bytes=bytes_of(bits),
            bpp=bits.bpp,
            psnr_db=psnr,
            ms_ssim=ms_ssim,
            padding_share=bits.padding_bits / bits.total_bits if bits.total_bits else 0.0,
        )
        rows.append(row if searched is None else replace(row, encodes=searched.encodes, off=searched.off))
    made = Comparison(pictures, tuple(rows), 1.0, 1.0, tuple(warnings))
    if limit is None:
        limit = max(colour_limit(inside_rim(one, made.rim).numpy()) for one in made.maps.values())
    apart = max(colour_limit(inside_rim(made.difference(*pair), made.rim).abs().numpy()) for pair in made.pairs)
    return replace(made, limit=limit, difference_limit=apart)


def share_scale(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons of several pictures in one scale of colours, that of the costliest."""
    limit = max((one.limit for one in comparisons), default=1.0)
    apart = max((one.difference_limit for one in comparisons), default=1.0)
    return [replace(one, limit=limit, difference_limit=apart) for one in comparisons]


def _check_comparable(pictures: Mapping[str, PictureBits]) -> None:
    (first, one), *others = pictures.items()
    for letter, other in others:
        if one.size != other.size:
            shapes = [f"{name} of {bits.size[1]} x {bits.size[0]}" for name, bits in ((first, one), (letter, other))]
            raise ValueError(
                f"{first} and {letter} cannot be compared: their pictures differ, {' and '.join(shapes)} pixels"
            )
    for letter, bits in pictures.items():
        counts = [
            None if tensor is None else tensor.shape[1] for tensor in (bits.picture, bits.reconstruction, one.picture)
        ]
        for what, count in (("picture", counts[0]), ("reconstruction", counts[1])):
            if count is not None and counts[2] is not None and count != counts[2]:
                raise ValueError(
                    f"{letter} cannot be compared: its {what} has {count} colour channel{'s' * (count != 1)}, the "
                    f"picture of {first} has {counts[2]}"
                )


def _block_sums(bits: Tensor, side: int) -> Tensor:
    """Return the sums over blocks of a map ``[H, W]``."""
    height, width = bits.shape
    padded = F.pad(bits, (0, -width % side, 0, -height % side))
    return padded.view(padded.shape[0] // side, side, padded.shape[1] // side, side).sum(dim=(1, 3))
