"""The translation of PTX: what single instructions do, what is refused, and kernels unlike those of today."""

from __future__ import annotations

import math
import struct
import subprocess
from pathlib import Path

import device_code
import executing
import numpy as np
import ptx
import pytest
from faults.native import compiler

HEAD = ".version 9.0\n.target sm_75\n.address_size 64\n"
REGISTERS = ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<99>; .reg .f64 %fd<9>;"
NAN, INF = math.nan, math.inf
# An instruction, its operands, its result. Registers are those of the operands' width, 0 for the result.
CASES: list[tuple[str, list[float], float]] = [
    ("add.s32 %r0, %r1, %r2", [2**31 - 1, 1], -(2**31)),
    ("sub.s16 %rs0, %rs1, %rs2", [-(2**15), 1], 2**15 - 1),
    ("mul.lo.s32 %r0, %r1, %r2", [2**30, 6], -(2**31)),
    ("mul.hi.u32 %r0, %r1, %r2", [2**31, 6], 3),
    ("mul.hi.s64 %rd0, %rd1, %rd2", [-(2**62), 6], -2),
    ("mul.wide.s32 %rd0, %r1, %r2", [-(2**31), 2], -(2**32)),
    ("mul.wide.u32 %rd0, %r1, %r2", [-1, 2], 2**33 - 2),
    ("mad.lo.s32 %r0, %r1, %r2, 7", [-3, 5], -8),
    ("div.s32 %r0, %r1, %r2", [-7, 2], -3),
    ("rem.s32 %r0, %r1, %r2", [-7, 2], -1),
    ("div.u32 %r0, %r1, %r2", [-2, 2], 2**31 - 1),
    ("shl.b32 %r0, %r1, %r2", [3, 31], -(2**31)),
    ("shl.b32 %r0, %r1, %r2", [3, 32], 0),
    ("shr.u32 %r0, %r1, %r2", [-1, 33], 0),
    ("shr.s32 %r0, %r1, %r2", [-5, 40], -1),
    ("shr.s64 %rd0, %rd1, %r2", [-5, 1], -3),
    ("and.b16 %rs0, %rs1, 6", [3], 2),
    ("not.b32 %r0, %r1", [0], -1),
    ("neg.s32 %r0, %r1", [-(2**31)], -(2**31)),
    ("abs.s32 %r0, %r1", [-7], 7),
    ("min.s32 %r0, %r1, %r2", [-1, 1], -1),
    ("min.u32 %r0, %r1, %r2", [-1, 1], 1),
    ("popc.b32 %r0, %r1", [-1], 32),
    ("clz.b32 %r0, %r1", [1], 31),
    ("clz.b64 %r0, %rd1", [0], 64),
    ("bfe.u32 %r0, %r1, 4, 8", [0xABCD], 0xBC),
    ("bfi.b32 %r0, %r1, %r2, 4, 8", [0xFF, 0x1234], 0x1FF4),
    ("prmt.b32 %r0, %r1, %r2, 0x0729", [0x44338211, 0x88776655], 0x118833FF),
    ("shf.l.wrap.b32 %r0, %r1, %r2, 36", [0xF0000000, 1], 0x1F),
    ("mov.b32 %r0, {%rs1, %rs2}", [1, 2], 0x20001),
    ("selp.b32 %r0, %r1, 5, %p0", [7], 5),
    ("@!%p0 mov.u32 %r0, %r1", [7], 7),
    ("cvt.s32.s16 %r0, %rs1", [-3], -3),
    ("cvt.u32.u8 %r0, %r1", [-1], 255),
    ("cvt.s64.s32 %rd0, %r1", [-3], -3),
    ("cvt.u64.u32 %rd0, %r1", [-3], 2**32 - 3),
    ("cvt.rn.f32.f64 %f0, %fd1", [1 + 3 * 2.0**-24], 1 + 2.0**-22),
    ("cvt.rn.f32.f64 %f0, %fd1", [2.0**-149 * 0.75], 2.0**-149),
    ("cvt.rn.f64.s64 %fd0, %rd1", [2**53 + 1], 2.0**53),
    ("cvt.rn.f32.s32 %f0, %r1", [2**24 + 3], 2.0**24 + 4),
    ("cvt.f32.f16 %f0, %rs1", [0x8001], -(2.0**-24)),
    ("cvt.f32.f16 %f0, %rs1", [0x7C00], INF),
    ("cvt.rni.s32.f64 %r0, %fd1", [2.5], 2),
    ("cvt.rzi.s32.f32 %r0, %f1", [-3e9], -(2**31)),
    ("cvt.rzi.u32.f64 %r0, %fd1", [-1.5], 0),
    ("cvt.rmi.f64.f64 %fd0, %fd1", [-0.5], -1.0),
    ("cvt.rpi.s64.f64 %rd0, %fd1", [0.5], 1),
    ("add.rn.f32 %f0, %f1, %f2", [1.0, 2.0**-24], 1.0),
    ("fma.rn.f32 %f0, %f1, %f2, %f3", [1 + 2.0**-12, 1 + 2.0**-12, -1.0], 2.0**-11 + 2.0**-24),
    ("fma.rn.f64 %fd0, %fd1, %fd2, %fd3", [1 + 2.0**-30, 1 + 2.0**-30, -1 - 2.0**-29], 2.0**-60),
    ("mul.rn.f32 %f0, %f1, %f2", [2.0**-100, 2.0**-40], 2.0**-140),
    ("div.rn.f64 %fd0, %fd1, %fd2", [1.0, -0.0], -INF),
    ("sqrt.rn.f64 %fd0, %fd1", [2.0], math.sqrt(2)),
    ("rcp.rn.f64 %fd0, %fd1", [3.0], 1 / 3),
    ("min.f64 %fd0, %fd1, %fd2", [NAN, 3.0], 3.0),
    ("max.f32 %f0, %f1, %f2", [-0.0, 0.0], 0.0),
    ("min.f32 %f0, %f1, %f2", [0.0, -0.0], -0.0),
    ("max.f64 %fd0, %fd1, %fd2", [NAN, NAN], NAN),
    ("abs.f64 %fd0, %fd1", [-0.0], 0.0),
    ("neg.f32 %f0, %f1", [0.0], -0.0),
    ("copysign.f64 %fd0, %fd1, %fd2", [-1.0, 3.0], -3.0),
    ("sub.rn.f64 %fd0, %fd1, %fd2", [INF, INF], NAN),
    *[
        (f"setp.{name}.f64 %p1, %fd1, %fd2; selp.u32 %r0, 1, 0, %p1", [a, b], int(true))
        for (a, b), truths in {
            (1.0, 2.0): "lt le ne ltu leu neu num", (2.0, 2.0): "le ge eq leu geu equ num",
            (NAN, 1.0): "ltu leu gtu geu equ neu nan",
        }.items()
        for name in ["lt", "le", "gt", "ge", "eq", "ne", "ltu", "leu", "gtu", "geu", "equ", "neu", "num", "nan"]
        for true in [name in truths.split()]
    ],
    ("setp.lt.u32 %p1, %r1, %r2; selp.u32 %r0, 1, 0, %p1", [-1, 1], 0),
    ("setp.lt.and.s32 %p1, %r1, %r2, %p0; selp.u32 %r0, 1, 0, %p1", [-1, 1], 0),
    ("setp.lt.or.s32 %p1, %r1, %r2, %p0; selp.u32 %r0, 1, 0, %p1", [-1, 1], 1),
    ("{ .reg .b16 half; mov.b32 {_, half}, %r1; cvt.u32.u16 %r0, half; }", [0x70005], 7),
]  # fmt: skip
WIDTHS = {"%rs": "u16", "%r": "u32", "%rd": "u64", "%f": "f32", "%fd": "f64"}


