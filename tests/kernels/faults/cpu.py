"""Faults of the formulas and of the CPU path.

``caught_by`` is ``"CHECK, SET"`` as ``native/sweep.cpp`` prints them: the check that must find the fault, on the
instruction set that it is planted for ("scalar": one of the formulas that all sets share).
"""

from __future__ import annotations

from . import Fault

BITS, BANDS = "csrc/core/bits.h", "csrc/core/bands.h"
SCALAR, TENSORS = "csrc/core/scalar.h", "csrc/core/tensors.h"
VECTOR, LOOPS, PROJECT = "csrc/cpu/vector.h", "csrc/cpu/loops.h", "csrc/cpu/project.cpp"

FORMULAS = [
    Fault(
        "coefficient of the logarithm's series",
        BITS,
        "0.41219858311113238",
        "0.41129858311113238",
        "logarithms, scalar",
    ),
    Fault("mantissa not centred on one", BITS, "0x3fe6a09e667f3bcd", "0x3fe0000000000000", "logarithms, scalar"),
    Fault("exponent off by one a group", BITS, "shift - 1023 * groups", "shift - 1022 * groups", "logarithms, scalar"),
    Fault("groups that leave float64's range", BITS, "kGroup = 6", "kGroup = 8", "logarithms, scalar"),
    Fault(
        "rebasing by the whole exponent field", BITS, "0x7fc0000000000000", "0x7ff0000000000000", "logarithms, scalar"
    ),
    Fault(
        "one group too many",
        BITS,
        "(lane_channels(channels, lane) + kGroup - 1) / kGroup",
        "lane_channels(channels, lane) / kGroup + 1",
        "logarithms, scalar",
    ),
    Fault(
        "one rebasing for a subnormal float64",
        BITS,
        "  rebase(product, exponent);\n  rebase(product, exponent);\n  return bits_of(product, exponent, 2);",
        "  rebase(product, exponent);\n  return bits_of(product, exponent, 1);",
        "logarithms, scalar",
    ),
    Fault(
        "a sum that forgets what it loses",
        BITS,
        "lost += (sum - (total - part)) + (value - part);",
        "",
        "logarithms, scalar",
    ),
    Fault(
        "lost digits added to infinity",
        BITS,
        "lost - lost == 0.0 ? sum + lost : sum",
        "sum + lost",
        "logarithms, scalar",
    ),
    Fault("infinite likelihoods cost infinitely much", BITS, ": 0.0 - product;", ": product;", "logarithms, scalar"),
    Fault("a weight of zero is a tap", BANDS, "weight != 0.0 ?", "true ?", "forward, baseline"),
    Fault("sign of the gradient", TENSORS, "* -1.4426950408889634", "* 1.4426950408889634", "backward, baseline"),
    Fault("natural logarithm's gradient", TENSORS, "* -1.4426950408889634", "* -1.0", "backward, baseline"),
    Fault("bias of float16", SCALAR, "exponent + 112u", "exponent + 113u", "formats, scalar"),
    Fault(
        "ties of small float16 numbers away from zero",
        SCALAR,
        "rest == tie && (kept & 1u)",
        "rest == tie",
        "formats, scalar",
    ),
    Fault("ties of float16 upwards", SCALAR, "0xfffu + ((magnitude >> 13) & 1u)", "0x1000u", "formats, scalar"),
    Fault("smallest float16 lost", SCALAR, "exponent < 102u", "exponent < 103u", "formats, scalar"),
    Fault("ties of bfloat16 upwards", SCALAR, "0x7fffu + ((bits >> 16) & 1u)", "0x8000u", "formats, scalar"),
    Fault(
        "any NaN in a float32",
        SCALAR,
        "value == value ? rounded : bits_as<float>(0x7fc00000u)",
        "rounded",
        "formats, scalar",
    ),
    Fault("minus zero in a float64", SCALAR, "value + 0.0", "value", "formats, scalar"),
]

