// Launches for sources, on the host: runs of cells, image after image and source after source.
#pragma once

#include <vector>

#include "plan.h"
#include "rate.h"

namespace bitrate {

// As many launches as hold all sources; `cells` has the bits of each, or their gradients.
inline std::vector<Launch<RateParams>> plan_rate(const std::vector<SourceTerm>& sources, const std::vector<double*>& cells,
                                                 int threads = 0) {
  std::vector<Launch<RateParams>> launches;
  for (size_t k = 0; k < sources.size(); ++k) {
    const SourceTerm& term = sources[k];
    planning::check(term.channels <= kMostChannels && term.h <= kLongestAxis && term.w <= kLongestAxis &&
                        term.h * term.w <= kLongestAxis,
                    "a source must have at most " + std::to_string(kMostChannels) + " channels and " +
                        std::to_string(kLongestAxis) + " cells an image on a GPU, got " + std::to_string(term.channels) +
                        " and " + std::to_string(term.h) + " x " + std::to_string(term.w));
    const int64_t runs = divide_up(term.h * term.w, kRunCells);
    if (term.batch * runs == 0) continue;
    planning::check(term.batch <= kMostBlocks && term.batch * runs <= kMostBlocks, "a source is too large for one launch");
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

}  // namespace bitrate
