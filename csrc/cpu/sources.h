// Rows of symbols: the bits of cells from sources, and the gradients of what they hold. Included by loops.h.
#pragma once

#include "../core/sources.h"
#include "kernels.h"
#include "vector.h"

namespace bitrate {
namespace {

constexpr int64_t kReal = 2 * kWidth;  // float32 of a vector

template <typename Vector, typename T>
BITRATE_HD Vector load_some(const T* from, int64_t left, T rest) {
  if (left * int64_t(sizeof(T)) >= int64_t(sizeof(Vector))) return load<Vector>(from);
  T padded[sizeof(Vector) / sizeof(T)];
  for (size_t i = 0; i < sizeof(Vector) / sizeof(T); ++i) padded[i] = int64_t(i) < left ? from[i] : rest;
  return load<Vector>(padded);
}

template <typename Vector, typename T>
BITRATE_HD void store_some(T* to, int64_t left, const Vector& vector) {
  if (left * int64_t(sizeof(T)) >= int64_t(sizeof(Vector))) return store(to, vector);
  T padded[sizeof(Vector) / sizeof(T)];
  store(padded, vector);
  for (int64_t i = 0; i < left; ++i) to[i] = padded[i];
}

// One channel's run of a tensor as float32: where it lies, or a copy.
template <typename T>
void copy_row(const T* from, int64_t stride, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i * stride]);
}

BITRATE_HD const float* float_row(const Strided& tensor, DType dtype, int64_t offset, int64_t count, float* buffer) {
  if (dtype == DType::Float32 && tensor.cell_stride == 1) return static_cast<const float*>(tensor.data) + offset;
  visit(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, double>) {
      copy_row(static_cast<const T*>(tensor.data) + offset, tensor.cell_stride, count, buffer);
    }
  });
  return buffer;
}

BITRATE_HD const float* parameters_of(const SourceTerm& term, int64_t channel) {
  return static_cast<const float*>(term.inputs[1].data) + channel * term.inputs[1].channel_stride;
}

// The rows of all inputs at one channel, or of all gradients.
template <Family kFamily>
struct Rows {
  static int64_t slot(int64_t input, int64_t part, const SourceTerm& term) {
    return input == 0 ? 0 : 1 + (input - 1) * term.components + part;
  }

  template <typename Body>
  static void for_each(const SourceTerm& term, int64_t channel, const Body& body) {
    for (int64_t i = 0; i < (kFamily == Family::Factorized ? 1 : term.count()); ++i) {
      for (int64_t k = 0; k < (i == 0 ? 1 : term.components); ++k) body(i, slot(i, k, term), k * term.channels + channel);
    }
  }

  // The channel that is `next` is fetched meanwhile.
  void read(const SourceTerm& term, const SourceRun& run, int64_t channel, int64_t begin, int64_t count, int64_t next) {
    if constexpr (kFamily == Family::Factorized) parameters = parameters_of(term, channel);
    for_each(term, channel, [&](int64_t i, int64_t at, int64_t c) {
      const Strided& tensor = term.inputs[i];
      const int64_t offset = tensor.offset(run.image, c, run.row, run.column + begin);
      rows[at] = const_cast<float*>(float_row(tensor, term.dtype, offset, count, buffers[at]));
      ahead[at] = rows[at] != buffers[at] && next < term.channels ? (next - channel) * tensor.channel_stride : 0;
    });
  }

  // What is read of the vector of cells from x on.
  auto reader(const SourceTerm& term, int64_t x, int64_t left) const {
    return [this, &term, x, left](int64_t i, int64_t k) {
      if (kFamily == Family::Factorized && i == 1) return TwoFloats{} + parameters[k];
      const float* from = rows[slot(i, k, term)] + x;
      __builtin_prefetch(from + ahead[slot(i, k, term)]);
      return load_some<TwoFloats>(from, left, 1.0f);
    };
  }

  // Where gradients go: into the tensor, or into a buffer, which `write` then rounds.
  void aim(const SourceTerm& term, const SourceRun& run, int64_t channel, int64_t begin) {
    for_each(term, channel, [&](int64_t i, int64_t at, int64_t c) {
      const Strided& tensor = term.gradients[i];
      const bool direct = tensor.data != nullptr && term.dtype == DType::Float32 && tensor.cell_stride == 1;
      const int64_t offset = tensor.offset(run.image, c, run.row, run.column + begin);
      rows[at] = direct ? static_cast<float*>(tensor.data) + offset : buffers[at];
    });
  }

  void write(const SourceTerm& term, const SourceRun& run, int64_t channel, int64_t begin, int64_t count) {
    for_each(term, channel, [&](int64_t i, int64_t at, int64_t c) {
      const Strided& tensor = term.gradients[i];
      if (tensor.data == nullptr || rows[at] != buffers[at]) return;
      visit(term.dtype, [&](auto type) {
        using T = decltype(type);
        T* to = static_cast<T*>(tensor.data) + tensor.offset(run.image, c, run.row, run.column + begin);
        for (int64_t j = 0; j < count; ++j) to[j * tensor.cell_stride] = Rounded<T>::from(rows[at][j]);
      });
    });
  }

