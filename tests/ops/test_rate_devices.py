"""Sources on any device: bits of cells, maps and gradients have the bytes that the CPU gives for contiguous tensors.

CompressAI need not be there: machines with a GPU may lack it.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import need_native, scaled
from exact_rate import KINDS, generator, source_of
from torch import Tensor, nn

import bitrate_ext as be

CASES = scaled(40)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def laid_out(tensor: Tensor, index: int, device: torch.device) -> Tensor:
    """A leaf of the same values on the device: contiguous, channels last, or with gaps."""
    there = tensor.detach().to(device)
    if index % 3 == 1:
        there = there.to(memory_format=torch.channels_last)
    elif index % 3 == 2:
        there = torch.nn.functional.pad(there, (3, 2, 1, 4))[..., 1:-4, 3:-2]
    return there.detach().requires_grad_()


def outcome(source: be.Gaussian | be.Factorized, leaves: list[Tensor], grads: Tensor) -> list[Tensor]:
    """Bits of cells, a map, and the gradients of both, on the CPU."""
    cells = be.latent_bits(source, impl="native", dtype=torch.float64)
    size = (4 * cells.shape[1], 3 * cells.shape[2])
    pixels = be.bitrate_map(source, size, impl="native")
    total = [cells, pixels.double()]
    weights = [grads, grads.repeat_interleave(4, 1).repeat_interleave(3, 2)[:, None]]
    return [one.detach().cpu() for one in (*total, *torch.autograd.grad(total, leaves, weights))]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_distributions(device: torch.device, rng, kind: type[be.Gaussian]) -> None:
    need_native(device)
    for index in range(CASES):
        n, c, h, w = (int(v) for v in rng.integers(1, (4, 20, 20, 40)))
        dtype, floor = DTYPES[index % 3], (None, 1e-9)[index % 2]
        # A mixture's own number of channels is two.
        flat = source_of(kind, n * (1 if kind is be.GaussianMixture else c) * h * w, index, dtype).flat()
        tensors = [t.reshape(n, -1, h, w) for t in flat.tensors]
        grads = torch.from_numpy(rng.standard_normal((n, h, w)))
        expected, found = (
            outcome(kind(*leaves, floor=floor), leaves, grads.to(leaves[0].device))
            for leaves in (
                [laid_out(t, 0, torch.device("cpu")) for t in tensors],
                [laid_out(t, index + part, device) for part, t in enumerate(tensors)],
            )
        )
        assert all(map(torch.equal, found, expected)), (index, n, c, h, w, dtype)


class Prior(nn.Module):
    """What the operator reads of a factorised prior, three wide in the middle."""

    filters = (3, 3)

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = list(itertools.pairwise((1, *self.filters, 1)))

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(channels, *shape, generator=generator(sum(shape))) * 0.5)

        self.matrices = nn.ParameterList([drawn(wide, narrow) for narrow, wide in sizes])
        self.biases = nn.ParameterList([drawn(wide, 1) for _, wide in sizes])
        self.factors = nn.ParameterList([drawn(wide, 1) for _, wide in sizes[:-1]])


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("size", [(4, 5), (40, 50)])  # without a table, and with one
def test_factorised_priors(device: torch.device, noise: float, size: tuple[int, int]) -> None:
    """Their parameters go through PyTorch's own functions first, which are rounded in another way on a GPU."""
    need_native(device)
    values = (torch.randn(2, 5, *size, generator=generator(1)) * 6).round() + noise
    grads = torch.linspace(-1, 1, 2 * size[0] * size[1], dtype=torch.float64).reshape(2, *size)
    found = []
    for index, where in enumerate((torch.device("cpu"), device)):
        module = Prior(5).to(where)
        leaf = laid_out(values, index, where)
        found.append(outcome(be.Factorized(module, leaf), [leaf, *module.parameters()], grads.to(where)))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
