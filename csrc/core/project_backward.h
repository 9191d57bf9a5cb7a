// Backward, as one thread of a block does it. A block makes the gradients of a tile of cells, all channels:
//   1. sums: for each row of cells, the map gradient's rows that it reached, summed for each pixel column;
//   2. cells: those sums over the pixel columns that a cell reached, times -1 / ln 2 where it has likelihoods;
//   3. quotients: that over each likelihood. Bits have their cell's as it is.
// A gather: nothing is added to by two threads. Steps 1 and 2 work off the pixel columns in chunks that fit in shared
// memory.
#pragma once

#include <type_traits>

#include "bits.h"
#include "launch.h"

namespace bitrate {

// Step 1 for pixel columns [chunk.begin, chunk.end).
template <typename T, typename Ctx>
BITRATE_HD void sum_pixel_rows(Ctx& ctx, const BackwardParams& p, int32_t image, Span rows, Span chunk) {
  constexpr int32_t kAhead = 8;  // loads in flight together
  const Band& band = p.term.rows;
  const T* grad = static_cast<const T*>(p.grad.data) + int64_t(image) * p.grad.height * p.grad.width;
  const int32_t columns = chunk.end - chunk.begin, items = (rows.end - rows.begin) * columns;
  for (int32_t item = ctx.thread(); item < items; item += ctx.threads()) {
    const int32_t row = item / columns, column = item % columns, cell_row = rows.begin + row;
    int64_t at = read(ctx, band.start, cell_row) * p.grad.width + chunk.begin + column;
    double sum = 0.0;
    const int32_t taps = int32_t(band.taps);
    for (int32_t first = 0; first < taps; first += kAhead) {
      T values[kAhead];
      double weights[kAhead];
      for (int k = 0; k < kAhead; ++k) {
        const bool there = first + k < taps;
        values[k] = there ? read(ctx, grad, at) : T(0);
        weights[k] = there ? read(ctx, band.weight, (first + k) * band.rows + cell_row) : 0.0;  // zero is no tap
        at += p.grad.width;
      }
      for (int k = 0; k < kAhead; ++k) sum = tap<Arithmetic<double>>(sum, weights[k], double(values[k]));
    }
    put(ctx, p.sums, row * p.chunk + column, sum);
  }
}

// Step 2 for pixel columns [chunk.begin, chunk.end), from the left one to the right one.
template <typename Ctx>
BITRATE_HD void sum_pixel_columns(Ctx& ctx, const BackwardParams& p, Span rows, Span columns, Span chunk, bool first,
                                  bool last) {
  const Band& band = p.term.columns;
  const int32_t across = columns.end - columns.begin, items = (rows.end - rows.begin) * across;
  for (int32_t item = ctx.thread(); item < items; item += ctx.threads()) {
    const int32_t row = item / across, cell = columns.begin + item % across;
    const int32_t start = read(ctx, band.start, cell);
    const int32_t end = min_of(int32_t(band.taps), chunk.end - start);
    double sum = first ? 0.0 : get(ctx, p.cells, item);
    for (int32_t t = max_of(0, chunk.begin - start); t < end; ++t) {
      const double value = get(ctx, p.sums, row * p.chunk + start + t - chunk.begin);
      sum = tap<Arithmetic<double>>(sum, read(ctx, band.weight, t * band.rows + cell), value);
    }
    put(ctx, p.cells, item, last ? shared_gradient(p.term.latent.source, sum) : sum);
  }
}

// Step 3. A load and a store are kWidth cells of a channel, or kWidth channels of a cell.
template <typename T, int kWidth, typename Ctx>
BITRATE_HD void divide(Ctx& ctx, const BackwardParams& p, int32_t image, Span rows, Span columns) {
  constexpr int32_t kAhead = 2;  // loads in flight together
  const GradientTerm& term = p.term;
  const Latent& latent = term.latent;
  const T* likelihoods = static_cast<const T*>(latent.data) + image * latent.batch_stride;
  T* gradient = static_cast<T*>(term.gradient) + image * term.batch_stride;
  const int32_t across = columns.end - columns.begin, cells = (rows.end - rows.begin) * across;
  const int32_t channels = int32_t(latent.channels);  // few enough for 32 bits: see plan.h
  const int32_t fast = p.channels_first ? channels / kWidth : cells / kWidth;
  const int32_t items = fast * (p.channels_first ? cells : channels);
  for (int32_t first = ctx.thread(); first < items; first += kAhead * ctx.threads()) {
    Pack<T, kWidth> values[kAhead];
    int32_t cell[kAhead];
    int64_t to[kAhead];
    for (int k = 0; k < kAhead; ++k) {
      const int32_t item = first + k * ctx.threads();
      if (item >= items) break;
      cell[k] = p.channels_first ? item / fast : item % fast * kWidth;
      const int64_t channel = p.channels_first ? item % fast * kWidth : item / fast;
      const int32_t row = rows.begin + cell[k] / across, column = columns.begin + cell[k] % across;
      values[k] = ctx.template load<kWidth>(
          likelihoods, channel * latent.channel_stride + row * latent.row_stride + column * latent.cell_stride);
      to[k] = channel * term.channel_stride + row * term.row_stride + column * term.cell_stride;
    }
    for (int k = 0; k < kAhead; ++k) {
      if (first + k * ctx.threads() >= items) break;
      for (int v = 0; v < kWidth; ++v) {
        const double shared = get(ctx, p.cells, p.channels_first ? cell[k] : cell[k] + v);
        values[k].value[v] = Rounded<T>::from(shared / to_double(values[k].value[v]));
      }
      ctx.store(gradient, to[k], values[k]);
    }
  }
}

// Step 3 for bits.
template <typename T, typename Ctx>
BITRATE_HD void store_cells(Ctx& ctx, const BackwardParams& p, int32_t image, Span rows, Span columns) {
  const GradientTerm& term = p.term;
  T* gradient = static_cast<T*>(term.gradient) + image * term.batch_stride;
  const int32_t across = columns.end - columns.begin, cells = (rows.end - rows.begin) * across;
  for (int32_t cell = ctx.thread(); cell < cells; cell += ctx.threads()) {
    const int32_t row = rows.begin + cell / across, column = columns.begin + cell % across;
    const Pack<T, 1> value{{Rounded<T>::from(get(ctx, p.cells, cell))}};
    ctx.store(gradient, row * term.row_stride + column * term.cell_stride, value);
  }
}

template <typename T, typename Ctx>
BITRATE_HD void divide(Ctx& ctx, const BackwardParams& p, int32_t image, Span rows, Span columns) {
  if constexpr (std::is_same_v<T, double>) {
    divide<T, 1>(ctx, p, image, rows, columns);
  } else if (p.width == 1) {
    divide<T, 1>(ctx, p, image, rows, columns);
  } else {
    divide<T, 4>(ctx, p, image, rows, columns);
  }
}

template <typename Ctx>
BITRATE_HD void project_tile_backward(Ctx& ctx, const BackwardParams& p) {
  const TileIndex tile = tile_index(ctx.block(), p.rows, p.columns);
  const Latent& latent = p.term.latent;
  const Span rows = tile_span(p.rows, tile.row, int32_t(latent.h)),
             columns = tile_span(p.columns, tile.column, int32_t(latent.w));
  const Span pixels = columns_read(ctx, p.term.columns, p.columns_sorted, columns);
  int32_t begin = pixels.begin;
  do {
    const Span chunk{begin, min_of(begin + p.chunk, pixels.end)};
    if (p.grad.is_double) {
      sum_pixel_rows<double>(ctx, p, tile.image, rows, chunk);
    } else {
      sum_pixel_rows<float>(ctx, p, tile.image, rows, chunk);
    }
    ctx.barrier();
    sum_pixel_columns(ctx, p, rows, columns, chunk, begin == pixels.begin, chunk.end == pixels.end);
    ctx.barrier();
    begin += p.chunk;
  } while (begin < pixels.end);
  visit(latent.dtype, [&](auto type) {
    if (latent.source == Source::Likelihoods) {
      divide<decltype(type)>(ctx, p, tile.image, rows, columns);
    } else {
      store_cells<decltype(type)>(ctx, p, tile.image, rows, columns);
    }
  });
}

}  // namespace bitrate
