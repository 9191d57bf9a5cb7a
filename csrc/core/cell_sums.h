// The first steps forward: the bits of the cells that a tile of the map reads, made by the threads of a block together.
//   1. lanes: threads multiply the likelihoods of the cells, one lane of a cell (or several) a thread;
//   2. cells: lanes are combined in their fixed order, and one logarithm is taken.
// Another source of bits is another way to fill `ProjectParams::cells`.
#pragma once

#include <type_traits>

#include "bits.h"
#include "launch.h"

namespace bitrate {

// Cells that are worked on at once; `column` and `columns` are whole loads.
struct Stage {
  int32_t row, column, rows, columns;
};

// Elements from the latent's first to that of a cell of the stage, counted row by row.
BITRATE_HD int64_t cell_offset(const Latent& latent, int32_t image, const Stage& stage, int32_t cell) {
  const int32_t row = stage.row + cell / stage.columns, column = stage.column + cell % stage.columns;
  return image * latent.batch_stride + row * latent.row_stride + column * latent.cell_stride;
}

template <typename T, int kWidth>
BITRATE_HD Pack<T, kWidth> pack_of_ones() {
  Pack<T, kWidth> pack;
  for (int v = 0; v < kWidth; ++v) pack.value[v] = Rounded<T>::from(1.0);
  return pack;
}

// Step 1 for cells [first, first + count) of a stage. A load is kWidth cells of one lane's channel, or kWidth lanes of a
// cell.
template <typename T, int kWidth, bool kAcrossLanes, typename Ctx>
BITRATE_HD void multiply_lanes(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t image, const Stage& stage,
                               int32_t first, int32_t count) {
  constexpr int32_t kLoadCells = kAcrossLanes ? 1 : kWidth, kLoadLanes = kAcrossLanes ? kWidth : 1;
  constexpr int32_t kParts = int32_t(kLanes) / kLoadLanes;
  constexpr int32_t kAhead = kWidth == 1 ? 4 : 1;  // groups whose loads are in flight together, as registers allow
  const Latent& latent = term.latent;
  const T* likelihoods = static_cast<const T*>(latent.data);
  const int32_t loads = count / kLoadCells;
  for (int32_t item = ctx.thread(); item < loads * kParts; item += ctx.threads()) {
    const int32_t part = term.access.lanes_first ? item % kParts : item / loads;
    const int32_t cell = (term.access.lanes_first ? item / kParts : item % loads) * kLoadCells;
    const int32_t lane = part * kLoadLanes;
    const int64_t step = kLanes * latent.channel_stride;
    int64_t at = cell_offset(latent, image, stage, first + cell) + lane * latent.channel_stride;
    double product[kWidth];
    int32_t exponent[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      product[v] = 1.0;
      exponent[v] = 0;
    }
    for (int64_t channel = lane; channel < latent.channels; channel += kAhead * kGroup * kLanes) {
      Pack<T, kWidth> values[kAhead * kGroup];
      for (int k = 0; k < kAhead * kGroup; ++k) {
        const bool there = channel + k * kLanes < latent.channels;
        values[k] = there ? ctx.template load<kWidth>(likelihoods, at) : pack_of_ones<T, kWidth>();
        at += step;
      }
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        for (int v = 0; v < kWidth; ++v) {
          double group = factor(values[ahead * kGroup].value[v]);
          for (int k = 1; k < kGroup; ++k) group = group * factor(values[ahead * kGroup + k].value[v]);
          product[v] = product[v] * group;
          int64_t power = -1023;
          rebase(product[v], power);
          exponent[v] += int32_t(power);
        }
      }
    }
    for (int v = 0; v < kWidth; ++v) {
      const int32_t slot = kAcrossLanes ? (lane + v) * p.lane_cells + cell : lane * p.lane_cells + cell + v;
      put(ctx, p.product, slot, product[v]);
      put(ctx, p.exponent, slot, exponent[v]);
    }
  }
}

