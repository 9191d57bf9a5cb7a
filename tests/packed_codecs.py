"""A codec whose latent is coded in parts, each packed in one of the ways in which people write that by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table
from torch import Tensor, nn

CHANNELS = 12


def checkerboard(t: Tensor) -> list[Tensor]:
    """Half grids ``[1, C, h, w / 2]``: black cells of each row, then white ones."""
    return [torch.stack((t[..., ::2, p::2], t[..., 1::2, 1 - p :: 2]), dim=-2).flatten(-3, -2) for p in (0, 1)]


def transposed_checkerboard(t: Tensor) -> list[Tensor]:
    """Half grids ``[1, C, w, h / 2]``: columns are packed, not rows."""
    return checkerboard(t.transpose(-1, -2))


def quarters(t: Tensor) -> list[Tensor]:
    return [t[..., i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]


def four_parts(t: Tensor) -> list[Tensor]:
    """Each quarter of the channels begins with another quarter of the grid."""
    cells = [quarters(one) for one in t.chunk(4, dim=1)]
    return [torch.cat([one[(k + part) % 4] for k, one in enumerate(cells)], dim=1) for part in range(4)]


def whole(t: Tensor) -> list[Tensor]:
    return [t]


def slices(t: Tensor) -> list[Tensor]:
    return list(t.chunk(3, dim=1))


def slices_of_checkerboards(t: Tensor) -> list[Tensor]:
    return [half for one in t.chunk(3, dim=1) for half in checkerboard(one)]


Parts = Callable[[Tensor], list[Tensor]]


class Packed(nn.Module):
    """Parts, each in the context of those before it.

    Args:
        parts: cuts a tensor ``[1, C, h, w]`` into them.
        how: "packed" (quantised as it is packed, one string), "calls" (the entropy model's ``compress`` for each part),
            "masked" (the whole grid each time, zeros where another part is coded), "late" (quantised on the whole grid,
            then packed), "turned" (channels last), "rounding" (of its own, without ``quantize``).
        residual: the entropy model sees the latent less its means, and no means.
        other_context: ``forward`` takes its context from values that are rounded in another way.
        refine: adds a prediction of the rounding error to each part, as LRP does.
    """

    def __init__(
        self,
        parts: Parts = checkerboard,
        how: str = "packed",
        residual: bool = False,
        other_context: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.parts, self.how, self.residual, self.other, self.refine = parts, how, residual, other_context, refine
        self.g_a = nn.Conv2d(3, CHANNELS, 8, 8)
        self.h_a, self.h_s = nn.Conv2d(CHANNELS, 4, 2, 2), nn.ConvTranspose2d(4, CHANNELS, 2, 2)
        self.context = nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, padding=1)
        self.error = nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1)
        self.entropy_bottleneck = EntropyBottleneck(4)
        self.gaussian = GaussianConditional(None)

    def prepared(self) -> Packed:
        self.entropy_bottleneck.update(force=True)
        self.gaussian.update_scale_table(get_scale_table().tolist(), force=True)
        return self.eval()

    def analysis(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = 9 * self.g_a(x)
        return y, 4 * self.h_a(y)

    def parameters_of(self, y_hat: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.context(torch.cat((y_hat, hyper), dim=1)).chunk(2, dim=1)
        return scales.abs() + 0.5, means

    def placed(self, whole: Tensor, number: int, part: Tensor) -> Tensor:
        """``whole`` with a part of it set."""
        where = self.parts(torch.arange(whole.numel()).reshape(1, *whole.shape[1:]))[number]
        whole = whole.clone()
        whole.view(-1)[where.reshape(-1)] = part.reshape(-1)
        return whole

    def decoded(self, y_hat: Tensor, hyper: Tensor, number: int, part: Tensor) -> Tensor:
        if self.refine:
            part = part + 0.5 * torch.tanh(self.parts(self.error(torch.cat((y_hat, hyper), dim=1)))[number])
        return self.placed(y_hat, number, part)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, z = self.analysis(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        hyper = self.h_s(z_hat)
        y_hat, likelihoods = torch.zeros_like(y), torch.zeros_like(y)
        for number, part in enumerate(self.parts(y)):
            scales, means = (self.parts(one)[number] for one in self.parameters_of(y_hat, hyper))
            if self.residual:
                rounded, p = self.gaussian(part - means, scales)
                rounded = rounded + means
            else:
                rounded, p = self.gaussian(part, scales, means)
            likelihoods = self.placed(likelihoods, number, p)
            y_hat = self.decoded(y_hat, hyper, number, torch.round(part) if self.other else rounded)
        return {"y_hat": y_hat, "likelihoods": {"y": likelihoods, "z": z_likelihoods}}

    def tables(self) -> list[Any]:
        return [getattr(self.gaussian, name).tolist() for name in ("quantized_cdf", "cdf_length", "offset")]

    def compress(self, x: Tensor) -> dict[str, Any]:
        y, z = self.analysis(x)
        z_strings = self.entropy_bottleneck.compress(z)
        hyper = self.h_s(self.entropy_bottleneck.decompress(z_strings, z.shape[-2:]))
        y_hat, self.symbols, self.indexes = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
        self.idle = torch.zeros_like(y)  # passes that code a zero there
        gaussian, strings, symbols, indexes = self.gaussian, [], [], []
        for number, part in enumerate(self.parts(y)):
            whole_scales, whole_means = self.parameters_of(y_hat, hyper)
            scales, means = (self.parts(one)[number] for one in (whole_scales, whole_means))
            given, given_means = (part - means, None) if self.residual else (part, means)
            index = gaussian.build_indexes(scales)
            true = torch.round(part - means)
            if self.how == "calls":
                strings.append(gaussian.compress(given, index, given_means))
            elif self.how == "masked":
                mask = self.placed(torch.zeros_like(y), number, torch.ones_like(part))
                q = gaussian.quantize(y * mask, "symbols", whole_means * mask)
                index = gaussian.build_indexes(whole_scales * mask)
                symbols += q.flatten().tolist()
                indexes += index.flatten().tolist()
                self.idle += 1 - mask
                index = self.parts(index)[number]
            elif self.how == "late":
                symbols += self.parts(gaussian.quantize(y, "symbols", whole_means))[number].flatten().tolist()
                indexes += self.parts(gaussian.build_indexes(whole_scales))[number].flatten().tolist()
            elif self.how == "turned":
                q = gaussian.quantize(given, "symbols", given_means)
                symbols += q.permute(0, 2, 3, 1).flatten().tolist()
                indexes += index.permute(0, 2, 3, 1).flatten().tolist()
            else:
                q = true.int() if self.how == "rounding" else gaussian.quantize(given, "symbols", given_means)
                symbols += q.flatten().tolist()
                indexes += index.flatten().tolist()
            self.symbols = self.placed(self.symbols, number, true)
            self.indexes = self.placed(self.indexes, number, index.float())
            y_hat = self.decoded(y_hat, hyper, number, true + means)
        if symbols:
            encoder = BufferedRansEncoder()
            encoder.encode_with_indexes(symbols, indexes, *self.tables())
            strings = [[encoder.flush()]]
        return {"strings": [*strings, z_strings], "shape": z.shape[-2:], "y_hat": y_hat}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, Tensor]:
        hyper = self.h_s(self.entropy_bottleneck.decompress(strings[-1], shape))
        y_hat = torch.zeros_like(hyper)
        decoder = RansDecoder()
        decoder.set_stream(strings[0][0])
        for number in range(len(self.parts(y_hat))):
            whole_scales, whole_means = self.parameters_of(y_hat, hyper)
            scales, means = (self.parts(one)[number] for one in (whole_scales, whole_means))
            index = self.gaussian.build_indexes(scales)
            if self.how == "calls":
                q = self.gaussian.decompress(strings[number], index)
            elif self.how == "masked":
                mask = self.placed(torch.zeros_like(y_hat), number, torch.ones_like(means))
                whole = self.gaussian.build_indexes(whole_scales * mask)
                q = torch.tensor(decoder.decode_stream(whole.flatten().tolist(), *self.tables())).reshape(mask.shape)
                q = self.parts(q)[number]
            else:
                order = index.permute(0, 2, 3, 1) if self.how == "turned" else index
                q = torch.tensor(decoder.decode_stream(order.flatten().tolist(), *self.tables())).reshape(order.shape)
                q = q.permute(0, 3, 1, 2) if self.how == "turned" else q
            y_hat = self.decoded(y_hat, hyper, number, q + means)
        return {"y_hat": y_hat}
