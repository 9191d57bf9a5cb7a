"""What must follow from the definition for any input, with no oracle: permutations, flips, crops, shifts, sums."""

import numpy as np
import torch
from cases import Case, assert_same_bytes, likelihoods, random_case, scaled

import bitrate_ext

PER_RELATION = scaled(850)  # cases; there are six relations


def small(rng, **options):
    return random_case(rng, elements=1200, pixels=3000, **options)


def assert_equal_to_rounding(a: torch.Tensor, b: torch.Tensor, what) -> None:
    rtol = 1.3e-7 if a.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14, msg=lambda m: f"{m}\n{what}")


def test_channel_order_does_not_matter(device, rng):
    for _ in range(PER_RELATION):
        case = small(rng)
        shuffled = [p[:, torch.from_numpy(rng.permutation(p.shape[1]))].to(device) for p in case.likelihoods]
        assert_equal_to_rounding(case.run(shuffled), case.run([p.to(device) for p in case.likelihoods]), case)


def test_batches_do_not_mix(device, rng):
    """A permuted batch gives the permuted maps, byte for byte."""
    for _ in range(PER_RELATION):
        case = small(rng)
        order = torch.from_numpy(rng.permutation(case.likelihoods[0].shape[0]))
        tensors = [p.to(device) for p in case.likelihoods]
        assert_same_bytes(case.run([p[order] for p in tensors]), case.run(tensors)[order], case)


def test_flips(device, rng):
    """Mirrored latents give the mirrored map; nearest only where no pixel lies right between two cells."""
    for index in range(PER_RELATION):
        case = small(rng, conserve=True)
        factors = [int(v) for v in rng.integers(1, 6, 2)]
        h, w = case.likelihoods[0].shape[2:]
        mode = case.mode
        if mode == "nearest" and h and w:
            case = Case(case.likelihoods[:1], (h * factors[0], w * factors[1]), mode=mode)
        elif mode == "nearest":
            continue
        case.crop = None
        case.__post_init__()
        dims = [(2,), (3,), (2, 3)][index % 3]
        tensors = [p.to(device) for p in case.likelihoods]
        assert_equal_to_rounding(case.run([p.flip(dims) for p in tensors]), case.run(tensors).flip(dims), case)


def test_crop_then_map_is_map_then_crop(device, rng):
    """A window of the map, byte for byte, by crop= and by slicing; conserving and not."""
    for _ in range(PER_RELATION):
        case = small(rng)
        case.crop = None
        case.__post_init__()
        tensors = [p.to(device) for p in case.likelihoods]
        whole = case.run(tensors)
        top, left = (int(rng.integers(0, length)) for length in case.canvas)
        height = int(rng.integers(1, case.canvas[0] - top + 1))
        width = int(rng.integers(1, case.canvas[1] - left + 1))
        part = case.run(tensors, crop=(top, left, height, width))
        assert_same_bytes(part, whole[..., top : top + height, left : left + width], case)


def test_powers_of_two_add_whole_bits(device, rng):
    """map(p 2^-k) = map(p) + k C, where nothing is cropped and constants stay constant."""
    for _ in range(PER_RELATION):
        n, c, h, w = (int(rng.integers(1, high)) for high in (3, 30, 8, 12))
        p = likelihoods(rng, (n, c, h, w), (torch.float32, torch.float64)[int(rng.integers(2))], "uniform").to(device)
        k = int(rng.integers(1, 60))
        size = (h * 2, w * 3)
        shifted = bitrate_ext.bitrate_map(p * 2.0**-k, size, dtype=torch.float64)
        expected = bitrate_ext.bitrate_map(p, size, dtype=torch.float64) + k * c / 6
        torch.testing.assert_close(shifted, expected, rtol=1e-12, atol=0)


def test_maps_of_several_latents_add_up(device, rng):
    """One pass over many latents equals the sum of single maps; a map of a product is a sum of maps."""
    for _ in range(PER_RELATION):
        case = small(rng, latents=3)
        tensors = [p.to(device) for p in case.likelihoods]
        both = case.run(tensors, dtype=torch.float64)
        singles = [bitrate_ext.bitrate_map(p, **{**case.kwargs, "dtype": torch.float64}) for p in tensors]
        assert_equal_to_rounding(both, torch.stack(singles).sum(dim=0), case)
        p = tensors[0]
        split = np.sort(rng.integers(0, p.shape[1] + 1, 2))
        parts = [p[:, : split[0]], p[:, split[0] : split[1]], p[:, split[1] :]]
        assert_equal_to_rounding(case.run(parts, dtype=torch.float64), singles[0], case)
