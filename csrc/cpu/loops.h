// The bodies behind `Kernels`. Included by each kernels_*.cpp after it has chosen an instruction set; everything here is in
// an unnamed namespace, so that no copy can be linked in place of another.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../core/bands.h"
#include "kernels.h"
#include "vector.h"

namespace bitrate {
namespace {

constexpr int64_t kSlots = kCellBlock / kWidth;

// Eight cells a slot; the last slot reaches back, so that any count from eight on needs no scalar rest.
BITRATE_HD int64_t slot_cell(int64_t slot, int64_t count) {
  return slot * kWidth + kWidth <= count ? slot * kWidth : count - kWidth;
}

template <typename T>
const T* ones() {
  static const auto block = [] {
    struct Block {
      T values[kCellBlock];
    } filled;
    for (T& value : filled.values) value = Rounded<T>::from(1.0);
    return filled;
  }();
  return block.values;
}

// Multiply `Groups` groups of adjacent-cell channels into the lane products of a block of cells. `channels[g][k]` points
// at factor k of group g; a block of ones stands in for factors past the last channel.
template <int Groups, typename T>
BITRATE_HD void multiply_groups(const T* const (&channels)[Groups][kGroup], int64_t count, bool first, bool last,
                                Doubles* lane_product, Doubles* product, Ints* exponent, Words& signs) {
  const int64_t slots = (count + kWidth - 1) / kWidth;
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t cell = slot_cell(slot, count);
    Doubles running = first ? Doubles{} + 1.0 : lane_product[slot];
    Ints powers = exponent[slot];
    for (int g = 0; g < Groups; ++g) {
      Doubles group = load_likelihoods(channels[g][0] + cell, signs);
      for (int64_t k = 1; k < kGroup; ++k) group = group * load_likelihoods(channels[g][k] + cell, signs);
      running = running * group;
      rebase(running, powers);
    }
    exponent[slot] = powers;
    if (last) {
      product[slot] = product[slot] * running;
    } else {
      lane_product[slot] = running;
    }
  }
}

// Cells adjacent in memory: vectors of eight cells, one lane after the other, each channel read in one run.
template <typename T>
bool adjacent_cells(const T* likelihoods, int64_t count, int64_t channels, int64_t stride, double* bits) {
  Doubles lane_product[kSlots], product[kSlots];
  Ints exponent[kSlots];
  Words signs = {};
  const int64_t slots = (count + kWidth - 1) / kWidth;
  for (int64_t slot = 0; slot < slots; ++slot) {
    product[slot] = Doubles{} + 1.0;
    exponent[slot] = Ints{};
  }
  constexpr int kAtOnce = 2;
  for (int64_t lane = 0; lane < kLanes && lane < channels; ++lane) {
    const int64_t groups = lane_groups(channels, lane);
    const auto factor = [&](int64_t group, int64_t k) {
      const int64_t c = lane + (group * kGroup + k) * kLanes;
      return c < channels ? likelihoods + c * stride : ones<T>();
    };
    for (int64_t g = 0; g < groups;) {
      const bool first = g == 0;
      if (g + kAtOnce <= groups) {
        const T* factors[kAtOnce][kGroup];
        for (int i = 0; i < kAtOnce; ++i) {
          for (int64_t k = 0; k < kGroup; ++k) factors[i][k] = factor(g + i, k);
        }
        g += kAtOnce;
        multiply_groups(factors, count, first, g == groups, lane_product, product, exponent, signs);
      } else {
        const T* factors[1][kGroup];
        for (int64_t k = 0; k < kGroup; ++k) factors[0][k] = factor(g, k);
        g += 1;
        multiply_groups(factors, count, first, g == groups, lane_product, product, exponent, signs);
      }
    }
  }
  if (any_sign(signs)) return false;
  const int64_t rebased = count_groups(channels);
  for (int64_t slot = 0; slot < slots; ++slot) {
    store(bits + slot_cell(slot, count), bits_of(product[slot], exponent[slot], rebased));
  }
  return true;
}

// Channels adjacent in memory (channels_last): a vector is the eight lanes of one cell; eight cells are finished together.
template <typename T>
bool adjacent_channels(const T* likelihoods, int64_t count, int64_t channels, int64_t stride, double* bits) {
  constexpr int64_t kCellsAtOnce = 4;
  Doubles product[kWidth];  // [cell][lane]
  Ints exponent[kWidth];
  Words signs = {};
  const int64_t whole = channels / kLanes, rest = channels % kLanes;
  const int64_t slots = (count + kWidth - 1) / kWidth;
  // A lane with fewer groups than the first is rebased as often as it: exact, and counted, so the bytes do not change.
  const int64_t vector_groups = (whole + (rest != 0) + kGroup - 1) / kGroup;
  T tail[kLanes];
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t cell = slot_cell(slot, count);
    for (int64_t part = 0; part < kWidth; part += kCellsAtOnce) {
      Doubles running[kCellsAtOnce];
      Ints powers[kCellsAtOnce];
      for (int64_t i = 0; i < kCellsAtOnce; ++i) {
        running[i] = Doubles{} + 1.0;
        powers[i] = Ints{};
      }
      const T* from = likelihoods + (cell + part) * stride;
      for (int64_t g = 0; g < vector_groups; ++g) {
        Doubles group[kCellsAtOnce];
        for (int64_t i = 0; i < kCellsAtOnce; ++i) group[i] = Doubles{} + 1.0;
        const int64_t begin = g * kGroup;
        const int64_t end = begin + kGroup < whole ? begin + kGroup : whole;
        for (int64_t v = begin; v < end; ++v) {
          for (int64_t i = 0; i < kCellsAtOnce; ++i) {
            group[i] = group[i] * load_likelihoods(from + i * stride + v * kLanes, signs);
          }
        }
        if (rest != 0 && g == vector_groups - 1) {
          for (int64_t i = 0; i < kCellsAtOnce; ++i) {
            for (int64_t lane = 0; lane < kLanes; ++lane) {
              tail[lane] = lane < rest ? from[i * stride + whole * kLanes + lane] : *ones<T>();
            }
            group[i] = group[i] * load_likelihoods(tail, signs);
          }
        }
        for (int64_t i = 0; i < kCellsAtOnce; ++i) {
          running[i] = running[i] * group[i];
          rebase(running[i], powers[i]);
        }
      }
      for (int64_t i = 0; i < kCellsAtOnce; ++i) {
        product[part + i] = running[i];
        exponent[part + i] = powers[i];
      }
    }
    Doubles total = Doubles{} + 1.0;
    Ints powers = {};
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      Doubles lane_product;
      for (int64_t i = 0; i < kWidth; ++i) lane_product[i] = product[i][lane];
      total = total * lane_product;
      for (int64_t i = 0; i < kWidth; ++i) powers[i] += exponent[i][lane];
    }
    store(bits + cell, bits_of(total, powers, kLanes * vector_groups));
  }
  return !any_sign(signs);
}