VECTORS = [
    Fault("two roundings a tap", VECTOR, "__builtin_fma(a[i], b[i], c[i])", "a[i] * b[i] + c[i]", "forward, baseline"),
    Fault(
        "two roundings a tap, AVX2",
        VECTOR,
        "(Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c)",
        "a * b + c",
        "forward, avx2",
    ),
    Fault(
        "two roundings a tap, AVX-512",
        VECTOR,
        "(Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c)",
        "a * b + c",
        "forward, avx512",
    ),
    Fault(
        "half of the signs watched",
        VECTOR,
        "signs |= bits_as<Ints>(a) | bits_as<Ints>(b);",
        "signs |= bits_as<Ints>(a);",
        "cells, avx2",
    ),
    Fault("half of the signs watched, AVX-512", VECTOR, "(__m512i)b, 0xfe)", "(__m512i)b, 0xfc)", "cells, avx512"),
    Fault(
        "blocks swapped the wrong way",
        VECTOR,
        "lower[J ^ Half] : upper[J]",
        "upper[J ^ Half] : upper[J]",
        "cells, avx512",
    ),
    Fault("ties of bfloat16", VECTOR, "+ 0x7fffu + ((bits >> 16) & 1u)", "+ 0x8000u", "backward, avx512"),
    Fault(
        "minus zero in a vector of bfloat16",
        VECTOR,
        "result == 0x8000u ? Words{} : result",
        "result",
        "backward, avx512",
    ),
    Fault(
        "minus zero in a vector of float16",
        VECTOR,
        "result == 0x8000u ? Shorts{} : result",
        "result",
        "backward, avx2",
    ),
    Fault("minus zero in a vector", VECTOR, "narrow(values) + 0.0f", "narrow(values)", "backward, avx2"),
    Fault("any NaN in a vector", VECTOR, "single == single ? single :", "true ? single :", "forward, baseline"),
    Fault("last cells of a block", LOOPS, "(count + kWidth - 1) / kWidth", "count / kWidth", "cells, baseline"),
    Fault("last channel", LOOPS, "factors[k] = c < channels ?", "factors[k] = c + 1 < channels ?", "cells, baseline"),
    Fault("no look-out for negatives", LOOPS, "if (any_negative(products.signs)) return false;", "", "cells, baseline"),
    Fault(
        "no look-out for negatives, channels last",
        LOOPS,
        "return !any_negative(signs);",
        "return true;",
        "cells, avx2",
    ),
    Fault("one channel too many, channels last", LOOPS, "lane < rest ?", "lane <= rest ?", "cells, baseline"),
    Fault(
        "groups of short lanes, channels last",
        LOOPS,
        "bits_of(product, exponent, kLanes * groups)",
        "bits_of(product, exponent, count_groups(channels))",
        "cells, baseline",
    ),
    Fault(
        "order of the lanes",
        LOOPS,
        "product * lanes[part][lane]",
        "product * lanes[part][kWidth - 1 - lane]",
        "cells, avx512",
    ),
    Fault(
        "bits of the last cells",
        LOOPS,
        "for (; j < count; ++j) bits[j] = to_double(",
        "for (; j + 1 < count; ++j) bits[j] = to_double(",
        "cells, baseline",
    ),
    Fault(
        "bits of neighbours, whatever their stride",
        LOOPS,
        "if (strides.cell == 1) {\n    for (; j + kWidth",
        "if (strides.cell > 0) {\n    for (; j + kWidth",
        "cells, avx2",
    ),
    Fault(
        "the gradient of bits in single precision",
        LOOPS,
        "= Rounded<T>::from(shared[j]);",
        "= Rounded<T>::from(Rounded<float>::from(shared[j]));",
        "backward, baseline",
    ),
    Fault(
        "the gradient of bits without gaps",
        LOOPS,
        "gradient[j * gradient_strides.cell] = Rounded<T>::from(shared[j]);",
        "gradient[j] = Rounded<T>::from(shared[j]);",
        "backward, avx512",
    ),
    Fault("some neighbours' first cells compared", VECTOR, "difference |=", "difference =", "forward, avx2"),
    Fault("pitch of a band's weights", LOOPS, "weight + t * pitch + x", "weight + t * count + x", "forward, baseline"),
    Fault("negative NaN is ordinary", LOOPS, "pattern | (pattern", "(pattern", "forward, baseline"),
    Fault("infinity is ordinary", LOOPS, " | (pattern + 0x10000000000000u)", "", "forward, baseline"),
    Fault(
        "weights of the fifth tap", LOOPS, "weights + done, taps - done", "weights, taps - done", "forward, baseline"
    ),
    Fault(
        "head of a streamed row",
        LOOPS,
        "sum_few_rows(rows, weights, taps, from, 0, head, write);",
        "",
        "forward, baseline",
    ),
    Fault("tail of a gradient's run", LOOPS, "while (x < count) one();", "", "backward, baseline"),
    Fault(
        "one numerator for all cells",
        LOOPS,
        "decltype(kind){} + shared[j]",
        "decltype(kind){} + shared[0]",
        "backward, baseline",
    ),
    Fault(
        "likelihoods read by the gradient's strides",
        LOOPS,
        "divide_run(likelihoods + c * strides.channel",
        "divide_run(likelihoods + c * gradient_strides.channel",
        "backward, baseline",
    ),
]