def _bits(value: float, register: str) -> int:
    if register == "%fd":
        return int(struct.unpack("Q", struct.pack("d", value))[0])
    if register == "%f":
        return int(struct.unpack("I", struct.pack("f", value))[0])
    return int(value) % 2 ** int(WIDTHS[register][1:])


def _kinds(instruction: str, count: int) -> list[str]:
    """Return the registers' names of the result and of the operands, without their numbers."""
    found = {}
    for kind, number in ptx.re.findall(r"(%(?:rs|rd|fd|r|f))(\d)\b", instruction):
        found[int(number)] = kind
    return [found[k] for k in range(count + 1)]


def _program(path: Path) -> Path:
    """Write PTX that goes through all cases: it reads each operand, and stores each result, at 8 bytes a piece."""
    lines, at = [], 0
    for index, (instruction, operands, _) in enumerate(CASES):
        result, *kinds = _kinds(instruction, len(operands))
        lines.append("setp.ne.b64 %p0, %rd90, %rd90;")
        for k, kind in enumerate(kinds, 1):
            lines.append(f"ld.global.{WIDTHS[kind]} {kind}{k}, [%rd91+{8 * at}];")
            at += 1
        lines.append(f"{instruction}{'' if instruction[0] == '{' else ';'}")
        lines.append(f"st.global.{WIDTHS[result]} [%rd90+{8 * index}], {result}0;")
    path.write_text(
        f"{HEAD}.visible .entry once(\n.param .u64 to,\n.param .u64 from,\n.param .u32 count\n)\n{{\n{REGISTERS}\n"
        "ld.param.u64 %rd90, [to];\nld.param.u64 %rd91, [from];\n" + "\n".join(lines) + "\nret;\n}\n"
    )
    return path


def _compiled(path: Path, folder: Path) -> Path:
    code, program = folder / "once.inc", folder / "once"
    code.write_text(ptx.Program(path).cpp())
    flags = [
        *executing.FLAGS,
        "-w",
        f"-I{executing.ROOT / 'csrc'}",
        f"-I{executing.EXECUTOR}",
        f'-DBITRATE_EXT_PTX="{code}"',
    ]
    source = executing.EXECUTOR.parent / "native/ptx_once.cpp"
    done = subprocess.run([compiler(), *flags, source, "-o", program], capture_output=True, text=True)
    if done.returncode != 0:
        raise ptx.UnknownPtx(done.stderr)
    return program


