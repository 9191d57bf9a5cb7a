"""The same bytes on every instruction set, thread count and tiling, and from run to run."""

import itertools

import pytest
import torch
from cases import DTYPES, assert_same_bytes, bytes_of, likelihoods, random_case, scaled
from hard_cases import in_another_layout, large_case, map_and_gradients, spoiled

import bitrate_ext

CASES = scaled(1900)  # small ones, of any shape
LARGE = scaled(100)  # large enough for several threads and slabs
REPEATED, REPEATS = scaled(200), 20
THREADS = (1, 2, 3, 5, 8, 16)


@pytest.fixture
def instruction_sets():
    """Return how many this processor has; the best is chosen again at the end."""
    threads = torch.get_num_threads()
    yield torch.ops.bitrate_ext._choose_instruction_set(-1)
    torch.ops.bitrate_ext._choose_instruction_set(-1)
    torch.set_num_threads(threads)


def test_instruction_sets_and_threads(instruction_sets, rng):
    assert instruction_sets >= 1
    for index in range(CASES):
        case = random_case(rng, elements=1500, pixels=4000)
        case.likelihoods = [in_another_layout(rng, spoiled(rng, p)) for p in case.likelihoods]
        torch.ops.bitrate_ext._choose_instruction_set(0)
        torch.set_num_threads(1)
        expected = map_and_gradients(case, index)
        for chosen in range(1, instruction_sets):
            torch.ops.bitrate_ext._choose_instruction_set(chosen)
            torch.set_num_threads(THREADS[(index + chosen) % len(THREADS)])
            assert map_and_gradients(case, index) == expected, (case, chosen)


def test_threads_on_large_inputs(instruction_sets, rng):
    for index in range(LARGE):
        case = large_case(rng, index)
        torch.ops.bitrate_ext._choose_instruction_set(0)
        torch.set_num_threads(1)
        expected = map_and_gradients(case, index)
        for chosen, threads in [(-1, 1), (-1, 2), (-1, 3), (-1, 16), (instruction_sets // 2, 5), (0, 8)]:
            torch.ops.bitrate_ext._choose_instruction_set(chosen)
            torch.set_num_threads(threads)
            assert map_and_gradients(case, index) == expected, (case, chosen, threads)


def stitched(case, cuts) -> torch.Tensor:
    """Return the map from windows of it."""
    top, left, height, width = case.crop or (0, 0, *case.canvas)
    rows, columns = ([0, *sorted(cut), length] for cut, length in zip(cuts, (height, width), strict=True))
    bands = []
    for r0, r1 in itertools.pairwise(rows):
        parts = [case.run(crop=(top + r0, left + c0, r1 - r0, c1 - c0))
                 for c0, c1 in itertools.pairwise(columns) if c1 > c0 and r1 > r0]  # fmt: skip
        if parts:
            bands.append(torch.cat(parts, dim=3))
    return torch.cat(bands, dim=2)


def test_tiles(instruction_sets, rng):
    for index in range(scaled(700)):
        case = random_case(rng, elements=1500, pixels=4000)
        case.likelihoods = [spoiled(rng, p) for p in case.likelihoods]
        _, _, height, width = case.crop or (0, 0, *case.canvas)
        cuts = [rng.integers(0, length + 1, int(rng.integers(0, 3))).tolist() for length in (height, width)]
        whole = case.run()
        torch.ops.bitrate_ext._choose_instruction_set(index % instruction_sets)
        assert_same_bytes(stitched(case, cuts), whole, (case, cuts))
        torch.ops.bitrate_ext._choose_instruction_set(-1)


def test_tiles_of_large_maps(rng):
    """Across the blocks of 1,024 pixels and cells that the loops work on."""
    p = likelihoods(rng, (1, 3, 5, 1500))
    for width in (1023, 1024, 1025, 2048, 4099):
        whole = bitrate_ext.bitrate_map(p, (7, width))
        for cut in (1, 517, 1022):
            left = bitrate_ext.bitrate_map(p, (7, width), crop=(0, 0, 7, cut))
            right = bitrate_ext.bitrate_map(p, (7, width), crop=(0, cut, 7, width - cut))
            assert_same_bytes(torch.cat([left, right], dim=3), whole, (width, cut))


def test_batch_splits(rng):
    for index in range(scaled(300)):
        case = random_case(rng, elements=3000, pixels=6000)
        batch = case.likelihoods[0].shape[0]
        if batch < 2:
            continue
        whole = map_and_gradients(case, index)
        singles = [case.run([p[n : n + 1] for p in case.likelihoods]) for n in range(batch)]
        assert bytes_of(torch.cat(singles)) == whole[0], case


def test_large_latents_in_slabs(rng):
    """More cells than one slab holds, so that forward and backward work through several."""
    p = likelihoods(rng, (2, 1, 300, 700)).requires_grad_()
    out = bitrate_ext.bitrate_map(p, (300, 700))
    expected = bitrate_ext.latent_bits(p.detach())
    assert_same_bytes(out.detach()[:, 0], expected)
    parts = torch.cat([bitrate_ext.latent_bits(p.detach()[:, :, r : r + 50]) for r in range(0, 300, 50)], dim=1)
    assert_same_bytes(parts, expected)
    grad = torch.rand(out.shape)
    (whole,) = torch.autograd.grad(out, p, grad)
    for n in range(2):
        leaf = p.detach()[n : n + 1].requires_grad_()
        (part,) = torch.autograd.grad(bitrate_ext.bitrate_map(leaf, (300, 700)), leaf, grad[n : n + 1])
        assert_same_bytes(part, whole[n : n + 1])


def test_layouts_give_the_same_bytes(instruction_sets, rng):
    for index in range(scaled(300)):
        shape = tuple(int(rng.integers(1, high)) for high in (3, 130, 5, 30))
        p = spoiled(rng, likelihoods(rng, shape, DTYPES[index % 4]))
        expected = bytes_of(bitrate_ext.latent_bits(p))
        for chosen in range(instruction_sets):
            torch.ops.bitrate_ext._choose_instruction_set(chosen)
            q = in_another_layout(rng, p)
            assert bytes_of(bitrate_ext.latent_bits(q)) == expected, (shape, p.dtype, q.stride(), chosen)


def test_run_to_run(device, rng):
    for index in range(REPEATED):
        case = random_case(rng, elements=20_000 if index % 10 == 0 else 1000, pixels=4000)
        case.likelihoods = [p.to(device) for p in case.likelihoods]
        leaves = [p.requires_grad_() for p in case.likelihoods]
        grad = None
        seen = set()
        for _ in range(REPEATS):
            out = case.run(leaves)
            grad = torch.rand_like(out) if grad is None else grad
            seen.add((bytes_of(out), *map(bytes_of, torch.autograd.grad(out, leaves, grad))))
        assert len(seen) == 1, case
