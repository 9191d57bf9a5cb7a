"""Faults of the GPU kernels' bodies: forward.

``caught_by`` is a check of ``tests/kernels/kernel_checks.py`` or ``kernel_addresses.py``, which gets an executor with
the fault and has to fail.
"""

from __future__ import annotations

from . import Fault

CELLS, PROJECT = "csrc/core/cell_sums.h", "csrc/core/project.h"

BARRIERS = [
    Fault(
        "no barrier between lanes and cells",
        CELLS,
        "    ctx.barrier();  // the cells of the round before have been spread, too\n",
        "",
        "maps",
    ),
    Fault("no barrier between cells and spreading", CELLS, "    ctx.barrier();\n  }\n}", "  }\n}", "maps"),
    Fault(
        "no barrier between spreading and pixels",
        PROJECT,
        "      ctx.barrier();\n      if (!p.whole)",
        "      if (!p.whole)",
        "maps",
    ),
    Fault(
        "a barrier that only busy threads reach",
        CELLS,
        "    ctx.barrier();  // the cells",
        "    if (ctx.thread() < count) ctx.barrier();  // the cells",
        "maps",
    ),
    Fault(
        "a barrier that bits do without",
        CELLS,
        "    ctx.barrier();  // the cells",
        "    if (term.latent.source == Source::Likelihoods) ctx.barrier();  // the cells",
        "bits",
    ),
]

LANES = [
    Fault("the last lane is left out", CELLS, "item < loads * kParts", "item < loads * (kParts - 1)", "maps"),
    Fault(
        "threads overlap",
        CELLS,
        "item < loads * kParts; item += ctx.threads()",
        "item < loads * kParts; item += ctx.threads() - 1",
        "maps",
    ),
    Fault(
        "cells counted from the round, not from the stage",
        CELLS,
        "stage, first + cell) + lane",
        "stage, cell) + lane",
        "stages",
    ),
    Fault(
        "one channel too many",
        CELLS,
        "channel + k * kLanes < latent.channels",
        "channel + k * kLanes <= latent.channels",
        "channels",
    ),
    Fault(
        "a step of eight channels in 32 bits",
        CELLS,
        "const int64_t step = kLanes * latent.channel_stride;",
        "const int64_t step = int32_t(kLanes * latent.channel_stride);",
        "addresses",
    ),
    Fault(
        "an image's offset in 32 bits",
        CELLS,
        "return image * latent.batch_stride",
        "return int32_t(image * latent.batch_stride)",
        "addresses",
    ),
    Fault(
        "a row's offset in 32 bits",
        CELLS,
        "+ row * latent.row_stride",
        "+ int32_t(row * latent.row_stride)",
        "addresses",
    ),
    Fault("lanes do not begin at their channel", CELLS, " + lane * latent.channel_stride;", ";", "maps"),
    Fault(
        "only the first group",
        CELLS,
        "double group = factor(values[ahead * kGroup].value[v]);",
        "double group = factor(values[0].value[v]);",
        "channels",
    ),
    Fault(
        "a group of five",
        CELLS,
        "for (int k = 1; k < kGroup; ++k) group",
        "for (int k = 2; k < kGroup; ++k) group",
        "maps",
    ),
    Fault(
        "exponents of earlier groups forgotten",
        CELLS,
        "exponent[v] += int32_t(power);",
        "exponent[v] = int32_t(power);",
        "channels",
    ),
    Fault(
        "a product that is never rebased",
        CELLS,
        "          rebase(product[v], power);\n",
        "          power += 1023;\n",
        "channels",
    ),
    Fault(
        "lanes of a wide load in one place",
        CELLS,
        "(lane + v) * p.lane_cells + cell",
        "lane * p.lane_cells + cell",
        "wide_loads",
    ),
    Fault(
        "cells of a wide load in one place",
        CELLS,
        ": lane * p.lane_cells + cell + v;",
        ": lane * p.lane_cells + cell;",
        "wide_loads",
    ),
    Fault(
        "float64 lanes lose their lost digits",
        CELLS,
        "lane * p.lane_cells + cell, bits.value());",
        "lane * p.lane_cells + cell, bits.sum);",
        "maps",
    ),
    Fault(
        "float64 channels one lane apart",
        CELLS,
        "channel < latent.channels; channel += kLanes",
        "channel < latent.channels; channel += kLanes - 1",
        "maps",
    ),
    Fault(
        "lanes combined from the last to the first",
        CELLS,
        "product = product * get(ctx, p.product, lane * p",
        "product = product * get(ctx, p.product, (7 - lane) * p",
        "channels",
    ),
    Fault(
        "the pitch of lanes is the round's",
        CELLS,
        "exponent += get(ctx, p.exponent, lane * p.lane_cells + cell);",
        "exponent += get(ctx, p.exponent, lane * count + cell);",
        "stages",
    ),
    Fault(
        "cells of every round in one place",
        CELLS,
        "put(ctx, p.cells, first + cell, bits);",
        "put(ctx, p.cells, cell, bits);",
        "stages",
    ),
]

BITS = [
    Fault(
        "bits of each round's first cells",
        CELLS,
        "term.latent, image, stage, first + cell)",
        "term.latent, image, stage, cell)",
        "bits",
    ),
    Fault("bits of every round in one place", CELLS, "first + cell, to_double(", "cell, to_double(", "bits"),
    Fault(
        "bits of the last cell",
        CELLS,
        "cell < count; cell += ctx.threads()) {\n    const int64_t at",
        "cell < count - 1; cell += ctx.threads()) {\n    const int64_t at",
        "bits",
    ),
    Fault(
        "bits in single precision",
        CELLS,
        "to_double(read(ctx, bits, at))",
        "double(float(to_double(read(ctx, bits, at))))",
        "bits",
    ),
    Fault("bits of the first image", CELLS, "cell_offset(term.latent, image,", "cell_offset(term.latent, 0,", "bits"),
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

FAULTS = [*BARRIERS, *LANES, *BITS, *PIXELS]
