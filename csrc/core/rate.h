// Sources on a GPU, as one thread of a block does it. A block has the cells of one source that lie in a run of kRunCells:
//   forward   1. lanes: a thread multiplies the likelihoods of one lane of a cell (bits.h), and adds their powers of two;
//             2. cells: lanes are combined in their fixed order, and one logarithm is taken.
//   backward  a thread writes the gradients of one lane of a cell. Of a factorised prior, whose parameters' gradients are
//             sums, a block has a run of `run_cells` and some channels: a thread has every kSumLanes-th cell of one.
#pragma once

#include "context.h"
#include "sources.h"

namespace bitrate {

constexpr int kMostSources = 8;  // of one launch: parameters of a kernel live in 4 KB of constant memory
constexpr int32_t kRunCells = 32;

struct PlannedSource {
  SourceTerm term;
  double* cells;              // [batch, h, w]: bits, or their gradients
  int32_t first_block, runs;  // of an image
  bool lanes_first;           // neighbouring threads take neighbouring lanes of a cell, else neighbouring cells
};

struct RateParams {
  PlannedSource sources[kMostSources];
  int32_t count;
  Shared<double> product;    // [kLanes, kRunCells]
  Shared<int64_t> exponent;  // likewise
};
static_assert(sizeof(RateParams) <= 4096, "too large for kernel parameters");

// Where a block works, and its threads.
struct RateBlock {
  const PlannedSource& source;
  int32_t image, first, count;  // cells

  BITRATE_HD RateBlock(const RateParams& p, int32_t block, int k) : source(p.sources[k]) {
    const int32_t cells = int32_t(source.term.h * source.term.w), run = (block - source.first_block) % source.runs;
    image = (block - source.first_block) / source.runs;
    first = run * kRunCells;
    count = min_of(kRunCells, cells - first);
  }

  static BITRATE_HD int find(const RateParams& p, int32_t block) {
    int k = 0;
    while (k + 1 < p.count && block >= p.sources[k + 1].first_block) ++k;
    return k;
  }

  // Runs body(lane, cell of the run, its row, its column) for this thread's part.
  template <typename Ctx, typename Body>
  BITRATE_HD void for_lanes(Ctx& ctx, const Body& body) const {
    for (int32_t item = ctx.thread(); item < kRunCells * kLanes; item += ctx.threads()) {
      const int32_t cell = source.lanes_first ? item / int32_t(kLanes) : item % kRunCells;
      const int32_t lane = source.lanes_first ? item % int32_t(kLanes) : item / kRunCells;
      if (cell >= count) continue;
      const int32_t at = first + cell, w = int32_t(source.term.w);
      body(lane, cell, at / w, at % w);
    }
  }
};

template <typename Ctx>
BITRATE_HD float read_float(Ctx& ctx, const Strided& tensor, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::Float16: return to_float(read(ctx, static_cast<const Half*>(tensor.data), offset));
    case DType::BFloat16: return to_float(read(ctx, static_cast<const BFloat16*>(tensor.data), offset));
    default: return read(ctx, static_cast<const float*>(tensor.data), offset);
  }
}

template <typename Ctx>
BITRATE_HD void write_float(Ctx& ctx, const Strided& tensor, DType dtype, int64_t offset, float value) {
  const auto put = [&](auto type) {
    using T = decltype(type);
    ctx.store(static_cast<T*>(tensor.data), offset, Pack<T, 1>{{Rounded<T>::from(value)}});
  };
  switch (dtype) {
    case DType::Float16: return put(Half{});
    case DType::BFloat16: return put(BFloat16{});
    default: return put(float{});
  }
}

// Calls body(std::integral_constant of the family).
template <typename Body>
BITRATE_HD void visit(Family family, const Body& body) {
  switch (family) {
    case Family::Gaussian: return body(FamilyOf<Family::Gaussian>{});
    case Family::Laplace: return body(FamilyOf<Family::Laplace>{});
    case Family::Logistic: return body(FamilyOf<Family::Logistic>{});
    case Family::Mixture: return body(FamilyOf<Family::Mixture>{});
    case Family::Factorized: return body(FamilyOf<Family::Factorized>{});
  }
}

