// The guide of a picture, as one thread of a block does it. A block makes a tile of pixels, in shared memory:
//   1. light: luminance, with the reach around the tile; beyond the picture's borders its nearest pixel;
//   2. energy and texture of each pixel, beyond the borders as they end;
//   3. near: energy summed over 3 x 3 pixels;
//   4. the guide, of those at the pixel and, three apart, around it.
#pragma once

#include "guide.h"
#include "plan.h"

namespace bitrate {

constexpr int32_t kGuideRows = 16, kGuideColumns = 64;  // of a tile

// A rectangle of floats in shared memory that goes `beside` pixels beyond a tile, each way.
template <int32_t kBeside, int32_t kFirst>
struct TileArray {
  static constexpr int32_t beside = kBeside;
  static constexpr int32_t rows = kGuideRows + 2 * kBeside, columns = kGuideColumns + 2 * kBeside;
  static constexpr int32_t end = kFirst + rows * columns;  // floats
  static constexpr Shared<float> array{kFirst * int32_t(sizeof(float))};

  // The value at a row and column of the tile.
  template <typename Ctx>
  static BITRATE_HD float get(Ctx& ctx, int32_t row, int32_t column) {
    return bitrate::get(ctx, array, (row + kBeside) * columns + column + kBeside);
  }
};

using LightTile = TileArray<kGuideReach, 0>;
using EnergyTile = TileArray<kGuideReach - 1, LightTile::end>;
using TextureTile = TileArray<1, EnergyTile::end>;
using NearTile = TileArray<3, TextureTile::end>;

struct GuideParams {
  Picture picture;
  GuideWeights weights;
  const float* phases;  // [phase_rows, phase_columns]
  int32_t phase_rows, phase_columns;
  float* guide;  // [batch, height, width]
  Tiles rows, columns;
};

// Calls made(row, column) of the tile for each element of an array, and puts what it returns there.
template <typename Array, typename Ctx, typename Made>
BITRATE_HD void fill(Ctx& ctx, const Made& made) {
  for (int32_t item = ctx.thread(); item < Array::rows * Array::columns; item += ctx.threads()) {
    put(ctx, Array::array, item, made(item / Array::columns - Array::beside, item % Array::columns - Array::beside));
  }
}

// Sums of three down a column, three columns `apart`.
template <typename Array, typename Ctx>
BITRATE_HD float sum9(Ctx& ctx, int32_t row, int32_t column, int32_t apart) {
  float sums[3];
  for (int32_t k = 0; k < 3; ++k) {
    const int32_t x = column + (k - 1) * apart;
    sums[k] = sum3(Array::get(ctx, row - apart, x), Array::get(ctx, row, x), Array::get(ctx, row + apart, x));
  }
  return sum3(sums[0], sums[1], sums[2]);
}

template <typename T, typename Ctx>
BITRATE_HD float light_at(Ctx& ctx, const Picture& p, float share, int64_t first) {
  const T* from = static_cast<const T*>(p.data);
  const auto channel = [&](int64_t c) { return to_single(read(ctx, from, first + c * p.channel_stride)); };
  if (p.channels == 3) return luminance(channel(0), channel(1), channel(2));
  float sum = clamped(channel(0));
  for (int64_t c = 1; c < p.channels; ++c) sum = sum + clamped(channel(c));
  return sum * share;
}

template <typename Ctx>
BITRATE_HD void make_guide_tile(Ctx& ctx, const GuideParams& p) {
  const TileIndex tile = tile_index(ctx.block(), p.rows, p.columns);
  const int32_t height = int32_t(p.picture.height), width = int32_t(p.picture.width);
  const int32_t top = tile.row * kGuideRows, left = tile.column * kGuideColumns;
  // The row or column of the tile that is the nearest inside the picture.
  const auto row_inside = [&](int32_t row) { return max_of(0, min_of(height - 1, top + row)) - top; };
  const auto column_inside = [&](int32_t column) { return max_of(0, min_of(width - 1, left + column)) - left; };
  visit(p.picture.dtype, [&](auto type) {
    fill<LightTile>(ctx, [&](int32_t row, int32_t column) {
      const int64_t y = top + row_inside(row), x = left + column_inside(column);
      return light_at<decltype(type)>(
          ctx, p.picture, p.weights.channel,
          tile.image * p.picture.batch_stride + y * p.picture.row_stride + x * p.picture.column_stride);
    });
  });
  ctx.barrier();
  fill<EnergyTile>(ctx, [&](int32_t row, int32_t column) {
    const int32_t y = row_inside(row), x = column_inside(column);
    return energy(LightTile::get(ctx, y, x - 1), LightTile::get(ctx, y, x + 1), LightTile::get(ctx, y - 1, x),
                  LightTile::get(ctx, y + 1, x));
  });
  fill<TextureTile>(ctx, [&](int32_t row, int32_t column) {
    const int32_t y = row_inside(row), x = column_inside(column);
    return texture(LightTile::get(ctx, y, x), sum9<LightTile>(ctx, y, x, 1));
  });
  ctx.barrier();
  fill<NearTile>(ctx, [&](int32_t row, int32_t column) { return sum9<EnergyTile>(ctx, row, column, 1); });
  ctx.barrier();
  for (int32_t item = ctx.thread(); item < kGuideRows * kGuideColumns; item += ctx.threads()) {
    const int32_t row = item / kGuideColumns, column = item % kGuideColumns, y = top + row, x = left + column;
    if (y >= height || x >= width) continue;
    const float phase = read(ctx, p.phases, y % p.phase_rows * p.phase_columns + x % p.phase_columns);
    const float made =
        guide_of(p.weights, NearTile::get(ctx, row, column), sum9<NearTile>(ctx, row, column, 3),
                 sum9<TextureTile>(ctx, row, column, 1), LightTile::get(ctx, row, column), place_exponent(p.weights, phase));
    ctx.store(p.guide, (int64_t(tile.image) * height + y) * width + x, Pack<float, 1>{{made}});
  }
}

// `threads` of a block; 0: as many as there may be.
inline Launch<GuideParams> plan_guide(const Picture& picture, const GuideWeights& weights, const float* phases,
                                      int64_t phase_rows, int64_t phase_columns, float* guide, int threads) {
  planning::check(std::max({picture.height, picture.width, phase_rows * phase_columns}) <= kLongestAxis,
                  "pictures must be at most " + std::to_string(kLongestAxis) + " long each way on a GPU, got " +
                      std::to_string(picture.height) + " x " + std::to_string(picture.width));
  const Tiles rows = planning::make_tiles(picture.height, kGuideRows, 0),
              columns = planning::make_tiles(picture.width, kGuideColumns, 0);
  const int64_t tiles = int64_t(rows.count) * columns.count;
  planning::check(picture.batch <= kMostBlocks / tiles, "pictures have too many pixels for one launch on a GPU");
  return {{picture, weights, phases, int32_t(phase_rows), int32_t(phase_columns), guide, rows, columns},
          picture.batch * tiles,
          threads != 0 ? threads : kThreads,
          NearTile::end * int64_t(sizeof(float))};
}

}  // namespace bitrate
