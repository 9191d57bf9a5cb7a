// Sources of bits as the kernels see them: a latent beside the tensors of its distributions, and the formulas of one symbol,
// forward and backward, over a scalar or a vector. Every row, block and thread goes through `likelihood_of` and
// `slopes_of`.
#pragma once

#include "factorized.h"
#include "tensors.h"

namespace bitrate {

enum class Family : int { Gaussian, Laplace, Logistic, Mixture, Factorized };
constexpr int kFamilies = 5;

// A family as a type.
template <Family kOne>
struct FamilyOf {
  static constexpr Family kFamily = kOne;
};

constexpr int64_t kMostComponents = 8;  // of a mixture
constexpr int kInputs = 4;              // values, scales, means, weights; a mixture alone has the last

// A tensor [batch, channels, h, w], of a mixture's parts [batch, components * channels, h, w]; strides in elements.
struct Strided {
  void* data;  // null: a gradient that nobody wants
  int64_t batch_stride, channel_stride, row_stride, cell_stride;

  BITRATE_HD int64_t offset(int64_t image, int64_t channel, int64_t row, int64_t column) const {
    return image * batch_stride + channel * channel_stride + row * row_stride + column * cell_stride;
  }
};

struct SourceTerm {
  Family family;
  DType dtype;
  int64_t batch, channels, h, w, components;
  float bound;  // of the scales; minus infinity: none
  float floor;  // of the likelihood; 0: none
  Strided inputs[kInputs], gradients[kInputs];

