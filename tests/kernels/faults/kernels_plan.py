"""Faults of the GPU kernels' bodies: how they cut a call into blocks.

``caught_by`` is a check of ``tests/kernels/kernel_checks.py`` or ``kernel_addresses.py``, which gets an executor with
the fault and has to fail.
"""

from __future__ import annotations

from . import Fault

BANDS, LAUNCH, PLAN = "csrc/core/bands.h", "csrc/core/launch.h", "csrc/core/plan.h"

FAULTS = [
    Fault(
        "the last tap is not read",
        BANDS,
        "last + int32_t(band.taps)}",
        "last + int32_t(band.taps) - 1}",
        "maps",
    ),
    Fault("bands taken for sorted", BANDS, "  if (!sorted) return {0, int32_t(band.columns)};\n", "", "stages"),
    Fault(
        "images and rows of tiles exchanged",
        LAUNCH,
        "return {row / rows.count, row % rows.count,",
        "return {row % rows.count, row / rows.count,",
        "maps",
    ),
    Fault("tiles begin before the first pixel", LAUNCH, "return {max_of(begin, 0),", "return {begin,", "tiles"),
    Fault(
        "tiles end past the last pixel", LAUNCH, "min_of(begin + tiles.size, length)};", "begin + tiles.size};", "tiles"
    ),
    Fault("wide stores at any width", PLAN, " && map.width % kSide == 0;", ";", "map_alignment"),
    Fault(
        "wide stores at any address", PLAN, "reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && ", "", "map_alignment"
    ),
    Fault(
        "wide loads at any address",
        PLAN,
        "reinterpret_cast<uintptr_t>(data) % (width * kElementSize[int(dtype)]) == 0 &&\n",
        "true &&\n",
        "wide_loads",
    ),
    Fault("wide loads at any row", PLAN, " && whole(latent.h, row_stride);", ";", "wide_loads"),
    Fault(
        "wide loads of any number of lanes",
        PLAN,
        "channel_stride == 1 && latent.channels % width == 0 &&",
        "channel_stride == 1 &&",
        "channels",
    ),
    Fault(
        "wide loads of rows of any length",
        PLAN,
        "cell_stride == 1 && latent.w % width == 0 &&",
        "cell_stride == 1 &&",
        "maps",
    ),
    Fault(
        "memory for one lane",
        PLAN,
        "p.product = memory.take<double>(kLanes * lanes);",
        "p.product = memory.take<double>(lanes);",
        "maps",
    ),
    Fault("no memory for spread rows", PLAN, "most_used = std::max(most_used, memory.used);", "", "maps"),
    Fault(
        "stages measured in cells, not in loads",
        PLAN,
        "round_up(end, load) - begin / load * load",
        "int64_t(end - begin)",
        "wide_loads",
    ),
    Fault(
        "tiles that count from the first pixel",
        PLAN,
        "int32_t(divide_up(length + shift, size))",
        "int32_t(divide_up(length, size))",
        "tiles",
    ),
    Fault(
        "tiles that share more cells than they must",
        PLAN,
        "(period - change[0] % period) % period",
        "0 * period",
        "halves",
    ),
    Fault(
        "one image for the batch",
        PLAN,
        "launch.blocks = map.batch * p.rows.count",
        "launch.blocks = p.rows.count",
        "maps",
    ),
    Fault(
        "one image of gradients for the batch",
        PLAN,
        "launch.blocks = latent.batch * p.rows.count",
        "launch.blocks = p.rows.count",
        "gradients",
    ),
    Fault("any number of latents", PLAN, "check(p.count < kMaxTerms,", "check(p.count <= kMaxTerms,", "refusals"),
    Fault(
        "grids of any size",
        PLAN,
        "check(map.batch <= kMostBlocks && launch.blocks <= kMostBlocks,",
        "check(true,",
        "refusals",
    ),
    Fault("axes of any length", PLAN, "<= kLongestAxis,", "<= 2 * kLongestAxis,", "refusals"),
    Fault("tiles of any size", PLAN, "overrides.tile_rows % kSide == 0 &&", "true &&", "refusals"),
]
