// Launches of the GPU kernels on the CPU: planned as for a GPU, then run under watch (checked.h) or for their addresses
// alone (index.h). Development only; no part of the installed package.
#pragma once

#include <string>
#include <vector>

#include "core/sources.h"
#include "index.h"

namespace bitrate {

// A tensor inside its allocation; strides in elements.
struct TensorView {
  const char* name;
  const void* allocation;
  int64_t allocation_bytes;
  const void* data;
  DType dtype;
  std::vector<int64_t> sizes, strides;
};

struct TermView {
  TensorView values;  // likelihoods [N, C, h, w] or bits [N, h, w]
  Band rows, columns;
};

// How to run; zeros leave the choice to the plan. `order`: 0 ascending, 1 descending, 2 random threads and blocks.
struct Setting {
  int64_t multiprocessors = 132, shared_bytes = 48 << 10;
  int threads = 0;
  int32_t tile_rows = 0, tile_columns = 0, width = 0;
  int order = 0;
  uint32_t seed = 0;
};

// What was planned. Tiles of pixels forward, of cells backward; `width` and `whole` are of the first term.
struct Summary {
  int64_t blocks = 0, shared_bytes = 0;
  int threads = 0;
  int32_t tile_rows = 0, tile_columns = 0, row_shift = 0, column_shift = 0, row_tiles = 0, column_tiles = 0, width = 0;
  bool whole = true;
};

// A source: its tensors in order, and where their gradients go, without data where nowhere.
struct SourceView {
  Family family;
  float bound, floor;
  std::vector<TensorView> inputs, gradients;
  TensorView cells;  // [N, h, w]: bits, or their gradients
};

// Throw std::invalid_argument where the plan refuses, BrokenRule (a std::runtime_error) where the body breaks a rule.
Summary run_project(const std::vector<TermView>& terms, const TensorView* guide, const TensorView& map,
                    const Setting& setting);
Summary run_backward(const TensorView& grad, const TermView& term, const TensorView& gradient, const Setting& setting);

Summary run_rate(const std::vector<SourceView>& sources, bool backward, const Setting& setting);

// The same for some blocks of the grid, without tensors: `data` of each is an address to count from.
Summary index_project(const std::vector<TermView>& terms, const TensorView& map, const Setting& setting,
                      const std::vector<int64_t>& blocks, std::vector<Touched>& touched);
Summary index_backward(const TensorView& grad, const TermView& term, const TensorView& gradient, const Setting& setting,
                       const std::vector<int64_t>& blocks, std::vector<Touched>& touched);

Summary index_rate(const std::vector<SourceView>& sources, bool backward, const Setting& setting,
                   const std::vector<int64_t>& blocks, std::vector<Touched>& touched);

// Of an executor of PTX: its pieces without a branch, and which have been run. From now on change `planted` is made, see
// ptx.py.
struct PtxBlock {
  std::string kernel;
  int line;
  bool reached;
};
std::vector<PtxBlock> ptx_blocks(int planted);

}  // namespace bitrate