template <typename T>
void cell_bits_loop(const void* from, int64_t count, int64_t channels, CellStrides strides, double* bits) {
  const T* likelihoods = static_cast<const T*>(from);
  const auto one_by_one = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) bits[j] = cell_bits(likelihoods + j * strides.cell, channels, strides.channel);
  };
  if constexpr (!std::is_same_v<T, double>) {
    const bool cells = strides.cell == 1, lanes = strides.channel == 1 && !cells;
    if (count >= kWidth && (cells || lanes)) {
      for (int64_t begin = 0; begin < count;) {
        // A last block of fewer than eight cells is joined to the one before it.
        const int64_t left = count - begin;
        const int64_t block = left < kCellBlock + kWidth && left > kCellBlock ? left - kWidth : std::min(left, kCellBlock);
        const T* p = likelihoods + begin * strides.cell;
        const bool done = cells ? adjacent_cells(p, block, channels, strides.channel, bits + begin)
                                : adjacent_channels(p, block, channels, strides.cell, bits + begin);
        if (!done) one_by_one(begin, begin + block);  // a sign bit: negative likelihoods are NaN
        begin += block;
      }
      return;
    }
  }
  one_by_one(0, count);
}

void apply_columns(const int32_t* start, const double* weight, int64_t pitch, int64_t taps, const double* values,
                   int64_t count, double* sums) {
  using A = Arithmetic<double>;
  for (int64_t x = 0; x < count; ++x) sums[x] = 0.0;
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t x = 0; x < count; ++x) sums[x] = tap<A>(sums[x], weight[t * pitch + x], values[start[x] + t]);
  }
}