// read(i, k) of the symbol at one channel of a cell.
template <Family kFamily, typename Ctx>
BITRATE_HD auto reader(Ctx& ctx, const SourceTerm& term, int32_t image, int64_t channel, int32_t row, int32_t column) {
  return [=, &ctx, &term](int i, int64_t k) {
    const Strided& tensor = term.inputs[i];
    if (kFamily == Family::Factorized && i == 1) {
      return read(ctx, static_cast<const float*>(tensor.data), channel * tensor.channel_stride + k);
    }
    return read_float(ctx, tensor, term.dtype, tensor.offset(image, k * term.channels + channel, row, column));
  };
}

template <Family kFamily, typename Ctx>
BITRATE_HD void multiply_lane(Ctx& ctx, const SourceTerm& term, int32_t image, int32_t lane, int32_t row, int32_t column,
                              double& product, int64_t& exponent) {
  for (int64_t first = lane; first < term.channels; first += kGroup * kLanes) {
    double group = 1.0;
    int64_t power = -1023;
    for (int64_t channel = first; channel < term.channels && channel < first + kGroup * kLanes; channel += kLanes) {
      const Scaled<float> found =
          likelihood_of<kFamily, float>(term, reader<kFamily>(ctx, term, image, channel, row, column));
      group = group * double(found.mantissa);
      power += found.exponent;
    }
    product = product * group;
    rebase(product, power);
    exponent += power;
  }
}

template <typename Ctx>
BITRATE_HD void sum_run(Ctx& ctx, const RateParams& p) {
  const RateBlock block(p, ctx.block(), RateBlock::find(p, ctx.block()));
  const SourceTerm& term = block.source.term;
  visit(term.family, [&](auto family) {
    block.for_lanes(ctx, [&](int32_t lane, int32_t cell, int32_t row, int32_t column) {
      double product = 1.0;
      int64_t exponent = 0;
      multiply_lane<decltype(family)::kFamily>(ctx, term, block.image, lane, row, column, product, exponent);
      put(ctx, p.product, lane * kRunCells + cell, product);
      put(ctx, p.exponent, lane * kRunCells + cell, exponent);
    });
  });
  ctx.barrier();
  for (int32_t cell = ctx.thread(); cell < block.count; cell += ctx.threads()) {
    double product = 1.0;
    int64_t exponent = 0;
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      product = product * get(ctx, p.product, lane * kRunCells + cell);
      exponent += get(ctx, p.exponent, lane * kRunCells + cell);
    }
    const int64_t at = block.image * term.h * term.w + block.first + cell;
    ctx.store(block.source.cells, at, Pack<double, 1>{{Rounded<double>::from(bits_of(product, exponent, 0))}});
  }
}

template <typename Ctx>
BITRATE_HD void write_run_slopes(Ctx& ctx, const RateParams& p) {
  const RateBlock block(p, ctx.block(), RateBlock::find(p, ctx.block()));
  const SourceTerm& term = block.source.term;
  visit(term.family, [&](auto family) {
    constexpr Family kFamily = decltype(family)::kFamily;
    if constexpr (kFamily == Family::Factorized) return;  // see write_network_slopes
    block.for_lanes(ctx, [&](int32_t lane, int32_t cell, int32_t row, int32_t column) {
      const int64_t at = block.image * term.h * term.w + block.first + cell;
      const double grad = read(ctx, static_cast<const double*>(block.source.cells), at);
      const float shared = float(shared_gradient(Source::Likelihoods, grad));
      for (int64_t channel = lane; channel < term.channels; channel += kLanes) {
        slopes_of<kFamily, float>(term, shared, reader<kFamily>(ctx, term, block.image, channel, row, column),
                                  [&](int i, int64_t k, float gradient) {
                                    const Strided& to = term.gradients[i];
                                    if (to.data == nullptr) return;
                                    const int64_t offset = to.offset(block.image, k * term.channels + channel, row, column);
                                    write_float(ctx, to, term.dtype, offset, gradient);
                                  });
      }
    });
  });
}

