// Cuts a call into blocks of the GPU kernels, on the host. Every plan gives the same bytes; this one is to be the fastest.
//
// What is weighed is bytes: a tile's likelihoods, in whole sectors and with what neighbouring tiles read too, and its
// pixels. Large tiles read little twice, small ones fill the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "launch.h"
#include "project.h"

namespace bitrate {

// A latent with its bands, whose starts the host can read as well.
struct PlannedTerm {
  Latent latent;
  Band rows, columns;
  const int32_t *row_starts, *column_starts;

  bool has_cells() const { return rows.taps > 0 && columns.taps > 0; }
};

struct PlannedGradient {
  GradientTerm term;
  const int32_t *row_starts, *column_starts;
};

struct DeviceLimits {
  int64_t multiprocessors;
  int64_t shared_bytes = 48 << 10;  // a block's, without asking for more
};

// For tests and trials: zero leaves the choice to the plan.
struct LaunchOverrides {
  int threads = 0;  // a block's
  int32_t tile_rows = 0, tile_columns = 0;
  int32_t width = 0;  // elements a load
};

constexpr int kThreads = 256;                                // cuda/kernels.cu is compiled for at most as many
constexpr int32_t kStageCells = 256;                         // cells whose lanes are kept at once
constexpr int64_t kLongestAxis = (int64_t(1) << 31) - 1024;  // a tile's end still fits in 32 bits
constexpr int64_t kMostChannels = int64_t(1) << 22;          // items of a tile, and exponents, still fit in 32 bits
constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;      // of a grid
constexpr int64_t kSectorBytes = 32;                         // what memory gives at least
constexpr int64_t kRoundPrice = 8 << 10;                     // bytes that a multiprocessor could move while its blocks start
constexpr int64_t kResident = 2;                             // blocks on a multiprocessor: see cuda/kernels.cu
constexpr int32_t kTileRows[] = {16, 32, 64, 128}, kTileColumns[] = {64, 128, 256, 512};
constexpr int32_t kGradientRows[] = {1, 2, 4, 8}, kGradientColumns[] = {4, 8, 16, 32};

namespace planning {

inline void check(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

inline void check_sizes(const Latent& latent, int64_t height, int64_t width) {
  check(std::max({height, width, latent.h, latent.w}) <= kLongestAxis,
        "maps and latents must be at most " + std::to_string(kLongestAxis) + " long each way on a GPU, got a map of " +
            std::to_string(height) + " x " + std::to_string(width) + " and a latent of " + std::to_string(latent.h) + " x " +
            std::to_string(latent.w));
  check(latent.channels <= kMostChannels, "likelihoods must have at most " + std::to_string(kMostChannels) +
                                              " channels on a GPU, got " + std::to_string(latent.channels));
}

// A band whose starts the host can read; `sorted`: they never fall.
struct HostBand {
  Band band;
  bool sorted;
};

inline HostBand host_band(Band band, const int32_t* start) {
  band.start = start;
  return {band, std::is_sorted(start, start + band.rows)};
}

// Where tiles should begin, so that they share few columns of the band: where its starts change, if that is regular.
inline int32_t best_shift(const HostBand& host) {
  const Band& band = host.band;
  int64_t change[2] = {0, 0};
  int found = 0;
  for (int64_t r = 1; r < band.rows && found < 2; ++r) {
    if (band.start[r] != band.start[r - 1]) change[found++] = r;
  }
  if (found < 2 || !host.sorted) return 0;
  const int64_t period = change[1] - change[0], shift = (period - change[0] % period) % period;
  return shift % kSide == 0 && shift < kTileRows[0] ? int32_t(shift) : 0;
}

inline Tiles make_tiles(int64_t length, int32_t size, int32_t shift) {
  shift %= size;  // no tile may lie before the first pixel
  return {int32_t(divide_up(length + shift, size)), size, shift};
}

// Columns of a band that the tiles of its rows read: the most, in whole loads, and the sum over tiles, in whole sectors.
struct Reach {
  int64_t most_loaded = 0, sum = 0;
};

inline Reach reach(const HostBand& host, const Tiles& tiles, int64_t load = 1, int64_t sector = 1) {
  Reach found;
  for (int32_t tile = 0; tile < tiles.count; ++tile) {
    const Span rows = tile_span(tiles, tile, int32_t(host.band.rows));
    const int32_t* start = host.band.start;
    const auto [begin, end] = columns_read(host.band, host.sorted, start[rows.begin], start[rows.end - 1]);
    found.most_loaded = std::max(found.most_loaded, round_up(end, load) - begin / load * load);
    found.sum += round_up(end, sector) - begin / sector * sector;
  }
  return found;
}

// Whether loads and stores of `width` elements are aligned: of channels (then their stride is one), or of cells.
inline bool aligned(const void* data, DType dtype, const Latent& latent, int64_t batch_stride, int64_t channel_stride,
                    int64_t row_stride, int64_t cell_stride, int64_t width, bool channels) {
  const auto whole = [&](int64_t size, int64_t stride) { return size <= 1 || stride % width == 0; };
  return reinterpret_cast<uintptr_t>(data) % (width * kElementSize[int(dtype)]) == 0 &&
         (channels ? channel_stride == 1 && latent.channels % width == 0 && whole(latent.w, cell_stride)
                   : cell_stride == 1 && latent.w % width == 0 && whole(latent.channels, channel_stride)) &&
         whole(latent.batch, batch_stride) && whole(latent.h, row_stride);
}

inline bool aligned(const Latent& l, int64_t width, bool channels) {
  return l.dtype != DType::Float64 && l.source == Source::Likelihoods &&
         aligned(l.data, l.dtype, l, l.batch_stride, l.channel_stride, l.row_stride, l.cell_stride, width, channels);
}

inline Access best_access(const Latent& latent, int32_t width) {
  const bool lanes_first = latent.channel_stride == 1 && latent.cell_stride != 1;
  if (width != 1 && aligned(latent, 4, lanes_first)) return {4, lanes_first, lanes_first};
  return {1, false, lanes_first};
}

// Hands out shared memory from the start of a block's.
struct SharedMemory {
  int64_t used = 0;

  template <typename T>
  Shared<T> take(int64_t count) {
    const Shared<T> array{int32_t(used)};
    used += round_up(count * int64_t(sizeof(T)), 16);
    return array;
  }
};

// One way to cut an axis of the map, and what each term's band then reads.
struct Cut {
  Tiles tiles;
  std::vector<Reach> reach;
};

// Chooses tiles, and lays the parameters' arrays out in shared memory; the bytes that they take. `whole`: the tile's cells
// at once, or else in stages.
inline int64_t lay_out(ProjectParams& p, const Cut& rows, const Cut& columns, bool whole) {
  p.rows = rows.tiles;
  p.columns = columns.tiles;
  p.whole = whole;
  constexpr int64_t kNever = int64_t(1) << 24;  // far more than there is
  int64_t cells = 0, lanes = 0;
  for (int32_t k = 0; k < p.count; ++k) {
    ProjectTerm& term = p.terms[k];
    int64_t stage_rows = rows.reach[k].most_loaded, stage_columns = columns.reach[k].most_loaded;
    if (!whole) {
      stage_columns = std::min<int64_t>(stage_columns, kStageCells);
      stage_rows = std::min<int64_t>({stage_rows, 8, std::max<int64_t>(1, kStageCells / stage_columns)});
    }
    if (stage_rows > kNever || stage_columns > kNever) return kNever;
    if (stage_rows * std::max<int64_t>(stage_columns, p.columns.size) > kNever) return kNever;
    term.stage_rows = int32_t(stage_rows);
    term.stage_columns = int32_t(stage_columns);
    cells = std::max(cells, stage_rows * stage_columns);
    lanes = std::min<int64_t>(cells, kStageCells);
  }
  p.lane_cells = int32_t(lanes);
  SharedMemory memory;
  p.product = memory.take<double>(kLanes * lanes);
  p.exponent = memory.take<int32_t>(kLanes * lanes);
  p.cells = memory.take<double>(cells);
  p.partial = memory.take<double>(whole ? 0 : int64_t(p.rows.size) * p.columns.size);
  const int64_t first_spread = memory.used;
  int64_t most_used = first_spread;
  for (int32_t k = 0; k < p.count; ++k) {
    if (!whole) memory.used = first_spread;  // stages of all terms follow each other in one place
    p.terms[k].spread = memory.take<double>(int64_t(p.terms[k].stage_rows) * p.columns.size);
    most_used = std::max(most_used, memory.used);
  }
  return most_used;
}

// What a launch of `blocks` blocks of so many bytes costs, in bytes that one multiprocessor moves meanwhile: its share of
// all; a last block, which moves at twice the pace once others are done; and the start of each round of resident blocks.
inline double cost(double blocks, double block_bytes, int64_t multiprocessors) {
  const double count = double(multiprocessors);
  return blocks * block_bytes / std::min(blocks, count) + block_bytes / 2.0 +
         double(kRoundPrice) * std::ceil(blocks / (kResident * count));
}

// Bytes that a block moves, on average.
inline double block_bytes(const ProjectParams& p, const Cut& rows, const Cut& columns) {
  const double tiles = double(rows.tiles.count) * columns.tiles.count;
  double bytes = double(p.height) * p.width * (p.map_is_double ? 8 : 4) / tiles;
  for (int32_t k = 0; k < p.count; ++k) {
    const Latent& latent = p.terms[k].latent;
    bytes += double(rows.reach[k].sum) * double(columns.reach[k].sum) / tiles * double(latent.channels) *
             double(kElementSize[int(latent.dtype)]);
  }
  return bytes;
}

}  // namespace planning

// A launch of `project_tile` for a map that is not empty.
inline Launch<ProjectParams> plan_project(const std::vector<PlannedTerm>& terms, const Image<void>& map, DeviceLimits device,
                                          LaunchOverrides overrides = {}) {
  using namespace planning;
  Launch<ProjectParams> launch{};
  ProjectParams& p = launch.params;
  p.map = map.data;
  p.map_is_double = map.is_double;
  p.height = int32_t(map.height);
  p.width = int32_t(map.width);
  p.wide_stores = reinterpret_cast<uintptr_t>(map.data) % 16 == 0 && map.width % kSide == 0;
  std::vector<HostBand> row_bands, column_bands;
  for (const PlannedTerm& term : terms) {
    check_sizes(term.latent, map.height, map.width);
    if (!term.has_cells()) continue;
    check(p.count < kMaxTerms,
          "a GPU adds at most " + std::to_string(kMaxTerms) + " latents in one launch, got " + std::to_string(terms.size()));
    row_bands.push_back(host_band(term.rows, term.row_starts));
    column_bands.push_back(host_band(term.columns, term.column_starts));
    ProjectTerm& planned = p.terms[p.count++];
    planned.latent = term.latent;
    planned.rows = term.rows;
    planned.columns = term.columns;
    planned.rows_sorted = row_bands.back().sorted;
    planned.columns_sorted = column_bands.back().sorted;
    planned.access = best_access(term.latent, overrides.width);
  }
  const auto cut_rows = [&](int32_t size) {
    Cut cut{make_tiles(map.height, size, p.count > 0 ? best_shift(row_bands[0]) : 0), {}};
    for (const HostBand& band : row_bands) cut.reach.push_back(reach(band, cut.tiles));
    return cut;
  };
  const auto cut_columns = [&](int32_t size) {
    Cut cut{make_tiles(map.width, size, p.count > 0 ? best_shift(column_bands[0]) : 0), {}};
    for (int32_t k = 0; k < p.count; ++k) {
      const Latent& latent = p.terms[k].latent;
      const int64_t load = p.terms[k].access.across_lanes ? 1 : p.terms[k].access.width;
      const int64_t sector = latent.cell_stride == 1 ? kSectorBytes / kElementSize[int(latent.dtype)] : 1;
      cut.reach.push_back(reach(column_bands[k], cut.tiles, load, sector));
    }
    return cut;
  };
  check(overrides.tile_rows >= 0 && overrides.tile_columns >= 0 && overrides.tile_rows % kSide == 0 &&
            overrides.tile_columns % kSide == 0,
        "tiles must be multiples of " + std::to_string(kSide) + " pixels, got " + std::to_string(overrides.tile_rows) +
            " x " + std::to_string(overrides.tile_columns));
  Cut rows = cut_rows(overrides.tile_rows != 0 ? overrides.tile_rows : kTileRows[0]);
  Cut columns = cut_columns(overrides.tile_columns != 0 ? overrides.tile_columns : kTileColumns[0]);
  if (overrides.tile_rows == 0) {
    std::vector<Cut> all_rows, all_columns;
    for (const int32_t size : kTileRows) all_rows.push_back(cut_rows(size));
    for (const int32_t size : kTileColumns) all_columns.push_back(cut_columns(size));
    double best = -1.0;
    for (const Cut& some_rows : all_rows) {
      for (const Cut& some_columns : all_columns) {
        if (lay_out(p, some_rows, some_columns, true) > device.shared_bytes) continue;
        const double tiles = double(some_rows.tiles.count) * some_columns.tiles.count;
        const double score =
            cost(double(map.batch) * tiles, block_bytes(p, some_rows, some_columns), device.multiprocessors);
        if (best < 0.0 || score < best) {
          best = score;
          rows = some_rows;
          columns = some_columns;
        }
      }
    }
  }
  launch.threads = overrides.threads != 0 ? overrides.threads : kThreads;
  // Few cells a tile: a thread a cell and lane has more loads in flight than a thread for four of them.
  for (int32_t k = 0; k < p.count && overrides.width == 0; ++k) {
    const int64_t cells = rows.reach[k].most_loaded * columns.reach[k].most_loaded;
    if (2 * cells * kLanes / p.terms[k].access.width < launch.threads) p.terms[k].access = best_access(p.terms[k].latent, 1);
  }
  columns = cut_columns(columns.tiles.size);
  launch.shared_bytes = lay_out(p, rows, columns, true);
  if (launch.shared_bytes > device.shared_bytes) launch.shared_bytes = lay_out(p, rows, columns, false);
  check(launch.shared_bytes <= device.shared_bytes,
        "a tile of " + std::to_string(rows.tiles.size) + " x " + std::to_string(columns.tiles.size) + " pixels needs " +
            std::to_string(launch.shared_bytes) + " bytes of shared memory, a block has " +
            std::to_string(device.shared_bytes));
  launch.blocks = map.batch * p.rows.count * p.columns.count;
  check(map.batch <= kMostBlocks && launch.blocks <= kMostBlocks,
        "the map is too large for one launch: " + std::to_string(map.batch) + " x " + std::to_string(map.height) + " x " +
            std::to_string(map.width) + " pixels need " + std::to_string(launch.blocks) + " blocks, a grid holds " +
            std::to_string(kMostBlocks));
  return launch;
}

// A launch of `project_tile_backward` for likelihoods that are not empty.
inline Launch<BackwardParams> plan_backward(const PlannedGradient& planned, const Image<const void>& grad,
                                            DeviceLimits device, LaunchOverrides overrides = {}) {
  using namespace planning;
  const GradientTerm& term = planned.term;
  const Latent& latent = term.latent;
  check_sizes(latent, grad.height, grad.width);
  Launch<BackwardParams> launch{};
  BackwardParams& p = launch.params;
  p.term = term;
  p.grad = grad;
  const HostBand rows = host_band(term.rows, planned.row_starts), columns = host_band(term.columns, planned.column_starts);
  p.columns_sorted = columns.sorted;
  p.channels_first = latent.channel_stride == 1 && term.channel_stride == 1 && latent.cell_stride != 1;
  const bool wide = overrides.width != 1 && aligned(latent, 4, p.channels_first) &&
                    aligned(term.gradient, latent.dtype, latent, term.batch_stride, term.channel_stride, term.row_stride,
                            term.cell_stride, 4, p.channels_first);
  p.width = wide ? 4 : 1;
  const int64_t element = kElementSize[int(latent.dtype)], pixel = grad.is_double ? 8 : 4;
  double best = -1.0;
  for (const int32_t tile_rows : kGradientRows) {
    for (const int32_t tile_columns : kGradientColumns) {
      if (overrides.tile_rows != 0 && (tile_rows != overrides.tile_rows || tile_columns != overrides.tile_columns)) continue;
      const Tiles row_tiles = make_tiles(latent.h, tile_rows, 0), column_tiles = make_tiles(latent.w, tile_columns, 0);
      const Reach across = reach(columns, column_tiles);
      const double tiles = double(row_tiles.count) * column_tiles.count;
      const int64_t sector = p.channels_first ? 1 : kSectorBytes / element;
      const double likelihoods = 2.0 * double(latent.channels * element * tile_rows * round_up(tile_columns, sector));
      const double pixels = double(reach(rows, row_tiles).sum) * double(across.sum) / tiles * double(pixel);
      const double score = cost(double(latent.batch) * tiles, likelihoods + pixels, device.multiprocessors);
      if (best >= 0.0 && score >= best) continue;
      best = score;
      p.rows = row_tiles;
      p.columns = column_tiles;
      p.chunk = int32_t(
          std::clamp<int64_t>((device.shared_bytes - 4096) / (8 * tile_rows), 1, max_of<int64_t>(across.most_loaded, 1)));
    }
  }
  check(best >= 0.0,
        "no tile of " + std::to_string(overrides.tile_rows) + " x " + std::to_string(overrides.tile_columns) + " cells");
  SharedMemory memory;
  p.sums = memory.take<double>(int64_t(p.rows.size) * p.chunk);
  p.cells = memory.take<double>(int64_t(p.rows.size) * p.columns.size);
  launch.shared_bytes = memory.used;
  launch.threads = overrides.threads != 0 ? overrides.threads : kThreads;
  launch.blocks = latent.batch * p.rows.count * p.columns.count;
  check(latent.batch <= kMostBlocks && launch.blocks <= kMostBlocks,
        "the likelihoods are too large for one launch: they need " + std::to_string(launch.blocks) +
            " blocks, a grid holds " + std::to_string(kMostBlocks));
  return launch;
}

}  // namespace bitrate
