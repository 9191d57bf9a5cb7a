"""Every refusal, with its words; and the last guards in C++ behind them."""

import collections
import math

import numpy as np
import pytest
import torch

import bitrate_ext
from bitrate_ext import bitrate_map, latent_bits

P = torch.rand(2, 3, 4, 5)
Z = torch.rand(2, 3, 2, 2)
SIZE = (8, 10)
OUT = torch.empty(2, 1, 8, 10)
INT, COMPLEX, BOOL = P.long(), P.to(torch.complex64), P > 0.5


# (call, exception, words)
CASES = [
    # the kind of likelihoods
    *[(lambda v=v: bitrate_map(v, SIZE), TypeError, f"must be a tensor or a dict of tensors, got {name}")
      for v, name in [(None, "NoneType"), (3, "int"), (1.5, "float"), ("y", "str"), (b"y", "bytes"), (P.numpy(),
          "ndarray"),
                      ({1, 2}, "set"), (object(), "object"), (torch.float32, "dtype"), (iter([P]), "list_iterator"),
                      (len, "builtin_function_or_method"), (1j, "complex")]],
    *[(lambda v=v: bitrate_map({"y": P, "z": v}, SIZE), TypeError, rf"\['z'\] must be a tensor or a dict .* {name}")
      for v, name in [("z", "str"), (2, "int"), (np.zeros(3), "ndarray")]],
    (lambda: bitrate_map({"y": [P, "z"]}, SIZE), TypeError, r"likelihoods\['y.1'\] must be a tensor or a dict .* str"),
    (lambda: bitrate_map({"a": {"b": {"c": 1}}}, SIZE), TypeError, r"likelihoods\['a.b.c'\] must be a tensor"),
    (lambda: bitrate_map([P, None], SIZE), TypeError, "likelihoods must be a tensor or a dict"),
    (lambda: bitrate_map([[P], 5], SIZE), TypeError, "got int"),
    (lambda: bitrate_map({}, SIZE), ValueError, "likelihoods must hold at least one tensor, got an empty dict"),
    (lambda: bitrate_map({"a": {}, "b": {"c": [None]}}, SIZE), ValueError, r"one tensor, got \{'a': \{\}, 'b'"),
    (lambda: bitrate_map(collections.OrderedDict(), SIZE), ValueError, "at least one tensor"),
    (lambda: bitrate_map({"y": {"a": P}, "y.a": P}, SIZE), ValueError, "one tensor a name, got two for 'y.a'"),
    (lambda: bitrate_map({1: P, "1": P}, SIZE), ValueError, "one tensor a name, got two for '1'"),
    (lambda: bitrate_map({"y": [P], "y.0": P}, SIZE), ValueError, "one tensor a name, got two for 'y.0'"),
    # dtype, rank, batch, device, layout
    *[(lambda v=v: bitrate_map(v, SIZE), TypeError, f"float32, float64, float16 or bfloat16, got {v.dtype}")
      for v in (INT, COMPLEX, BOOL, P.int(), P.to(torch.uint8), P.to(torch.float8_e4m3fn), P.to(torch.int8),
                P.to(torch.complex128), P.to(torch.int16))],
    *[(lambda v=v: latent_bits(v), TypeError, f"float32, float64, float16 or bfloat16, got {v.dtype}")
      for v in (INT, COMPLEX, BOOL)],
    (lambda: bitrate_map({"y": P, "z": INT}, SIZE), TypeError, r"likelihoods\['z'\] must be float32"),
    *[(lambda v=v: bitrate_map(v, SIZE), ValueError, r"likelihoods must be \[N, C, h, w\], got shape \[")
      for v in (P[0], P[0, 0], P[0, 0, 0], P[0, 0, 0, 0], P[None], P[None, None])],
    *[(lambda v=v: latent_bits(v), ValueError, r"likelihoods must be \[N, C, h, w\]") for v in (P[0], P[None])],
    (lambda: bitrate_map({"y": P, "z": Z[0]}, SIZE), ValueError, r"likelihoods\['z'\] must be \[N, C, h, w\]"),
    (lambda: bitrate_map({"y": P, "z": Z[:1]}, SIZE), ValueError, "must have batch size 2 like the first, got 1"),
    (lambda: bitrate_map({"y": P, "z": Z[:0]}, SIZE), ValueError, "must have batch size 2 like the first, got 0"),
    (lambda: bitrate_map({"y": P, "z": Z.to("meta")}, SIZE), ValueError, "must be on cpu like the first, got meta"),
    (lambda: bitrate_map({"y": Z.to("meta"), "z": P}, SIZE), ValueError, "must be on meta like the first, got cpu"),
    (lambda: bitrate_map(P.to_sparse(), SIZE), TypeError, "must be a strided tensor, got layout torch.sparse_coo"),
    (lambda: bitrate_map({"y": P, "z": Z.to_sparse()}, SIZE), TypeError, "must be a strided tensor"),
    # size
    (lambda: bitrate_map(P), ValueError, "give exactly one of size and scale_factor, got neither"),
    (lambda: bitrate_map(P, SIZE, scale_factor=2), ValueError, "give exactly one of size and scale_factor, got both"),
    *[(lambda v=v: bitrate_map(P, v), TypeError, r"size must be a pair \(H, W\) of pixels, got ")
      for v in (8, 8.0, "88", (8,), (8, 8, 8), (), {8, 9}, {"H": 8, "W": 8}, torch.tensor(8), object(), (8,
                      9).__iter__())],
    *[(lambda v=v: bitrate_map(P, v), TypeError, "size must be a pair of integers, got ")
      for v in ((8.0, 8), (8, 8.5), ("8", 8), (None, 8), (8, math.nan), (True, 8), (8, False), ([8], 8), (8, 1j))],
    *[(lambda v=v: bitrate_map(P, v), ValueError, "at least 1 pixel each way, got ")
      for v in ((0, 8), (8, 0), (-1, 8), (8, -1), (0, 0), (-(2**63), 8), (8, -(2**64)), (-(2**31), 3))],
    *[(lambda v=v: bitrate_map(P, v), ValueError, r"size must be below 2\*\*31 pixels each way, got ")
      for v in ((2**31, 8), (8, 2**31), (2**32, 8), (8, 2**63), (2**63 - 1, 8), (2**64, 8), (8, 10**30))],
    # scale_factor
    *[(lambda v=v: bitrate_map(P, scale_factor=v), TypeError, "must be a number or a pair of numbers, got ")
      for v in ("2", b"2", True, (True, 2), (2, "2"), (None, 2), 1j, (1j, 2), {2}, object(), ([2], 2),
                      torch.tensor(2.0))],
    *[(lambda v=v: bitrate_map(P, scale_factor=v), ValueError, "scale_factor must be positive and finite, got ")
      for v in (0, -1, 0.0, -0.0, math.nan, math.inf, -math.inf, (2, 0), (-2, 2), (math.nan, 1), (1, math.inf))],
    *[(lambda v=v: bitrate_map(P, scale_factor=v), ValueError, f"scale_factor must be a pair, got {len(v)} values")
      for v in ((2,), (2, 2, 2), (), [1, 2, 3, 4])],
    *[(lambda v=v: bitrate_map(P, scale_factor=v), ValueError, "leaves no pixel of")
      for v in (0.1, 1e-30, (1, 0.1), (0.2, 1), 5e-324)],
    *[(lambda v=v: bitrate_map(P, scale_factor=v), ValueError, r"at most 2\*\*31 - 1")
      for v in (2**31, 1e9, 1e300, (1, 2.0**60), (2**29, 1), 2**62)],
    (lambda: bitrate_map({"y": P, "z": Z}, scale_factor=2), ValueError, r"one grid size, got \[4, 5\] and \[2, 2\]"),
    # crop
    *[(lambda v=v: bitrate_map(P, SIZE, crop=v),
       TypeError, r"crop must be \(top, left, height, width\) in pixels, got ")
      for v in (3, "0011", (0, 0, 1), (0, 0, 1, 1, 1), (), {0, 1, 2, 3}, 1.5, object())],
    *[(lambda v=v: bitrate_map(P, SIZE, crop=v), ValueError, r"crop .* must lie inside the 8 x 10 map")
      for v in ((0, 0, 9, 10), (0, 0, 8, 11), (1, 0, 8, 10), (0, 1, 8, 10), (-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 1),
                (0, 0, 1, 0), (8, 0, 1, 1), (0, 10, 1, 1), (0, 0, -1, 1), (2**63, 0, 1, 1), (0, 0, 2**62, 2**62), (9,
                      9, 9, 9))],
    # projection, dtype, impl
    *[(lambda v=v: bitrate_map(P, SIZE, projection=v), ValueError, "must be one of 'nearest', 'bilinear', 'area'")
      for v in ("bicubic", "", "Bilinear", "bilinear ", "bilinear#1")],
    *[(lambda v=v: bitrate_map(P, SIZE, projection=v), TypeError, "projection must be a name or a Projection, got ")
      for v in (None, 3, ("bilinear",), bitrate_ext.Projection, b"area", P)],
    *[(lambda v=v: bitrate_map(P, SIZE, dtype=v), TypeError, "torch.float32 or torch.float64, got ")
      for v in (torch.float16, torch.bfloat16, torch.int64, "float32", float, 6)],
    *[(lambda v=v: latent_bits(P, dtype=v), TypeError, "torch.float32 or torch.float64, got ")
      for v in (torch.float16, torch.int32, "double")],
    *[(lambda v=v: bitrate_map(P, SIZE, impl=v), ValueError, "must be one of 'auto', 'native', 'reference', got ")
      for v in ("cuda", "", None, 1, "Native", b"auto")],
    (lambda: latent_bits(P, impl="fast"), ValueError, "impl must be one of"),
    *[(lambda v=v: latent_bits(v), TypeError, "likelihoods must be a tensor or a source of bits, got ")
      for v in (None, 3, P.numpy(), "p")],
    (lambda: bitrate_map(P.to("meta"), SIZE, impl="native"), RuntimeError, "was asked for, but .*meta tensors"),
    # out
    *[(lambda v=v: bitrate_map(P, SIZE, out=v), TypeError, "out must be a tensor, got ")
      for v in (3, np.zeros((2, 1, 8, 10)), "out", [torch.empty(2, 1, 8, 10)])],
    *[(lambda v=v: bitrate_map(P, SIZE, out=v), ValueError, r"out must be torch.float32 \[2, 1, 8, 10\] on cpu, got ")
      for v in (torch.empty(2, 1, 8, 9), torch.empty(2, 8, 10), torch.empty(1, 1, 8, 10), torch.empty(0),
                      torch.empty(2, 2, 8, 10),
                torch.empty(2, 1, 8, 10, dtype=torch.float64), torch.empty(2, 1, 8, 10, dtype=torch.float16),
                torch.empty(2, 1, 8, 10, device="meta"), torch.empty(2, 1, 8, 10, dtype=torch.int32))],
    (lambda: bitrate_map(P, SIZE, crop=(0, 0, 2, 2), out=OUT), ValueError, r"\[2, 1, 2, 2\]"),
    (lambda: bitrate_map(P.double(), SIZE, out=OUT), ValueError, "out must be torch.float64"),
    (lambda: bitrate_map(P.clone().requires_grad_(), SIZE, out=OUT), ValueError, "gradients are recorded"),
    (lambda: bitrate_map(P, SIZE, out=torch.empty(2, 1, 8, 10, requires_grad=True)),
     ValueError, "gradients are recorded"),
    (lambda: bitrate_map([P], SIZE, out=OUT), ValueError, "one map, but likelihoods is a list"),
    (lambda: bitrate_map((P, P), SIZE, out=OUT), ValueError, "out goes with one map"),
    # arguments that do not exist
    (lambda: bitrate_map(P, SIZE, "bilinear"), TypeError, "positional"),
    (lambda: bitrate_map(P, SIZE, mode="bilinear"), TypeError, "unexpected keyword"),
    (lambda: bitrate_map(), TypeError, "values"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), CASES, ids=range(len(CASES)))
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_there_are_enough_of_them():
    assert len(CASES) >= 150


