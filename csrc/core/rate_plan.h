// Launches for sources, on the host: runs of cells, image after image and source after source.
#pragma once

#include <vector>

#include "plan.h"
#include "rate.h"

namespace bitrate {

inline void check_source(const SourceTerm& term) {
  planning::check(
      term.channels <= kMostChannels && term.h <= kLongestAxis && term.w <= kLongestAxis && term.h * term.w <= kLongestAxis,
      "a source must have at most " + std::to_string(kMostChannels) + " channels and " + std::to_string(kLongestAxis) +
          " cells an image on a GPU, got " + std::to_string(term.channels) + " and " + std::to_string(term.h) + " x " +
          std::to_string(term.w));
}

inline void check_blocks(int64_t batch, int64_t blocks) {
  planning::check(batch <= kMostBlocks && blocks <= kMostBlocks, "a source is too large for one launch");
}

// As many launches as hold all sources; `cells` has the bits of each, or their gradients. Backward, factorised priors are
// left out: see plan_network.
inline std::vector<Launch<RateParams>> plan_rate(const std::vector<SourceTerm>& sources, const std::vector<double*>& cells,
                                                 bool backward, int threads = 0) {
  std::vector<Launch<RateParams>> launches;
  for (size_t k = 0; k < sources.size(); ++k) {
    const SourceTerm& term = sources[k];
    check_source(term);
    const int64_t runs = divide_up(term.h * term.w, kRunCells);
    if (term.batch * runs == 0 || (backward && term.family == Family::Factorized)) continue;
    check_blocks(term.batch, term.batch * runs);
    if (launches.empty() || launches.back().params.count == kMostSources ||
        launches.back().blocks + term.batch * runs > kMostBlocks) {
      Launch<RateParams> launch{};
      launch.threads = threads != 0 ? threads : kThreads;
      planning::SharedMemory memory;
      launch.params.product = memory.take<double>(kLanes * kRunCells);
      launch.params.exponent = memory.take<int64_t>(kLanes * kRunCells);
      launch.shared_bytes = memory.used;
      launches.push_back(launch);
    }
    Launch<RateParams>& launch = launches.back();
    const Strided& values = term.inputs[0];
    launch.params.sources[launch.params.count++] = {term, cells[k], int32_t(launch.blocks), int32_t(runs),
                                                    values.channel_stride == 1 && values.cell_stride != 1};
    launch.blocks += term.batch * runs;
  }
  return launches;
}

// The launch of write_network_slopes for a factorised prior that is not empty; that of add_runs has `adding_blocks`.
inline Launch<NetworkParams> plan_network(const SourceTerm& term, const double* cells, int threads = 0) {
  check_source(term);
  Launch<NetworkParams> launch{};
  NetworkParams& p = launch.params;
  p.term = term;
  p.cells = cells;
  p.cells_of_run = int32_t(run_cells(term.batch, term.h, term.w));
  p.runs = int32_t(divide_up(term.h * term.w, p.cells_of_run));
  p.groups = int32_t(divide_up(term.channels, kGroupChannels));
  launch.threads = threads != 0 ? threads : int(kGroupChannels * kSumLanes);
  launch.blocks = term.batch * p.runs * p.groups;
  check_blocks(term.batch * p.runs, launch.blocks);
  planning::SharedMemory memory;
  p.lanes = memory.take<float>(kWeights * kGroupChannels * kSumLanes);
  launch.shared_bytes = memory.used;
  return launch;
}

inline int64_t adding_blocks(const Launch<NetworkParams>& launch) {
  return divide_up(launch.params.term.channels * kParameters, launch.threads);
}

// Of the runs' sums.
inline int64_t sum_count(const Launch<NetworkParams>& launch) {
  return launch.params.term.batch * launch.params.runs * launch.params.term.channels * kWeights;
}

}  // namespace bitrate