  static constexpr int64_t kMost = kFamily == Family::Mixture ? 1 + 3 * kMostComponents : 3;
  const float* parameters;
  float buffers[kMost][kSourceBlock];
  float* rows[kMost];
  int64_t ahead[kMost];
};

// Likelihoods from a channel's table; returns whose values are there.
BITRATE_HD TwoInts look_up(const SymbolTable& table, int64_t channel, TwoFloats values, Scaled<TwoFloats>& found) {
  const TwoFloats origin = TwoFloats{} + table.origin[channel];
  const TwoFloats shifted = (values - origin) + 12582912.0f;  // see power_of_half
  const TwoInts index = bits_as<TwoInts>(shifted) - (0x4b400000 - kSymbols / 2);
  const TwoInts there = ((shifted - 12582912.0f) + origin == values) & (index >= 0) & (index < kSymbols);
  const TwoInts safe = there ? index : TwoInts{};
  found = {gather(table.mantissa + channel * kSymbols, safe), gather(table.exponent + channel * kSymbols, safe)};
  return there;
}

// The likelihoods of a channel's run under a factorised prior, from its table where there is one. Of values that are
// computed those in doubt cost as much as many others, and are few: they are gathered.
struct FactorizedRun {
  alignas(64) float mantissa[kSourceBlock];
  alignas(64) int32_t exponent[kSourceBlock];

  void fill(const SourceTerm& term, const Rows<Family::Factorized>& inputs, const SymbolTable* table, int64_t channel,
            int64_t count) {
    const auto parameter = [&](int k) { return TwoFloats{} + inputs.parameters[k]; };
    const auto scaled = [&](const Symbol<TwoFloats>& symbol) {
      return at_least_floor(term, Scaled<TwoFloats>{symbol.mantissa, symbol.exponent});
    };
    int32_t doubtful[kSourceBlock];
    int64_t doubts = 0;
    for (int64_t x = 0; x < count; x += kReal) {
      const TwoFloats value = inputs.reader(term, x, count - x)(0, 0);
      Scaled<TwoFloats> found{};
      const TwoInts there = table != nullptr ? look_up(*table, channel, value, found) : TwoInts{};
      if (Arithmetic<TwoFloats>::any(there == 0)) {
        Symbol<TwoFloats> symbol;
        const TwoInts doubt = factorized_quickly(value, parameter, symbol) & ~there;
        const Scaled<TwoFloats> computed = scaled(symbol);
        found = {there ? found.mantissa : computed.mantissa, there ? found.exponent : computed.exponent};
        if (Arithmetic<TwoFloats>::any(doubt)) {
          for (int64_t i = 0; i < kReal && x + i < count; ++i) {
            doubtful[doubts] = int32_t(x + i);
            doubts += doubt[i] != 0;
          }
        }
      }
      store(mantissa + x, found.mantissa);
      store(exponent + x, found.exponent);
    }
    for (int64_t first = 0; first < doubts; first += kReal) {
      const int64_t some = std::min(kReal, doubts - first);
      TwoFloats value;
      for (int64_t i = 0; i < kReal; ++i) value[i] = inputs.rows[0][doubtful[first + std::min(i, some - 1)]];
      const Scaled<TwoFloats> found = scaled(factorized_exactly(value, parameter));
      for (int64_t i = 0; i < some; ++i) {
        mantissa[doubtful[first + i]] = found.mantissa[i];
        exponent[doubtful[first + i]] = found.exponent[i];
      }
    }
  }
};

void fill_table(const SourceTerm& term, int64_t channel, SymbolTable& table) {
  const float* parameters = parameters_of(term, channel);
  for (int32_t at = 0; at < kSymbols; at += kReal) {
    TwoFloats value;
    for (int64_t i = 0; i < kReal; ++i) value[i] = float(at + i - kSymbols / 2);
    value = value + table.origin[channel];
    const Scaled<TwoFloats> found = likelihood_of<Family::Factorized, TwoFloats>(
        term, [&](int64_t i, int64_t k) { return i == 0 ? value : TwoFloats{} + parameters[k]; });
    store(table.mantissa + channel * kSymbols + at, found.mantissa);
    store(table.exponent + channel * kSymbols + at, found.exponent);
  }
}

