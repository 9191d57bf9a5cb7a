"""Faults of the GPU kernels' bodies: forward.

``caught_by`` is a check of ``tests/kernels/kernel_checks.py`` or ``kernel_addresses.py``, which gets an executor with
the fault and has to fail.
"""

from __future__ import annotations

from . import Fault

PROJECT = "csrc/core/project.h"

BARRIERS = [
    Fault(
        "no barrier between lanes and cells",
        PROJECT,
        "    ctx.barrier();\n    combine_lanes",
        "    combine_lanes",
        "maps",
    ),
    Fault(
        "no barrier between cells and spreading",
        PROJECT,
        "combine_lanes(ctx, p, term, first, count);\n    ctx.barrier();",
        "combine_lanes(ctx, p, term, first, count);",
        "maps",
    ),
    Fault(
        "no barrier between spreading and pixels",
        PROJECT,
        "      ctx.barrier();\n      if (!p.whole)",
        "      if (!p.whole)",
        "maps",
    ),
    Fault(
        "a barrier that only busy threads reach",
        PROJECT,
        "    ctx.barrier();\n    combine_lanes",
        "    if (ctx.thread() < count) ctx.barrier();\n    combine_lanes",
        "maps",
    ),
]

LANES = [
    Fault("the last lane is left out", PROJECT, "item < loads * kParts", "item < loads * (kParts - 1)", "maps"),
    Fault(
        "threads overlap",
        PROJECT,
        "item < loads * kParts; item += ctx.threads()",
        "item < loads * kParts; item += ctx.threads() - 1",
        "maps",
    ),
    Fault(
        "rows counted from the round, not from the stage",
        PROJECT,
        "row = (first + cell) / stage.columns,",
        "row = cell / stage.columns,",
        "stages",
    ),
    Fault(
        "columns counted from the round, not from the stage",
        PROJECT,
        "column = (first + cell) % stage.columns;",
        "column = cell % stage.columns;",
        "stages",
    ),
    Fault(
        "one channel too many",
        PROJECT,
        "channel + k * kLanes < latent.channels",
        "channel + k * kLanes <= latent.channels",
        "channels",
    ),
    Fault(
        "a step of eight channels in 32 bits",
        PROJECT,
        "const int64_t step = kLanes * latent.channel_stride;",
        "const int64_t step = int32_t(kLanes * latent.channel_stride);",
        "addresses",
    ),
    Fault(
        "an image's offset in 32 bits",
        PROJECT,
        "int64_t at = image * latent.batch_stride + (stage.row + row)",
        "int64_t at = int32_t(image * latent.batch_stride) + (stage.row + row)",
        "addresses",
    ),
    Fault(
        "a row's offset in 32 bits",
        PROJECT,
        "(stage.row + row) * latent.row_stride +",
        "int32_t((stage.row + row) * latent.row_stride) +",
        "addresses",
    ),
    Fault("lanes do not begin at their channel", PROJECT, " + lane * latent.channel_stride;", ";", "maps"),
    Fault(
        "only the first group",
        PROJECT,
        "double group = factor(values[ahead * kGroup].value[v]);",
        "double group = factor(values[0].value[v]);",
        "channels",
    ),
    Fault(
        "a group of five",
        PROJECT,
        "for (int k = 1; k < kGroup; ++k) group",
        "for (int k = 2; k < kGroup; ++k) group",
        "maps",
    ),
    Fault(
        "exponents of earlier groups forgotten",
        PROJECT,
        "exponent[v] += int32_t(power);",
        "exponent[v] = int32_t(power);",
        "channels",
    ),
    Fault(
        "a product that is never rebased",
        PROJECT,
        "          rebase(product[v], power);\n",
        "          power += 1023;\n",
        "channels",
    ),
    Fault(
        "lanes of a wide load in one place",
        PROJECT,
        "(lane + v) * p.lane_cells + cell",
        "lane * p.lane_cells + cell",
        "wide_loads",
    ),
    Fault(
        "cells of a wide load in one place",
        PROJECT,
        ": lane * p.lane_cells + cell + v;",
        ": lane * p.lane_cells + cell;",
        "wide_loads",
    ),
    Fault(
        "float64 lanes lose their lost digits",
        PROJECT,
        "lane * p.lane_cells + cell, bits.value());",
        "lane * p.lane_cells + cell, bits.sum);",
        "maps",
    ),
    Fault(
        "float64 channels one lane apart",
        PROJECT,
        "channel < latent.channels; channel += kLanes",
        "channel < latent.channels; channel += kLanes - 1",
        "maps",
    ),
    Fault(
        "lanes combined from the last to the first",
        PROJECT,
        "product = product * get(ctx, p.product, lane * p",
        "product = product * get(ctx, p.product, (7 - lane) * p",
        "channels",
    ),
    Fault(
        "the pitch of lanes is the round's",
        PROJECT,
        "exponent += get(ctx, p.exponent, lane * p.lane_cells + cell);",
        "exponent += get(ctx, p.exponent, lane * count + cell);",
        "stages",
    ),
    Fault(
        "cells of every round in one place",
        PROJECT,
        "put(ctx, p.cells, first + cell, bits);",
        "put(ctx, p.cells, cell, bits);",
        "stages",
    ),
]

