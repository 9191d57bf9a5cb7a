// Each run of cells is one task, and each cell is computed in it alone: neither runs nor threads change a byte.
#include "rate.h"

#include <algorithm>

namespace bitrate {
namespace {

constexpr int64_t kLeastRun = 64;

// Whether rows of all the source's tensors follow each other in memory, so that its grid is one long row.
bool is_dense(const SourceTerm& source) {
  const auto dense = [&](const Strided& t) { return t.data == nullptr || t.row_stride == source.w * t.cell_stride; };
  return source.h == 1 || (std::all_of(source.inputs, source.inputs + source.count(), dense) &&
                           std::all_of(source.gradients, source.gradients + source.count(), dense));
}

// Runs of a source, short enough for all threads and long enough for the vectors. Channels adjacent in memory want short
// ones: each line is then read whole while it is near.
std::vector<SourceRun> cut_runs(const SourceTerm& source) {
  std::vector<SourceRun> runs;
  const bool dense = is_dense(source), cells_adjacent = source.inputs[0].cell_stride == 1 || source.channels == 1;
  const int64_t lines = dense ? 1 : source.h, length = dense ? source.h * source.w : source.w;
  const int64_t share = round_up(divide_up(source.batch * source.h * source.w, 16), kLeastRun);
  const int64_t longest = cells_adjacent ? std::clamp(share, kLeastRun, kSourceBlock) : kLeastRun;
  for (int64_t image = 0; image < source.batch; ++image) {
    for (int64_t line = 0; line < lines; ++line) {
      for (int64_t part = 0; part < length; part += longest) {
        runs.push_back({image, line, part, std::min(longest, length - part)});
      }
    }
  }
  return runs;
}

template <typename Body>
void for_runs(const std::vector<SourceTerm>& sources, const ParallelFor& parallel, const Body& body) {
  for (size_t k = 0; k < sources.size(); ++k) {
    const SourceTerm& source = sources[k];
    const std::vector<SourceRun> runs = cut_runs(source);
    constexpr int64_t kWorth = 1 << 12;  // symbols that are worth a thread
    const int64_t symbols = std::max<int64_t>(1, source.channels * source.components * kLeastRun);
    parallel(int64_t(runs.size()), std::max<int64_t>(1, kWorth / symbols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t cell = (runs[i].image * source.h + runs[i].row) * source.w + runs[i].column;
        body(k, runs[i], cell);
      }
    });
  }
}

}  // namespace

void sum_sources(const std::vector<SourceTerm>& sources, const std::vector<double*>& bits, const Kernels& kernels,
                 const ParallelFor& parallel) {
  for_runs(sources, parallel, [&](size_t k, const SourceRun& run, int64_t cell) {
    kernels.source_bits[int(sources[k].family)](sources[k], run, bits[k] + cell);
  });
}

void sum_sources_backward(const std::vector<SourceTerm>& sources, const std::vector<const double*>& grads,
                          const Kernels& kernels, const ParallelFor& parallel) {
  for_runs(sources, parallel, [&](size_t k, const SourceRun& run, int64_t cell) {
    kernels.source_gradient[int(sources[k].family)](sources[k], run, grads[k] + cell);
  });
}

}  // namespace bitrate