// As core/bits.h has it, with a mantissa for a likelihood and its power of two besides.
template <Family kFamily>
void source_bits_loop(const SourceTerm& term, const SourceRun& run, const SymbolTable* table, double* bits) {
  constexpr bool kFactorized = kFamily == Family::Factorized;
  Rows<kFamily> inputs;
  FactorizedRun runs[kFactorized ? kGroup : 1];
  using Begun = decltype(begun_likelihood<kFamily, TwoFloats>(term, inputs.reader(term, 0, 0)));
  Begun begun[kGroup][kSourceBlock / kReal];
  double lane_product[kSourceBlock], product[kSourceBlock];
  int64_t exponent[kSourceBlock];
  for (int64_t begin = 0; begin < run.count; begin += kSourceBlock) {
    const int64_t count = std::min(kSourceBlock, run.count - begin);
    for (int64_t x = 0; x < round_up(count, kReal); ++x) {
      product[x] = 1.0;
      exponent[x] = 0;
    }
    for (int64_t lane = 0; lane < kLanes && lane < term.channels; ++lane) {
      for (int64_t first = lane; first < term.channels; first += kGroup * kLanes) {
        int64_t used = 0;
        for (int64_t c = first; c < term.channels && used < kGroup; c += kLanes) {
          const int64_t on = c + kLanes, next = on < term.channels ? on : lane + 1;
          inputs.read(term, run, c, begin, count, next);
          if constexpr (kFactorized) {
            runs[used].fill(term, inputs, table, c, count);
          } else {
            for (int64_t x = 0; x < count; x += kReal) {
              begun[used][x / kReal] = begun_likelihood<kFamily, TwoFloats>(term, inputs.reader(term, x, count - x));
            }
          }
          ++used;
        }
        const bool last = first + kGroup * kLanes >= term.channels;
        for (int64_t x = 0; x < count; x += kReal) {
          Doubles group[2] = {};
          TwoInts power = {};
          alignas(64) float mantissas[kReal];  // a conversion costs less from memory: see load_doubles
          alignas(64) int32_t powers[kReal];
          for (int64_t k = 0; k < used; ++k) {
            Scaled<TwoFloats> found;
            if constexpr (kFactorized) {
              found = {load<TwoFloats>(runs[k].mantissa + x), load<TwoInts>(runs[k].exponent + x)};
            } else {
              found = at_least_floor(term, begun[k][x / kReal]);
            }
            store(mantissas, found.mantissa);
            for (int64_t half = 0; half < 2; ++half) {
              const Doubles factor = load_doubles(mantissas + half * kWidth);
              group[half] = k == 0 ? factor : group[half] * factor;
            }
            power = power + found.exponent;
          }
          store(powers, power);
          for (int64_t half = 0; half < 2; ++half) {
            const int64_t at = x + half * kWidth;
            Doubles running = first == lane ? group[half] : load<Doubles>(lane_product + at) * group[half];
            Ints sum = load<Ints>(exponent + at) + widen(load<HalfInts>(powers + half * kWidth));
            rebase(running, sum);
            store(exponent + at, sum);
            if (last) {
              store(product + at, load<Doubles>(product + at) * running);
            } else {
              store(lane_product + at, running);
            }
          }
        }
      }
    }
    const int64_t rebased = count_groups(term.channels);
    for (int64_t x = 0; x < count; x += kWidth) {
      const Doubles found = bits_of(load<Doubles>(product + x), load<Ints>(exponent + x), rebased);
      store_some(bits + begin + x, count - x, found == found ? found : Doubles{} + __builtin_nan(""));
    }
  }
}

// Gradients as tensors have them: one NaN, and no -0.
BITRATE_HD TwoFloats canonical(TwoFloats values) {
  const TwoWords nan = TwoWords{} + 0x7fc00000u;
  return values == values ? values + 0.0f : bits_as<TwoFloats>(nan);
}

template <Family kFamily>
void source_gradient_loop(const SourceTerm& term, const SourceRun& run, const double* shared, double* sums) {
  Rows<kFamily> inputs, outputs;
  float factor[kSourceBlock];
  for (int64_t begin = 0; begin < run.count; begin += kSourceBlock) {
    const int64_t count = std::min(kSourceBlock, run.count - begin);
    for (int64_t x = 0; x < round_up(count, kReal); ++x)
      factor[x] = x < count ? float(shared_gradient(Source::Likelihoods, shared[begin + x])) : 0.0f;
    for (int64_t channel = 0; channel < term.channels; ++channel) {
      inputs.read(term, run, channel, begin, count, channel + 1);
      outputs.aim(term, run, channel, begin);
      // Sums over the run, of every kSumLanes-th cell each.
      float lanes[kFamily == Family::Factorized ? kWeights : 1][kSumLanes] = {};
      for (int64_t x = 0; x < count; x += kReal) {
        slopes_of<kFamily, TwoFloats>(term, load<TwoFloats>(factor + x), inputs.reader(term, x, count - x),
                                      [&](int64_t i, int64_t k, TwoFloats gradient) {
                                        if (kFamily == Family::Factorized && i == 1) {
                                          float* lane = lanes[k] + x % kSumLanes;
                                          store(lane, load<TwoFloats>(lane) + gradient);
                                        } else if (term.gradients[i].data != nullptr) {
                                          float* to = outputs.rows[outputs.slot(i, k, term)] + x;
                                          store_some(to, count - x, canonical(gradient));
                                        }
                                      });
      }
      outputs.write(term, run, channel, begin, count);
      if constexpr (kFamily == Family::Factorized) {
        for (int64_t k = 0; sums != nullptr && k < kWeights; ++k) {
          double sum = begin == 0 ? 0.0 : sums[channel * kWeights + k];
          for (const float lane : lanes[k]) sum += double(lane);
          sums[channel * kWeights + k] = sum;
        }
      }
    }
  }
}

}  // namespace
}  // namespace bitrate