// Step 1 for float64 likelihoods, whose logarithms are summed.
template <typename Ctx>
BITRATE_HD void add_lanes(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t image, const Stage& stage,
                          int32_t first, int32_t count) {
  const Latent& latent = term.latent;
  const double* likelihoods = static_cast<const double*>(latent.data);
  for (int32_t item = ctx.thread(); item < count * kLanes; item += ctx.threads()) {
    const int32_t lane = item % kLanes, cell = item / kLanes;
    const int64_t at = cell_offset(latent, image, stage, first + cell);
    CompensatedSum bits;
    for (int64_t channel = lane; channel < latent.channels; channel += kLanes) {
      bits.add(likelihood_bits(read(ctx, likelihoods, at + channel * latent.channel_stride)));
    }
    put(ctx, p.product, lane * p.lane_cells + cell, bits.value());
  }
}

template <typename T, typename Ctx>
BITRATE_HD void multiply_lanes(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t image, const Stage& stage,
                               int32_t first, int32_t count) {
  if constexpr (std::is_same_v<T, double>) {
    add_lanes(ctx, p, term, image, stage, first, count);
  } else if (term.access.width == 1) {
    multiply_lanes<T, 1, false>(ctx, p, term, image, stage, first, count);
  } else if (term.access.across_lanes) {
    multiply_lanes<T, 4, true>(ctx, p, term, image, stage, first, count);
  } else {
    multiply_lanes<T, 4, false>(ctx, p, term, image, stage, first, count);
  }
}

// Step 2 for cells [first, first + count) of a stage.
template <typename Ctx>
BITRATE_HD void combine_lanes(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t first, int32_t count) {
  for (int32_t cell = ctx.thread(); cell < count; cell += ctx.threads()) {
    double bits;
    if (term.latent.dtype == DType::Float64) {
      CompensatedSum sum;
      for (int32_t lane = 0; lane < kLanes; ++lane) sum.add(get(ctx, p.product, lane * p.lane_cells + cell));
      bits = sum.value();
    } else {
      double product = 1.0;
      int64_t exponent = 0;
      for (int32_t lane = 0; lane < kLanes; ++lane) {
        product = product * get(ctx, p.product, lane * p.lane_cells + cell);
        exponent += get(ctx, p.exponent, lane * p.lane_cells + cell);
      }
      bits = bits_of(product, exponent, 0);
    }
    put(ctx, p.cells, first + cell, bits);
  }
}

// Step 2 for bits that are given: without lanes, and without step 1.
template <typename T, typename Ctx>
BITRATE_HD void read_bits(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t image, const Stage& stage,
                          int32_t first, int32_t count) {
  const T* bits = static_cast<const T*>(term.latent.data);
  for (int32_t cell = ctx.thread(); cell < count; cell += ctx.threads()) {
    const int64_t at = cell_offset(term.latent, image, stage, first + cell);
    put(ctx, p.cells, first + cell, to_double(read(ctx, bits, at)));
  }
}

// Steps 1 and 2: the bits of a stage's cells; barriers inside.
template <typename Ctx>
BITRATE_HD void sum_cells(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, int32_t image, const Stage& stage) {
  const int32_t cells = stage.rows * stage.columns;
  for (int32_t first = 0; first < cells; first += p.lane_cells) {
    const int32_t count = min_of(p.lane_cells, cells - first);
    if (term.latent.source == Source::Likelihoods) {
      visit(term.latent.dtype, [&](auto type) { multiply_lanes<decltype(type)>(ctx, p, term, image, stage, first, count); });
    }
    ctx.barrier();  // the cells of the round before have been spread, too
    if (term.latent.source == Source::Likelihoods) {
      combine_lanes(ctx, p, term, first, count);
    } else {
      visit(term.latent.dtype, [&](auto type) { read_bits<decltype(type)>(ctx, p, term, image, stage, first, count); });
    }
    ctx.barrier();
  }
}

}  // namespace bitrate