def test_all_is_well_afterwards():
    out = bitrate_map(P, SIZE, impl="native")
    torch.testing.assert_close(out, bitrate_map(P, SIZE, impl="reference"))


def test_out_must_not_share_memory():
    storage = torch.rand(2 * 3 * 4 * 5 + 200)
    p = storage[:120].view(2, 3, 4, 5)
    out = storage[120:280].view(2, 1, 8, 10)
    with pytest.raises(ValueError, match="out must not share memory with likelihoods"):
        bitrate_map(p, SIZE, out=out)


def test_out_with_gradients_off():
    p = P.clone().requires_grad_()
    with torch.no_grad():
        out = bitrate_map(p, SIZE, out=OUT)
    torch.testing.assert_close(out, bitrate_map(P, SIZE))


def test_projection_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        bitrate_ext.Projection()


def bands(h=4, w=5, height=8, width=10):
    start = lambda cells, n: (torch.arange(n) * cells // n).int()  # noqa: E731
    return [start(h, height), torch.ones(1, height).double(), start(w, width), torch.ones(1, width).double()]


def replaced(index, tensor):
    return [tensor if i == index else band for i, band in enumerate(bands())]


outside = bands()[0].clone()
outside[3] = 4
below = bands()[0].clone()
below[7] = -1
GUARDS = [
    (lambda: ([P], bands(), torch.empty(2, 8, 10)), r"out must be \[N, 1, H, W\]"),
    (lambda: ([P], bands(), torch.empty(2, 2, 8, 10)), r"out must be \[N, 1, H, W\]"),
    (lambda: ([P], bands(), torch.empty(2, 1, 10, 8).transpose(2, 3)), "out must be contiguous"),
    (lambda: ([P], bands(), OUT.half()), "out must be float32 or float64"),
    (lambda: ([P], bands(), OUT.int()), "out must be float32 or float64"),
    (lambda: ([P], bands()[:3], OUT), "bands must be four tensors a latent, got 3 for 1"),
    (lambda: ([P, P], bands(), OUT), "bands must be four tensors a latent, got 4 for 2"),
    (lambda: ([P[0, 0]], bands(), OUT), r"likelihoods must be \[N, C, h, w\], and bits \[N, h, w\], got 2 dim"),
    (lambda: ([P[:1]], bands(), OUT), "likelihoods must have the map's batch size 2, got 1"),
    (lambda: ([INT], bands(), OUT), "likelihoods must be float64, float32, float16 or bfloat16"),
    (lambda: ([COMPLEX], bands(), OUT), "likelihoods must be float64, float32, float16 or bfloat16"),
    (lambda: ([P], replaced(0, bands()[0].long()), OUT), r"a band's start must be contiguous int32 \[8\]"),
    (lambda: ([P], replaced(0, bands()[0][:7]), OUT), r"a band's start must be contiguous int32 \[8\]"),
    (lambda: ([P], replaced(0, torch.zeros(16).int()[::2]), OUT), r"a band's start must be contiguous int32 \[8\]"),
    (lambda: ([P], replaced(0, bands()[0][None]), OUT), r"a band's start must be contiguous int32 \[8\]"),
    (lambda: ([P], replaced(1, bands()[1].float()), OUT), r"a band's weight must be contiguous float64 \[taps, 8\]"),
    (lambda: ([P], replaced(1, bands()[1][:, :7]), OUT), r"a band's weight must be contiguous float64 \[taps, 8\]"),
    (lambda: ([P], replaced(1, bands()[1][0]), OUT), r"a band's weight must be contiguous float64 \[taps, 8\]"),
    (lambda: ([P], replaced(3, torch.ones(1, 20).double()[:, ::2]), OUT), r"contiguous float64 \[taps, 10\]"),
    (lambda: ([P], replaced(0, outside), OUT), "a band's row 3 reaches outside 4 columns"),
    (lambda: ([P], replaced(0, below), OUT), "a band's row 7 reaches outside 4 columns"),
    (lambda: ([P], replaced(1, torch.ones(5, 8).double()), OUT), "a band's row 0 reaches outside 4 columns"),
    (lambda: ([P], replaced(0, torch.full((8,), 2**31 - 1).int()), OUT), "a band's row 0 reaches outside 4 columns"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), GUARDS, ids=range(len(GUARDS)))
def test_last_guards_of_the_kernel(arguments, words):
    with pytest.raises(RuntimeError, match=words):
        torch.ops.bitrate_ext._project(*arguments())


def backward_bands():
    return bands(8, 10, 4, 5)


BACKWARD_GUARDS = [
    (lambda: (OUT[0], P, backward_bands(), P.clone()), r"grad must be \[N, 1, H, W\]"),
    (lambda: (OUT.half(), P, backward_bands(), P.clone()), "grad must be float32 or float64"),
    (lambda: (OUT.transpose(2, 3), P, backward_bands(), P.clone()), "grad must be contiguous"),
    (lambda: (OUT, P, backward_bands()[:2], P.clone()), "bands must be four tensors, got 2"),
    (lambda: (OUT, P[:, :1], backward_bands(), P[:, 0]), "must have the likelihoods' dtype and shape"),
    (lambda: (OUT, P, backward_bands(), P.double()), "must have the likelihoods' dtype and shape"),
    (lambda: (OUT, P, backward_bands(), torch.empty(2, 3, 4, 6)), "must have the likelihoods' dtype and shape"),
    (lambda: (OUT, P, backward_bands(), torch.empty(2, 2, 4, 5)), "must have the likelihoods' dtype and shape"),
    (lambda: (OUT, P[:1], backward_bands(), P[:1].clone()), "likelihoods must have the map's batch size 2, got 1"),
    (lambda: (OUT, P, bands(), P.clone()), "a band's start must be contiguous int32"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), BACKWARD_GUARDS, ids=range(len(BACKWARD_GUARDS)))
def test_last_guards_of_the_backward_kernel(arguments, words):
    with pytest.raises(RuntimeError, match=words):
        torch.ops.bitrate_ext._project_backward(*arguments())


def test_instruction_sets_that_do_not_exist():
    count = torch.ops.bitrate_ext._choose_instruction_set(-1)
    for index in (count, 99, 2**31):
        with pytest.raises(RuntimeError, match="instruction set must be below"):
            torch.ops.bitrate_ext._choose_instruction_set(index)
    assert torch.ops.bitrate_ext._choose_instruction_set(-1) == count
