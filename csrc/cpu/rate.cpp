// Each run of cells is one task, and each cell is computed in it alone: neither runs nor threads change a byte.
#include "rate.h"

#include <algorithm>
#include <cmath>

namespace bitrate {
namespace {

// Whether rows of all the source's tensors follow each other in memory, so that its grid is one long row.
bool is_dense(const SourceTerm& source) {
  if (source.family == Family::Factorized) return true;  // its values are contiguous
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
  const int64_t longest = cells_adjacent ? run_cells(source.batch, source.h, source.w) : kLeastRun;
  for (int64_t image = 0; image < source.batch; ++image) {
    for (int64_t line = 0; line < lines; ++line) {
      for (int64_t part = 0; part < length; part += longest) {
        runs.push_back({image, line, part, std::min(longest, length - part)});
      }
    }
  }
  return runs;
}

// Runs body(run, its number, its first cell).
template <typename Body>
void for_runs(const SourceTerm& source, const std::vector<SourceRun>& runs, const ParallelFor& parallel, const Body& body) {
  constexpr int64_t kWorth = 1 << 12;  // symbols that are worth a thread
  const int64_t symbols = std::max<int64_t>(1, source.channels * source.components * kLeastRun);
  parallel(int64_t(runs.size()), std::max<int64_t>(1, kWorth / symbols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      body(runs[i], i, (runs[i].image * source.h + runs[i].row) * source.w + runs[i].column);
    }
  });
}

// A factorised prior's table, where there are several symbols for each of its entries: then most are whole numbers, or as
// far from them as the channel's first.
class Table {
 public:
  Table(const SourceTerm& source, const Kernels& kernels, const ParallelFor& parallel) {
    if (source.family != Family::Factorized || source.batch * source.h * source.w < 4 * kSymbols) return;
    values_.resize(source.channels * (1 + kSymbols));
    exponents_.resize(source.channels * kSymbols);
    table_ = {values_.data(), values_.data() + source.channels, exponents_.data()};
    parallel(source.channels, 16, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        table_.origin[c] = origin(source, c);
        kernels.fill_table(source, c, table_);
      }
    });
  }

  const SymbolTable* get() const { return values_.empty() ? nullptr : &table_; }

 private:
  static float origin(const SourceTerm& source, int64_t channel) {
    const Strided& values = source.inputs[0];
    float first = 0.0f;
    visit(source.dtype, [&](auto type) {
      first = float(to_double(static_cast<const decltype(type)*>(values.data)[channel * values.channel_stride]));
    });
    const float* parameters = static_cast<const float*>(source.inputs[1].data) + channel * source.inputs[1].channel_stride;
    return first == std::nearbyint(first) ? 0.0f : parameters[kWeights];
  }

  std::vector<float> values_;
  std::vector<int32_t> exponents_;
  SymbolTable table_;
};

}  // namespace

void sum_sources(const std::vector<SourceTerm>& sources, const std::vector<double*>& bits, const Kernels& kernels,
                 const ParallelFor& parallel) {
  for (size_t k = 0; k < sources.size(); ++k) {
    const Table table(sources[k], kernels, parallel);
    for_runs(sources[k], cut_runs(sources[k]), parallel, [&](const SourceRun& run, int64_t, int64_t cell) {
      kernels.source_bits[int(sources[k].family)](sources[k], run, table.get(), bits[k] + cell);
    });
  }
}

void sum_sources_backward(const std::vector<SourceTerm>& sources, const std::vector<const double*>& grads,
                          const Kernels& kernels, const ParallelFor& parallel) {
  for (size_t k = 0; k < sources.size(); ++k) {
    const SourceTerm& source = sources[k];
    const std::vector<SourceRun> runs = cut_runs(source);
    const bool summed = source.family == Family::Factorized && source.gradients[1].data != nullptr;
    const int64_t weights = source.channels * kWeights;
    std::vector<double> sums(summed ? runs.size() * weights : 0);
    for_runs(source, runs, parallel, [&](const SourceRun& run, int64_t i, int64_t cell) {
      double* to = summed ? sums.data() + i * weights : nullptr;
      kernels.source_gradient[int(source.family)](source, run, grads[k] + cell, to);
    });
    for (int64_t c = 0; summed && c < source.channels; ++c) {  // runs in their order
      float* to = static_cast<float*>(source.gradients[1].data) + c * source.gradients[1].channel_stride;
      for (int64_t w = 0; w < kWeights; ++w) {
        double sum = 0.0;
        for (size_t i = 0; i < runs.size(); ++i) sum += sums[i * weights + c * kWeights + w];
        to[w] = Rounded<float>::from(sum);
      }
      std::fill(to + kWeights, to + kParameters, 0.0f);
    }
  }
}

}  // namespace bitrate