BITRATE_HD Doubles load_doubles(const double* from) { return load<Doubles>(from); }
BITRATE_HD Doubles load_doubles(const float* from) { return __builtin_convertvector(load<Floats>(from), Doubles); }

// One to four rows are summed in registers; more go through a buffer, four at a time and in the same order.
constexpr int64_t kRowsAtOnce = 4;

// sum = from[x] + sum over k of weights[k] * rows[k][x], given to finish(x, sum) eight pixels at a time, the rest singly.
template <int64_t Taps, typename T, typename Finish>
BITRATE_HD void sum_rows(const T* const* rows, const double* weights, const double* from, int64_t begin, int64_t count,
                         const Finish& finish) {
  const T* row[Taps + 1];
  double weight[Taps + 1];
  for (int64_t k = 0; k < Taps; ++k) {
    row[k] = rows[k];
    weight[k] = weights[k];
  }
  int64_t x = begin;
  for (; x + kWidth <= count; x += kWidth) {
    Doubles sum = from != nullptr ? load_doubles(from + x) : Doubles{};
    for (int64_t k = 0; k < Taps; ++k) {
      sum = Arithmetic<Doubles>::fma(Doubles{} + weight[k], load_doubles(row[k] + x), sum);
    }
    finish(x, sum);
  }
  for (; x < count; ++x) {
    double sum = from != nullptr ? from[x] : 0.0;
    for (int64_t k = 0; k < Taps; ++k) sum = Arithmetic<double>::fma(weight[k], double(row[k][x]), sum);
    finish(x, sum);
  }
}

template <typename T, typename Finish>
BITRATE_HD void sum_few_rows(const T* const* rows, const double* weights, int64_t taps, const double* from, int64_t begin,
                             int64_t count, const Finish& finish) {
  switch (taps) {
    case 0: return sum_rows<0>(rows, weights, from, begin, count, finish);
    case 1: return sum_rows<1>(rows, weights, from, begin, count, finish);
    case 2: return sum_rows<2>(rows, weights, from, begin, count, finish);
    case 3: return sum_rows<3>(rows, weights, from, begin, count, finish);
    default: return sum_rows<4>(rows, weights, from, begin, count, finish);
  }
}

template <typename T>
void add_rows(const T* const* rows, const double* weights, int64_t taps, int64_t count, double* sums) {
  for (int64_t k = 0; k < taps; k += kRowsAtOnce) {
    sum_few_rows(rows + k, weights + k, std::min(kRowsAtOnce, taps - k), sums, 0, count,
                 [&](int64_t x, const auto& sum) { store(sums + x, sum); });
  }
}

template <bool Streaming>
BITRATE_HD void write_few_rows(const double* const* rows, const double* weights, int64_t taps, const double* from,
                               int64_t count, float* map) {
  const auto write = [&](int64_t x, const auto& sum) {
    if constexpr (std::is_same_v<std::decay_t<decltype(sum)>, double>) {
      map[x] = Rounded<float>::from(sum);
    } else if constexpr (Streaming) {
      stream(map + x, rounded(sum));
    } else {
      store(map + x, rounded(sum));
    }
  };
  int64_t head = 0;
  if constexpr (Streaming) {  // up to the first 32-byte boundary
    head = std::min<int64_t>(count, int64_t((32 - reinterpret_cast<uintptr_t>(map) % 32) % 32 / sizeof(float)));
    sum_few_rows(rows, weights, taps, from, 0, head, write);
  }
  sum_few_rows(rows, weights, taps, from, head, count, write);
}

