// Forward, as one thread of a block does it. A block makes a tile of the map:
//   1, 2. cells: the bits of each cell that the tile reads (cell_sums.h);
//   3. spread: each cell row is spread over the tile's pixel columns;
//   4. pixels: each thread sums the spread rows of kSide x kSide pixels, term after term, multiplies them by the guide,
//      where there is one, and rounds once.
// Between the steps lie barriers and shared memory. Where a tile's cells do not fit (very wide bands), stages of them are
// worked off one by one and the pixels' sums wait in shared memory; the order of additions stays the same.
#pragma once

#include "cell_sums.h"

namespace bitrate {

// A thread's block of pixels has this many rows and columns.
constexpr int32_t kSide = 4;

// Place of a tile's pixel column in a spread row: of each four, the first two lie in the first half of the row and the
// others in the second, so that threads that read two at a time use all banks of shared memory.
BITRATE_HD int32_t spread_slot(int32_t column, int32_t size) {
  return column / 4 * 2 + column % 2 + (column % 4 < 2 ? 0 : size / 2);
}

// Step 3: spread rows of a stage over the tile's pixel columns, going on from the columns of cells before it.
template <typename Ctx>
BITRATE_HD void spread_cells(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, const Stage& stage, int32_t origin,
                             Span pixels, bool accumulate) {
  const Band& band = term.columns;
  const int32_t size = p.columns.size, items = stage.rows * size;
  for (int32_t item = ctx.thread(); item < items; item += ctx.threads()) {
    const int32_t row = item / size, column = item % size, x = origin + column;
    const int32_t slot = row * size + spread_slot(column, size);
    double sum = accumulate ? get(ctx, term.spread, slot) : 0.0;
    if (x >= pixels.begin && x < pixels.end) {
      const int32_t start = read(ctx, band.start, x);
      const int32_t end = min_of(int32_t(band.taps), stage.column + stage.columns - start);
      for (int32_t t = max_of(0, stage.column - start); t < end; ++t) {
        const double bits = get(ctx, p.cells, row * stage.columns + start + t - stage.column);
        sum = tap<Arithmetic<double>>(sum, read(ctx, band.weight, t * band.rows + x), bits);
      }
    }
    put(ctx, term.spread, slot, sum);
  }
}

// Step 4 for one term: spread rows `cells` added to the pixels from column `column` of the tile and row y of the map on.
template <typename Ctx>
BITRATE_HD void add_rows(Ctx& ctx, const ProjectParams& p, const ProjectTerm& term, Span cells, int32_t column, int32_t y,
                         int32_t end, double (&sums)[kSide][kSide]) {
  const Band& band = term.rows;
  const int32_t taps = int32_t(band.taps), size = p.columns.size, first = cells.begin, past = cells.end;
  int32_t start[kSide], low = past, high = first;
  for (int r = 0; r < kSide; ++r) {
    start[r] = past;  // a row outside has no taps
    if (y + r < end) {
      start[r] = read(ctx, band.start, y + r);
      low = min_of(low, start[r]);
      high = max_of(high, start[r] + taps);
    }
  }
  high = min_of(high, past);
  for (int32_t row = max_of(low, first); row < high; ++row) {
    const int32_t at = (row - first) * size + spread_slot(column, size);
    const Pack<double, 2> left = ctx.template get<2>(term.spread, at);
    const Pack<double, 2> right = ctx.template get<2>(term.spread, at + size / 2);
    const double values[kSide] = {left.value[0], left.value[1], right.value[0], right.value[1]};
    double weights[kSide];  // loaded together; zero is no tap
    for (int r = 0; r < kSide; ++r) {
      const int32_t t = row - start[r];
      weights[r] = t >= 0 && t < taps ? read(ctx, band.weight, t * band.rows + y + r) : 0.0;
    }
    for (int r = 0; r < kSide; ++r) {
      for (int v = 0; v < kSide; ++v) sums[r][v] = tap<Arithmetic<double>>(sums[r][v], weights[r], values[v]);
    }
  }
}

// A thread's pixels times the guide's, which are loaded as the map is stored.
template <typename Ctx>
BITRATE_HD void multiply_pixels(Ctx& ctx, const ProjectParams& p, int32_t image, Span rows, int32_t x, int32_t y,
                                int32_t end, double (&sums)[kSide][kSide]) {
  for (int r = 0; r < kSide; ++r) {
    if (y + r >= rows.end) break;
    const int64_t at = image * p.guide.batch_stride + int64_t(y + r) * p.guide.row_stride + x;
    if (p.wide_guide) {
      const Pack<float, kSide> values = ctx.template load<kSide>(p.guide.data, at);
      for (int v = 0; v < kSide; ++v) sums[r][v] = sums[r][v] * double(values.value[v]);
    } else {
      for (int v = 0; v < kSide; ++v) {
        if (x + v < end) sums[r][v] = sums[r][v] * double(read(ctx, p.guide.data, at + v));
      }
    }
  }
}

template <typename T, typename Ctx>
BITRATE_HD void store_pixels(Ctx& ctx, const ProjectParams& p, int32_t image, Span rows, int32_t x, int32_t y, int32_t end,
                             const double (&sums)[kSide][kSide]) {
  constexpr int kWidth = 16 / sizeof(T);
  T* map = static_cast<T*>(p.map);
  for (int r = 0; r < kSide; ++r) {
    if (y + r >= rows.end) break;
    const int64_t at = (int64_t(image) * p.height + y + r) * p.width + x;
    if (p.wide_stores) {
      for (int v = 0; v < kSide; v += kWidth) {
        Pack<T, kWidth> pixels;
        for (int k = 0; k < kWidth; ++k) pixels.value[k] = Rounded<T>::from(sums[r][v + k]);
        ctx.store(map, at + v, pixels);
      }
    } else {
      for (int v = 0; v < kSide; ++v) {
        if (x + v < end) ctx.store(map, at + v, Pack<T, 1>{{Rounded<T>::from(sums[r][v])}});
      }
    }
  }
}

template <typename Ctx>
BITRATE_HD void project_tile(Ctx& ctx, const ProjectParams& p) {
  const TileIndex tile = tile_index(ctx.block(), p.rows, p.columns);
  const int32_t top = tile.row * p.rows.size - p.rows.shift, left = tile.column * p.columns.size - p.columns.shift;
  const Span rows = tile_span(p.rows, tile.row, p.height), columns = tile_span(p.columns, tile.column, p.width);
  const int32_t across = p.columns.size / kSide, blocks = p.rows.size / kSide * across;
  // Runs body(block, its column in the tile, its first row in the map) for this thread's blocks of pixels.
  const auto for_blocks = [&](const auto& body) {
    for (int32_t block = ctx.thread(); block < blocks; block += ctx.threads()) {
      const int32_t column = block % across * kSide;
      const int32_t y = top + block / across * kSide;
      if (y >= rows.begin && y < rows.end && left + column >= columns.begin && left + column < columns.end) {
        body(block, column, y);
      }
    }
  };
  if (!p.whole) {
    for_blocks([&](int32_t block, int32_t, int32_t) {
      for (int k = 0; k < kSide * kSide; ++k) put(ctx, p.partial, k * blocks + block, 0.0);
    });
  }
  for (int32_t k = 0; k < p.count; ++k) {
    const ProjectTerm& term = p.terms[k];
    const Span cell_rows = columns_read(ctx, term.rows, term.rows_sorted, rows);
    Span cell_columns = columns_read(ctx, term.columns, term.columns_sorted, columns);
    if (!term.access.across_lanes) {  // whole loads; a row of cells is a multiple of them
      cell_columns.begin -= cell_columns.begin % term.access.width;
      cell_columns.end += (term.access.width - cell_columns.end % term.access.width) % term.access.width;
    }
    for (int32_t row = cell_rows.begin; row < cell_rows.end; row += term.stage_rows) {
      Stage stage{row, 0, min_of(term.stage_rows, cell_rows.end - row), 0};
      for (int32_t column = cell_columns.begin; column < cell_columns.end; column += term.stage_columns) {
        stage.column = column;
        stage.columns = min_of(term.stage_columns, cell_columns.end - column);
        sum_cells(ctx, p, term, tile.image, stage);
        spread_cells(ctx, p, term, stage, left, columns, column > cell_columns.begin);
      }
      ctx.barrier();
      if (!p.whole) {
        for_blocks([&](int32_t block, int32_t column, int32_t y) {
          double sums[kSide][kSide];
          for (int i = 0; i < kSide * kSide; ++i) sums[i / kSide][i % kSide] = get(ctx, p.partial, i * blocks + block);
          add_rows(ctx, p, term, {row, row + stage.rows}, column, y, rows.end, sums);
          for (int i = 0; i < kSide * kSide; ++i) put(ctx, p.partial, i * blocks + block, sums[i / kSide][i % kSide]);
        });
      }
    }
  }
  for_blocks([&](int32_t block, int32_t column, int32_t y) {
    double sums[kSide][kSide] = {};
    if (p.whole) {
      for (int32_t k = 0; k < p.count; ++k) {
        const ProjectTerm& term = p.terms[k];
        const Span cells = columns_read(ctx, term.rows, term.rows_sorted, rows);
        add_rows(ctx, p, term, cells, column, y, rows.end, sums);
      }
    } else {
      for (int i = 0; i < kSide * kSide; ++i) sums[i / kSide][i % kSide] = get(ctx, p.partial, i * blocks + block);
    }
    if (p.guide.data != nullptr) multiply_pixels(ctx, p, tile.image, rows, left + column, y, columns.end, sums);
    if (p.map_is_double) {
      store_pixels<double>(ctx, p, tile.image, rows, left + column, y, columns.end, sums);
    } else {
      store_pixels<float>(ctx, p, tile.image, rows, left + column, y, columns.end, sums);
    }
  });
}

}  // namespace bitrate
