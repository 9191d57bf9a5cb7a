"""No launch changes a byte: threads, tiles, widths of loads, extents around the limits of a grid. And refusals."""

import pytest
import torch
from cases import assert_same_bytes, bytes_of, likelihoods, random_case, scaled
from golden import on_device
from hard_cases import in_another_layout, large_case, map_and_gradients
from machine import flat_bands, launch

import bitrate_ext
from bitrate_ext.ops import library

LAUNCHES = scaled(300)
LIMITS = (65_535, 65_536, 65_537, 1 << 20)


def any_case(rng, index):
    case = large_case(rng, index) if index % 10 == 0 else random_case(rng, empty=False)
    case.likelihoods = [in_another_layout(rng, p) for p in case.likelihoods]
    return case


def map_or_none(case, tensors):
    """Return the map, None where the launch needs more shared memory than a block has."""
    try:
        return case.run(tensors)
    except (RuntimeError, ValueError) as error:
        if "bytes of shared memory" not in str(error):
            raise
        return None


def test_forward_launches(device, rng):
    """Tiles of any multiple of 4; some need more shared memory than there is, and say so."""
    refused = index = 0
    while index < LAUNCHES:
        case = any_case(rng, index)
        expected = bytes_of(case.run())
        choice = {
            "threads": 32 * int(rng.integers(1, 9)),
            "tile_rows": 4 * int(rng.integers(1, 17)),
            "tile_columns": 4 * int(rng.integers(1, 40)),
            "width": int(rng.choice([0, 1, 4])),
        }
        if index % 3 == 0:  # the plan's tiles
            choice["tile_rows"] = choice["tile_columns"] = 0
        with launch(device, **choice):
            out = map_or_none(case, [on_device(p, device) for p in case.likelihoods])
        if out is None:
            refused += 1
            assert refused <= LAUNCHES, "hardly any launch is possible"
            continue
        assert bytes_of(out) == expected, (choice, case)
        index += 1


def test_backward_launches(device, rng):
    for index in range(LAUNCHES):
        case = any_case(rng, index)
        expected = map_and_gradients(case, index)[1:]
        choice = {"threads": 32 * int(rng.integers(1, 9)), "width": int(rng.choice([0, 1, 4]))}
        if index % 3:
            choice["tile_rows"], choice["tile_columns"] = int(rng.choice([1, 2, 4, 8])), int(rng.choice([4, 8, 16, 32]))
        leaves = [on_device(p, device).requires_grad_() for p in case.likelihoods]
        out = case.run(leaves)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(index), dtype=out.dtype).to(device)
        with launch(device, **choice):
            gradients = torch.autograd.grad(out, leaves, grad)
        assert [bytes_of(g) for g in gradients] == expected, (choice, case)


def test_launches_that_cannot_be(cuda):
    p = torch.rand(1, 3, 4, 5, device=cuda)
    for threads in (-32, 16, 33, 288, 1024):
        with pytest.raises(RuntimeError, match="threads must be a multiple of 32"):
            torch.ops.bitrate_ext._choose_launch(threads, 0, 0, 0)
    leaf = p.clone().requires_grad_()
    out = bitrate_ext.bitrate_map(leaf, (8, 10))
    with launch(cuda, tile_rows=3, tile_columns=5), pytest.raises((RuntimeError, ValueError), match="no tile of 3 x 5"):
        torch.autograd.grad(out.sum(), leaf)
    assert torch.isfinite(bitrate_ext.bitrate_map(p, (8, 10))).all()