void write_rows(const double* const* rows, const double* weights, int64_t taps, int64_t count, bool streaming, float* map) {
  double sums[kPixelBlock];
  const double* from = nullptr;
  int64_t done = 0;
  if (taps > kRowsAtOnce) {
    done = (taps - 1) / kRowsAtOnce * kRowsAtOnce;
    std::fill(sums, sums + count, 0.0);
    add_rows(rows, weights, done, count, sums);
    from = sums;
  }
  if (streaming) {
    write_few_rows<true>(rows + done, weights + done, taps - done, from, count, map);
  } else {
    write_few_rows<false>(rows + done, weights + done, taps - done, from, count, map);
  }
}

void canonicalise(double* values, int64_t count) {
  for (int64_t x = 0; x < count; ++x) values[x] = Rounded<double>::from(values[x]);
}

void fence() { stream_fence(); }

// Eight quotients in the gradient's type.
BITRATE_HD void store_rounded(float* to, Doubles values, bool streaming) {
  if (streaming) {
    stream(to, rounded(values));
  } else {
    store(to, rounded(values));
  }
}

template <typename T>
BITRATE_HD void store_rounded(T* to, Doubles values, bool) {
  for (int64_t i = 0; i < kWidth; ++i) to[i] = Rounded<T>::from(values[i]);
}

// One run of adjacent elements; shared(x) gives the numerators, singly or by eights.
template <typename T, typename Shared>
BITRATE_HD void divide_run(const T* likelihoods, int64_t count, const Shared& shared, bool streaming, T* gradient) {
  int64_t x = 0;
  Words signs = {};
  const auto one = [&] {
    gradient[x] = Rounded<T>::from(shared(x, double{}) / to_double(likelihoods[x]));
    ++x;
  };
  while (streaming && x < count && reinterpret_cast<uintptr_t>(gradient + x) % 32 != 0) one();
  for (; x + kWidth <= count; x += kWidth) {
    store_rounded(gradient + x, shared(x, Doubles{}) / load_likelihoods(likelihoods + x, signs), streaming);
  }
  while (x < count) one();
}

template <typename T>
void gradient_loop(const double* shared, const void* from, int64_t count, int64_t channels, CellStrides strides,
                   CellStrides gradient_strides, bool streaming, void* to) {
  const T* likelihoods = static_cast<const T*>(from);
  T* gradient = static_cast<T*>(to);
  if (strides.cell == 1 && gradient_strides.cell == 1) {
    const auto by_cell = [&](int64_t x, auto kind) {
      if constexpr (std::is_same_v<decltype(kind), double>) {
        return shared[x];
      } else {
        return load<Doubles>(shared + x);
      }
    };
    for (int64_t c = 0; c < channels; ++c) {
      divide_run(likelihoods + c * strides.channel, count, by_cell, streaming, gradient + c * gradient_strides.channel);
    }
  } else if (strides.channel == 1 && gradient_strides.channel == 1) {
    for (int64_t j = 0; j < count; ++j) {
      const auto by_channel = [&](int64_t, auto kind) { return decltype(kind){} + shared[j]; };
      divide_run(likelihoods + j * strides.cell, channels, by_channel, streaming, gradient + j * gradient_strides.cell);
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t c = 0; c < channels; ++c) {
        const double p = to_double(likelihoods[j * strides.cell + c * strides.channel]);
        gradient[j * gradient_strides.cell + c * gradient_strides.channel] = Rounded<T>::from(shared[j] / p);
      }
    }
  }
}

constexpr Kernels make_kernels(const char* name) {
  return {name,
          {cell_bits_loop<double>, cell_bits_loop<float>, cell_bits_loop<Half>, cell_bits_loop<BFloat16>},
          apply_columns,
          add_rows<double>,
          add_rows<float>,
          write_rows,
          canonicalise,
          {gradient_loop<double>, gradient_loop<float>, gradient_loop<Half>, gradient_loop<BFloat16>},
          fence};
}

}  // namespace
}  // namespace bitrate
