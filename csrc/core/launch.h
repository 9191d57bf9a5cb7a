// What a launch of the GPU kernels carries: tensors, tiles, and where things lie in a block's shared memory. Made by plan.h.
#pragma once

#include "context.h"
#include "tensors.h"

namespace bitrate {

// Parameters of a kernel live in 4 KB of constant memory.
constexpr int kMaxTerms = 20;

// Tile t of an axis covers [t * size - shift, (t + 1) * size - shift), as far as it lies inside the axis.
struct Tiles {
  int32_t count, size, shift;
};

BITRATE_HD Span tile_span(const Tiles& tiles, int32_t tile, int32_t length) {
  const int32_t begin = tile * tiles.size - tiles.shift;
  return {max_of(begin, 0), min_of(begin + tiles.size, length)};
}

// A block of the grid: tiles of one image, columns first.
struct TileIndex {
  int32_t image, row, column;
};

BITRATE_HD TileIndex tile_index(int32_t block, const Tiles& rows, const Tiles& columns) {
  const int32_t row = block / columns.count;
  return {row / rows.count, row % rows.count, block % columns.count};
}

template <typename Ctx>
BITRATE_HD Span columns_read(Ctx& ctx, const Band& band, bool sorted, Span rows) {
  return columns_read(band, sorted, read(ctx, band.start, rows.begin), read(ctx, band.start, rows.end - 1));
}

// How the threads of a block read a latent.
struct Access {
  int32_t width;      // elements a load: 1 or 4
  bool across_lanes;  // they are channels of one cell, else cells of one channel
  bool lanes_first;   // neighbouring threads take neighbouring lanes of a cell, else neighbouring cells
};

struct ProjectTerm {
  Latent latent;
  Band rows, columns;
  bool rows_sorted, columns_sorted;
  Access access;
  int32_t stage_rows, stage_columns;  // cells that are worked on at once
  Shared<double> spread;              // [stage_rows, columns.size], see `spread_slot`
};

struct ProjectParams {
  ProjectTerm terms[kMaxTerms];
  int32_t height, width;
  void* map;
  Guide guide;          // of a float32 map
  Tiles rows, columns;  // of pixels
  int32_t count;        // of terms
  int32_t lane_cells;   // cells whose lanes shared memory holds at once
  bool map_is_double;
  bool wide_stores;          // rows of the map start at multiples of 16 bytes
  bool wide_guide;           // and those of the guide
  bool whole;                // each term's cells of a tile fit in one stage, and the stages side by side
  Shared<double> product;    // [kLanes, lane_cells]
  Shared<int32_t> exponent;  // [kLanes, lane_cells]
  Shared<double> cells;      // [stage_rows, stage_columns] of one term
  Shared<double> partial;    // [kSide * kSide, blocks of a tile], unless `whole`

  void set_guide(const Guide& given) {
    guide = given;
    wide_guide = reinterpret_cast<uintptr_t>(given.data) % 16 == 0 && width % 4 == 0 && given.row_stride % 4 == 0 &&
                 given.batch_stride % 4 == 0;
  }
};
static_assert(sizeof(ProjectParams) <= 4096, "too large for kernel parameters");

struct BackwardParams {
  GradientTerm term;
  bool columns_sorted;
  Image<const void> grad;
  Tiles rows, columns;   // of cells
  int32_t chunk;         // pixel columns that are worked on at once
  int32_t width;         // elements a load of likelihoods and a store of the gradient: 1 or 4
  bool channels_first;   // they, and the items of neighbouring threads, are channels of one cell, else cells of one channel
  Shared<double> sums;   // [rows.size, chunk]
  Shared<double> cells;  // [rows.size, columns.size]
};

// A planned launch.
template <typename Params>
struct Launch {
  Params params;
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

}  // namespace bitrate