def _run(program: Path, outputs: int, inputs: list[int]) -> list[int]:
    command = [program, str(outputs), *(f"{bits:x}" for bits in inputs)]
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
    return [int(line, 16) for line in said.split()]


@pytest.mark.medium
def test_instructions(tmp_path: Path) -> None:
    """By their description in NVIDIA's documents; numbers at which another reading of it would show."""
    program = _compiled(_program(tmp_path / "once.ptx"), tmp_path)
    kinds = [_kinds(instruction, len(operands)) for instruction, operands, _ in CASES]
    inputs = [
        _bits(value, kind)
        for (_, operands, _), (_, *of) in zip(CASES, kinds, strict=True)
        for value, kind in zip(operands, of, strict=True)
    ]
    seen = []
    for _ in range(2):
        found = _run(program, len(CASES), inputs)
        for (instruction, operands, expected), (kind, *_), bits in zip(CASES, kinds, found, strict=True):
            if math.isnan(expected):
                value = struct.unpack("d", struct.pack("Q", bits))[0]
                assert math.isnan(value), (instruction, operands)
                seen.append(bits)
            else:
                assert bits == _bits(expected, kind), (instruction, operands, hex(bits))
    assert len(set(seen[: len(seen) // 2])) > 1, "each NaN has bits of its own"


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ("ex2.approx.ftz.f32 %f0, %f1", "op_ex2_approx_ftz"),
        ("rcp.approx.ftz.f64 %fd0, %fd1", "op_rcp_approx_ftz"),
        ("add.rn.ftz.f32 %f0, %f1, %f2", "op_add_rn_ftz"),
        ("add.f32 %f0, %f1, %f2", "static assertion failed"),
        ("cvt.f32.f64 %f0, %fd1", "static assertion failed"),
        ("ld.volatile.global.u32 %r0, [%rd90]", "ld.volatile.global.u32"),
        ("bar.sync 1", "bar.sync"),
        ("mov.u32 %r0, %laneid", "laneid"),
        ("shfl.sync.bfly.b32 %r0|%p1, %r1, 1, 31, -1", "shfl.sync"),
    ],
)
def test_what_is_unknown_is_refused(instruction: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "once.ptx"
    path.write_text(
        f"{HEAD}.entry once(.param .u64 to, .param .u64 from, .param .u32 count)\n"
        f"{{\n{REGISTERS}\n{instruction};\nret;\n}}\n"
    )
    with pytest.raises(ptx.UnknownPtx, match=named):
        _compiled(path, tmp_path)


LATER = """
__constant__ double factors[3] = {1.5, -2.0, 0.25};
__device__ const float steps[4] = {0.5f, 1.0f, 2.0f, 4.0f};

// The normal distribution by the trapezoidal rule.
__device__ double normal(double x) {
  double sum = 0.0;
  for (int k = 0; k < 4096; ++k) {
    const double t = x - (k + 0.5) * 0.01;
    sum += exp(-0.5 * t * t);
  }
  return sum * 0.01 * 0.3989422804014327;
}

extern "C" __global__ void once(double* to, const double* from, int count) {
  for (int k = 0; k < count / 4; ++k) {
    const double x = from[k];
    to[4 * k] = exp(x);
    to[4 * k + 1] = sqrt(1.0 / (1.0 + exp(-x)));
    to[4 * k + 2] = float(normal(x)) * factors[k % 3];
    const int bits = __popcll(__double_as_longlong(x));
    to[4 * k + 3] = fma(rint(x * 3.0), double(__fmaf_rn(steps[k & 3], 3.0f, 1.0f)), double(bits));
  }
}
"""


@pytest.mark.medium
def test_a_kernel_unlike_those_of_today(tmp_path: Path) -> None:
    """With a normal distribution, tables, several parameters, to the accuracy of the functions in it."""
    source, made = tmp_path / "later.cu", tmp_path / "later.ptx"
    source.write_text(LATER)
    flags = ["-O3", "--fmad=false", "-ptx", "-arch=compute_100"]
    subprocess.run([device_code.need_nvcc(), *flags, source, "-o", made], check=True)
    x = [-6.5, -1.0, -0.25, 0.0, 0.5, 1.0, 3.25, 5.0]
    found = _run(_compiled(made, tmp_path), 4 * len(x), [_bits(value, "%fd") for value in x])
    values = np.array(found, dtype=np.uint64).view(np.float64).reshape(len(x), 4)
    factors, steps = (1.5, -2.0, 0.25), (0.5, 1.0, 2.0, 4.0)
    for k, (one, row) in enumerate(zip(x, values, strict=True)):
        assert row[0] == pytest.approx(math.exp(one), rel=3e-16)
        assert row[1] == pytest.approx(math.sqrt(1 / (1 + math.exp(-one))), rel=3e-16)
        assert row[2] == pytest.approx(0.5 * math.erfc(-one / math.sqrt(2)) * factors[k % 3], rel=1e-4)
        whole = float(np.rint(one * 3)) * (steps[k % 4] * 3 + 1)
        assert row[3] == whole + _bits(one, "%fd").bit_count()