// Backward of a factorised prior.
struct NetworkParams {
  SourceTerm term;
  const double* cells;  // gradients
  double* sums;         // [batch * runs, channels, kWeights]; null where the parameters' gradients are not wanted
  int32_t cells_of_run, runs, groups;  // runs of an image, groups of channels
  Shared<float> lanes;                 // [kWeights, kGroupChannels * kSumLanes]
};
constexpr int32_t kGroupChannels = 8;

template <typename Ctx>
BITRATE_HD void write_network_slopes(Ctx& ctx, const NetworkParams& p) {
  const SourceTerm& term = p.term;
  const int32_t group = ctx.block() % p.groups, run = ctx.block() / p.groups, image = run / p.runs;
  const int64_t first = int64_t(run % p.runs) * p.cells_of_run, grid = term.h * term.w;
  const int32_t count = int32_t(min_of(int64_t(p.cells_of_run), grid - first));
  const int32_t lanes = int32_t(kSumLanes), items = kGroupChannels * lanes;
  for (int32_t item = ctx.thread(); item < items; item += ctx.threads()) {
    const int64_t channel = group * kGroupChannels + item / lanes;
    if (channel >= term.channels) continue;
    for (int k = 0; k < kWeights; ++k) put(ctx, p.lanes, k * items + item, 0.0f);
    for (int32_t x = item % lanes; x < count; x += lanes) {
      const int32_t at = int32_t(first) + x, row = at / int32_t(term.w), column = at % int32_t(term.w);
      const double grad = read(ctx, p.cells, image * grid + at);
      slopes_of<Family::Factorized, float>(
          term, float(shared_gradient(Source::Likelihoods, grad)),
          reader<Family::Factorized>(ctx, term, image, channel, row, column), [&](int i, int k, float gradient) {
            if (i == 1) {
              put(ctx, p.lanes, k * items + item, get(ctx, p.lanes, k * items + item) + gradient);
            } else if (term.gradients[0].data != nullptr) {
              const Strided& to = term.gradients[0];
              write_float(ctx, to, term.dtype, to.offset(image, channel, row, column), gradient);
            }
          });
    }
  }
  if (p.sums == nullptr) return;
  ctx.barrier();
  for (int32_t item = ctx.thread(); item < kGroupChannels * kWeights; item += ctx.threads()) {
    const int32_t k = item % kWeights, own = item / kWeights, channel = group * kGroupChannels + own;
    if (channel >= term.channels) continue;
    double sum = 0.0;
    for (int32_t lane = 0; lane < lanes; ++lane) sum += double(get(ctx, p.lanes, k * items + own * lanes + lane));
    ctx.store(p.sums, (run * term.channels + channel) * kWeights + k, Pack<double, 1>{{sum}});
  }
}

// The sums of all runs, in their order.
template <typename Ctx>
BITRATE_HD void add_runs(Ctx& ctx, const NetworkParams& p) {
  const int64_t weights = p.term.channels * kParameters, runs = p.term.batch * p.runs;
  const int64_t at = int64_t(ctx.block()) * ctx.threads() + ctx.thread(), channel = at / kParameters, k = at % kParameters;
  if (at >= weights) return;
  double sum = 0.0;
  for (int64_t run = 0; k < kWeights && run < runs; ++run) {
    sum += read(ctx, static_cast<const double*>(p.sums), (run * p.term.channels + channel) * kWeights + k);
  }
  const Strided& to = p.term.gradients[1];
  ctx.store(static_cast<float*>(to.data), channel * to.channel_stride + k, Pack<float, 1>{{Rounded<float>::from(sum)}});
}

}  // namespace bitrate