SWEEPS = [
    Fault("a cell between two runs", PROJECT, "part += longest", "part += longest + 1", "forward, baseline"),
    Fault(
        "sliced latents taken for dense",
        PROJECT,
        "latent.row_stride == latent.w * latent.cell_stride ||",
        "latent.row_stride >= latent.w * latent.cell_stride ||",
        "forward, baseline",
    ),
    Fault(
        "first row of a slab", PROJECT, "(first_row + run.first_cell / w)", "(run.first_cell / w)", "forward, baseline"
    ),
    Fault("a row between two slabs", PROJECT, "top += strip_rows", "top += strip_rows + 1", "forward, baseline"),
    Fault(
        "images of a second slab",
        PROJECT,
        "(images.begin + image) * map.height",
        "image * map.height",
        "forward, baseline",
    ),
    Fault("another row kept in the slot", PROJECT, "owner_[slot] != cell_row", "owner_[slot] < 0", "forward, baseline"),
    Fault("rows of the block before", PROJECT, "std::fill(owner_.begin(), owner_.end(), -1);", "", "forward, baseline"),
    Fault(
        "strange rows taken for ordinary",
        PROJECT,
        "ordinary && ordinary_[slots_[t]] &&",
        "ordinary &&",
        "forward, baseline",
    ),
    Fault("float64 maps as they come", PROJECT, "kernels.canonicalise(out, count);", "", "forward, baseline"),
    Fault(
        "taps of a transposed band backwards",
        PROJECT,
        "band.start[cell_row] + t)",
        "band.start[cell_row] + band.taps - 1 - t)",
        "backward, baseline",
    ),
    Fault("gradient of a first block twice", PROJECT, "sums + column);", "sums);", "backward, baseline"),
    Fault(
        "gaps between the gradient's rows", PROJECT, "if (!same_rows) cut.row_stride = -1;", "", "backward, baseline"
    ),
    Fault(
        "numerators of the first image",
        PROJECT,
        "shared + (run.image - images.begin) * cells +",
        "shared +",
        "backward, baseline",
    ),
    Fault("a latent in two slabs, backward", PROJECT, "top += slab_rows", "top += slab_rows + 1", "backward, baseline"),
]

FAULTS = [*FORMULAS, *VECTORS, *SWEEPS]

# Caught by ``native/threads.cpp`` under the thread sanitizer, with these words; see ``test_sanitizers.py``.
RACES = [
    Fault(
        "sums that threads share",
        PROJECT,
        "std::vector<double> sums(grad.width);",
        "static std::vector<double> sums(1 << 16);",
        "ThreadSanitizer: data race",
    ),
    Fault(
        "rows that threads share",
        PROJECT,
        "std::vector<SpreadRows> spread;",
        "static std::vector<SpreadRows> spread; spread.clear();",
        "ThreadSanitizer: data race",
    ),
]