PIXELS = [
    Fault(
        "spreading starts again at each stage", PROJECT, "go_on ? get(ctx, term.spread, slot) : 0.0", "0.0", "stages"
    ),
    Fault("one pixel column too many", PROJECT, "x < pixels.end) {", "x <= pixels.end) {", "maps"),
    Fault("column weights by the wrong pitch", PROJECT, "t * band.rows + x)", "t * band.columns + x)", "maps"),
    Fault("taps left of the stage", PROJECT, "int32_t t = most(0, stage.column - start)", "int32_t t = 0", "stages"),
    Fault(
        "taps right of the stage",
        PROJECT,
        "least(int32_t(band.taps), stage.column + stage.columns - start)",
        "int32_t(band.taps)",
        "stages",
    ),
    Fault("halves of a spread row mixed up", PROJECT, "(term.spread, at + size / 2)", "(term.spread, at + 2)", "maps"),
    Fault("one row tap too many", PROJECT, "t >= 0 && t < taps", "t >= 0 && t <= taps", "maps"),
    Fault("one row's weights for four", PROJECT, "t * band.rows + y + r)", "t * band.rows + y)", "maps"),
    Fault("rows below the stage", PROJECT, "  high = least(high, past);\n", "", "stages"),
    Fault("rows above the stage", PROJECT, "row = most(low, first)", "row = low", "stages"),
    Fault(
        "taps of rows in one order, weights in another",
        PROJECT,
        "const int32_t t = row - start[r];",
        "const int32_t t = start[r] + taps - 1 - row;",
        "maps",
    ),
    Fault(
        "a map's offset in 32 bits",
        PROJECT,
        "(int64_t(image) * p.height + y + r) * p.width + x",
        "int32_t((int64_t(image) * p.height + y + r) * p.width + x)",
        "addresses",
    ),
    Fault("pixels below the tile", PROJECT, "if (y + r >= rows.end) break;", "if (y + r > rows.end) break;", "tiles"),
    Fault(
        "pixels right of the map", PROJECT, "if (x + v < end) ctx.store", "if (x + v <= end) ctx.store", "map_alignment"
    ),
    Fault(
        "NaN and -0 as they come",
        PROJECT,
        "Pack<T, 1>{{Rounded<T>::from(sums[r][v])}}",
        "Pack<T, 1>{{T(sums[r][v])}}",
        "special_values",
    ),
    Fault(
        "NaN and -0 as they come, four at a time",
        PROJECT,
        "Rounded<T>::from(sums[r][v + k])",
        "T(sums[r][v + k])",
        "special_values",
    ),
    Fault("partial sums that nobody cleared", PROJECT, "put(ctx, p.partial, k * blocks + block, 0.0);", ";", "stages"),
    Fault(
        "a wide load that begins in the middle",
        PROJECT,
        "cell_columns.begin -= cell_columns.begin % term.access.width;",
        ";",
        "wide_loads",
    ),
    Fault("stages of one length", PROJECT, "least(term.stage_rows, cell_rows.end - row)", "term.stage_rows", "stages"),
    Fault(
        "later latents replace the earlier",
        PROJECT,
        "add_rows(ctx, p, term, cells, column, y, rows.end, sums);",
        "for (auto& line : sums) for (double& sum : line) sum = 0.0;\n"
        "        add_rows(ctx, p, term, cells, column, y, rows.end, sums);",
        "many_latents",
    ),
]

FAULTS = [*BARRIERS, *LANES, *PIXELS]