EXTENTS = {  # likelihoods [N, C, h, w] and the map's size, for a length
    "batch": lambda n: ((n, 2, 1, 1), (2, 3)),
    "channels": lambda n: ((1, n, 1, 2), (2, 4)),
    "batch times channels": lambda n: ((16, n // 16 + 1, 1, 2), (1, 2)),
    "rows": lambda n: ((1, 2, n, 1), (n, 2)),
    "columns": lambda n: ((1, 2, 1, n), (2, n)),
    "rows of the map": lambda n: ((1, 2, 9, 2), (n, 3)),
    "columns of the map": lambda n: ((1, 2, 2, 9), (3, n)),
    "rows that shrink": lambda n: ((1, 2, n, 2), (9, 3)),
    "columns that shrink": lambda n: ((1, 2, 2, n), (3, 9)),
}


@pytest.mark.parametrize("extent", EXTENTS)
def test_limits_of_a_grid(device, rng, extent):
    """Lengths around 2^16, where a grid's second and third extents end, and 2^20."""
    for length in LIMITS if scaled(100) > 10 else LIMITS[:1]:
        shape, size = EXTENTS[extent](length)
        leaf = likelihoods(rng, shape, kind="uniform").requires_grad_()
        there = leaf.detach().to(device).requires_grad_()
        out, found = bitrate_ext.bitrate_map(leaf, size), bitrate_ext.bitrate_map(there, size)
        assert_same_bytes(found.cpu(), out, length)
        grad = torch.from_numpy(rng.random(out.shape)).float()
        (expected,) = torch.autograd.grad(out, leaf, grad)
        assert_same_bytes(torch.autograd.grad(found, there, grad.to(device))[0].cpu(), expected, length)


def test_many_latents_and_too_many(cuda, rng):
    """As many as one launch takes; with one more the reference serves, which is said, and the kernel itself refuses."""
    most, size = library.MOST_LATENTS_ON_CUDA, (8, 10)
    named = {str(k): likelihoods(rng, (2, 3 + k, 1 + k % 4, 5), kind="uniform") for k in range(most)}
    there = {name: p.to(cuda) for name, p in named.items()}
    assert_same_bytes(bitrate_ext.bitrate_map(there, size).cpu(), bitrate_ext.bitrate_map(named, size))
    more, more_there = {**named, "one more": named["0"]}, {**there, "one more": there["0"]}
    library._warned.clear()
    with pytest.warns(RuntimeWarning, match=f"at most {most} latents, not {most + 1}"):
        out = bitrate_ext.bitrate_map(more_there, size)
    torch.testing.assert_close(out.cpu(), bitrate_ext.bitrate_map(more, size), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=f"at most {most} latents, not {most + 1}"):
        bitrate_ext.bitrate_map(more_there, size, impl="native")
    bands = [tensor for p in more_there.values() for tensor in flat_bands(p, size)]
    with pytest.raises((RuntimeError, ValueError), match=f"at most {most} latents in one launch, got {most + 1}"):
        torch.ops.bitrate_ext._project(list(more_there.values()), bands, out)
    assert_same_bytes(bitrate_ext.bitrate_map(there, size).cpu(), bitrate_ext.bitrate_map(named, size))


def test_tensors_on_different_devices(cuda, rng):
    """Each is refused with its words, and the device is well afterwards."""
    near = likelihoods(rng, (2, 3, 4, 5), kind="uniform")
    far = near.to(cuda)
    size, bitrate_map = (8, 10), bitrate_ext.bitrate_map
    with pytest.raises(ValueError, match="must be on cuda:0 like the first, got cpu"):
        bitrate_map({"y": far, "z": near}, size)
    with pytest.raises(ValueError, match="must be on cpu like the first, got cuda:0"):
        bitrate_map({"y": near, "z": far}, size)
    with pytest.raises(ValueError, match=r"out must be torch.float32 \[2, 1, 8, 10\] on cuda:0, got .* on cpu"):
        bitrate_map(far, size, out=torch.empty(2, 1, *size))
    with pytest.raises(ValueError, match=r"out must be torch.float32 \[2, 1, 8, 10\] on cpu, got .* on cuda:0"):
        bitrate_map(near, size, out=torch.empty(2, 1, *size, device=cuda))

    project, backward = torch.ops.bitrate_ext._project, torch.ops.bitrate_ext._project_backward
    bands, back = flat_bands(far, size), flat_bands(far, size, transposed=True)
    out, grad = torch.empty(2, 1, *size, device=cuda), torch.ones(2, 1, *size, device=cuda)
    for arguments, words in (
        (([near], bands, out), "likelihoods must be on GPU 0"),
        (([far, near], bands * 2, out), "likelihoods must be on GPU 0"),
        (([far], [bands[0].cpu(), *bands[1:]], out), "a band's start must be on GPU 0"),
        (([far], [bands[0], bands[1].cpu(), *bands[2:]], out), "a band's weight must be on GPU 0"),
        (([far], [*bands[:2], bands[0], *bands[3:]], out), "a band's start must be on the CPU"),
        (([far], bands, out.cpu()), "out must be on a GPU"),
        (([far], bands, out, torch.zeros(3, dtype=torch.uint8)), "plans must be contiguous uint8"),
        (([far], bands[:4], out), "bands must be six tensors a latent, got 4 for 1"),
        (([far], bands, out.transpose(2, 3)), "out must be contiguous"),
    ):
        with pytest.raises(RuntimeError, match=words):
            project(*arguments)
    for arguments, words in (
        ((grad, near, back, torch.empty_like(far)), "likelihoods must be on GPU 0"),
        ((grad, far, back, torch.empty_like(near)), "gradient must be on GPU 0"),
        ((grad.cpu(), far, back, torch.empty_like(far)), "grad must be on a GPU"),
        ((grad, far, [back[0].cpu(), *back[1:]], torch.empty_like(far)), "a band's start must be on GPU 0"),
        ((grad, far, back[:5], torch.empty_like(far)), "bands must be six tensors, got 5"),
    ):
        with pytest.raises(RuntimeError, match=words):
            backward(*arguments)
    torch.cuda.synchronize()
    assert_same_bytes(bitrate_map(far, size).cpu(), bitrate_map(near, size))