  BITRATE_HD int count() const { return family == Family::Mixture ? 4 : family == Family::Factorized ? 2 : 3; }
};

// Cells of a run, over which gradients of a factorised prior's parameters are summed, each kSumLanes-th by itself: the same
// whatever computes them.
constexpr int64_t kLeastRun = 64, kLongestRun = 1024, kSumLanes = 16;

BITRATE_HD int64_t run_cells(int64_t batch, int64_t h, int64_t w) {
  const int64_t share = round_up(divide_up(batch * h * w, 16), kLeastRun);
  return min_of(max_of(share, kLeastRun), kLongestRun);
}

template <typename Float>
struct Scaled {
  Float mantissa;
  IntOf<Float> exponent;
};

// Scales that are not positive are none, where no bound lifts them.
template <typename Float>
BITRATE_HD Float bounded_scale(Float scale, float bound) {
  if (!(bound > 0.0f)) scale = scale > 0.0f ? scale : Float{} + __builtin_nanf("");
  const Float least = Float{} + (bound > 1e-30f ? bound : 1e-30f);
  return scale < least ? least : scale;
}

constexpr float kLargest = 3.4028235e38f;  // an infinite value has no likelihood

// `rest` is what a mixture's distances are rounded by.
template <Family kFamily, bool kSlopes, typename Float>
BITRATE_HD Symbol<Float> symbol_of(Float distance, Float scale, float bound, Float rest = Float{}) {
  scale = bounded_scale(scale, bound);
  Symbol<Float> symbol;
  if constexpr (kFamily == Family::Laplace) {
    symbol = laplace<kSlopes>(distance, scale);
  } else if constexpr (kFamily == Family::Logistic) {
    symbol = logistic<kSlopes>(distance, scale);
  } else {
    symbol = gaussian<kSlopes, kFamily == Family::Mixture>(distance, scale, rest);
  }
  symbol.mantissa = distance > kLargest ? symbol.mantissa * 0.0f : symbol.mantissa;
  return symbol;
}

// The distributions that a symbol's likelihood is the sum of, by scale and mean.
template <Family kFamily>
BITRATE_HD int64_t parts_of(const SourceTerm& term) {
  return kFamily == Family::Mixture ? term.components : kFamily == Family::Factorized ? 0 : 1;
}

// |value - mean|, and what it is rounded by.
template <typename Float>
BITRATE_HD Pair<Float> distance_of(Float value, Float mean) {
  const Pair<Float> sum = sum_of(value, -mean);
  return {magnitude(sum.high), sum.high < 0.0f ? -sum.low : sum.low};
}

// A sum of parts, each with its power of two.
template <typename Float>
BITRATE_HD void add_part(Scaled<Float>& sum, Float mantissa, IntOf<Float> exponent) {
  const IntOf<Float> most = sum.exponent > exponent ? sum.exponent : exponent;
  sum.mantissa = sum.mantissa * power_of_two<Float>(sum.exponent - most) + mantissa * power_of_two<Float>(exponent - most);
  sum.exponent = most;
}

// Not below the term's floor. `value` is what float32 holds of the likelihood: above a floor that is far from its least
// number it is all of it.
template <typename Float>
BITRATE_HD Scaled<Float> at_least_floor(const SourceTerm& term, Scaled<Float> found, Float value) {
  const Float least = Float{} + term.floor;
  if (term.floor > 1e-30f) return {value < least ? least : value, IntOf<Float>{}};
  if (term.floor > 0.0f) {
    const auto low = value < least;
    found.mantissa = low ? least : found.mantissa;
    found.exponent = low ? IntOf<Float>{} : found.exponent;
  }
  return found;
}

template <typename Float>
BITRATE_HD Scaled<Float> at_least_floor(const SourceTerm& term, Scaled<Float> found) {
  return at_least_floor(term, found, found.mantissa * power_of_two<Float>(found.exponent));
}

template <typename Float>
BITRATE_HD Scaled<Float> at_least_floor(const SourceTerm& term, Tail<Float> tail) {
  const WorkedTail<Float> found(tail);
  return at_least_floor(term, {found.mantissa, found.exponent}, found.value);
}

// A likelihood but for its floor; of a normal distribution its tail, so that a CPU may take the two steps in two loops, each
// of which has more symbols under way. read(i, k) gives part k of input i.
template <Family kFamily, typename Float, typename Read>
BITRATE_HD auto begun_likelihood(const SourceTerm& term, const Read& read) {
  const Float value = read(0, 0);
  if constexpr (kFamily == Family::Gaussian) {
    const Float distance = magnitude(value - read(2, 0));
    Tail<Float> tail = Normal<Float>(distance, bounded_scale(read(1, 0), term.bound)).tail;
    tail.part = distance > kLargest ? Float{} : tail.part;
    return tail;
  } else if constexpr (kFamily == Family::Factorized) {
    const Symbol<Float> symbol = factorized(value, [&](int k) { return read(1, k); });
    return Scaled<Float>{symbol.mantissa, symbol.exponent};
  } else {
    Scaled<Float> found{};
    for (int64_t k = 0; k < parts_of<kFamily>(term); ++k) {
      const Pair<Float> distance = distance_of(value, read(2, k));
      const Symbol<Float> symbol = symbol_of<kFamily, false, Float>(distance.high, read(1, k), term.bound, distance.low);
      if constexpr (kFamily == Family::Mixture) {
        if (k == 0) found.exponent = symbol.exponent;
        add_part(found, symbol.mantissa * read(3, k), symbol.exponent);
      } else {
        found = {symbol.mantissa, symbol.exponent};
      }
    }
    return found;
  }
}

template <Family kFamily, typename Float, typename Read>
BITRATE_HD Scaled<Float> likelihood_of(const SourceTerm& term, const Read& read) {
  return at_least_floor(term, begun_likelihood<kFamily, Float>(term, read));
}

// Of a symbol's gradient, what its likelihood's gradient is times; see `shared_gradient`. Below the floor CompressAI's rule
// holds: only what raises the likelihood counts, as much as it changes beside the floor.
template <typename Float>
BITRATE_HD Float floored_gradient(Float shared, const Scaled<Float>& likelihood, float floor) {
  if (!(floor > 0.0f)) return shared;
  const Float value = likelihood.mantissa * power_of_two<Float>(likelihood.exponent);
  return value < floor ? (shared < 0.0f ? shared * (value / floor) : Float{}) : shared;
}

// write(i, k, gradient) takes that of part k of input i.
template <Family kFamily, typename Float, typename Read, typename Write>
BITRATE_HD void slopes_of(const SourceTerm& term, Float shared, const Read& read, const Write& write) {
  const Float value = read(0, 0);
  Scaled<Float> total{};
  if constexpr (kFamily == Family::Mixture) {
    total = begun_likelihood<kFamily, Float>(term, read);
    shared = floored_gradient(shared, total, term.floor);
  }
  Float by_value = {};
  if constexpr (kFamily == Family::Factorized) {
    const auto parameter = [&](int k) { return read(1, k); };
    Network<Float> network;
    network.layers[0].inputs[0] = Edges<Float>{value - 0.5f, Float{} + 1.0f, value + 0.5f};
    network.forward(parameter);
    const Symbol<Float> symbol = of_logit<true>(network.logit);
    const Float factor = floored_gradient(shared, {symbol.mantissa, symbol.exponent}, term.floor);
    const Edges<Float> outputs[kUnits] = {{factor * symbol.by_distance, factor * symbol.by_scale, {}}};
    network.backward(parameter, outputs, [&](int k, Float gradient) { write(1, k, gradient); }, by_value);
  }
  for (int64_t k = 0; k < parts_of<kFamily>(term); ++k) {
    const Float mean = read(2, k), scale = read(1, k);
    const Pair<Float> distance = distance_of(value, mean);
    const Symbol<Float> symbol = symbol_of<kFamily, true, Float>(distance.high, scale, term.bound, distance.low);
    Float factor = shared;
    if constexpr (kFamily == Family::Mixture) {
      const IntOf<Float> ratio = symbol.exponent - total.exponent, most = IntOf<Float>{} + 127;
      const Float of_total = symbol.mantissa / total.mantissa * power_of_two<Float>(ratio > most ? most : ratio);
      write(3, k, shared * of_total);
      factor = shared * of_total * read(3, k);
    } else {
      factor = floored_gradient(shared, {symbol.mantissa, symbol.exponent}, term.floor);
    }
    const Float in_scale = factor * symbol.by_scale;
    write(1, k, (scale < term.bound) & (in_scale >= 0.0f) ? Float{} : in_scale);
    const auto sign = bits_as<IntOf<Float>>(value - mean) & int32_t(0x80000000u);
    const Float in_value = bits_as<Float>(bits_as<IntOf<Float>>(factor * symbol.by_distance) ^ sign);
    write(2, k, -in_value);
    by_value = by_value + in_value;
  }
  write(0, 0, by_value);
}

}  // namespace bitrate
