// The bodies behind `Kernels`. Included by each kernels_*.cpp after it has chosen an instruction set; everything here is in
// an unnamed namespace, so that no copy can be linked in place of another.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../core/bands.h"
#include "guide_loops.h"
#include "kernels.h"
#include "sources.h"
#include "vector.h"

namespace bitrate {
namespace {
constexpr int64_t kSlots = kCellBlock / kWidth;

// A vector of cells is a slot; the last slot reaches back, so that any count of a vector or more needs no scalar rest.
BITRATE_HD int64_t slot_cell(int64_t slot, int64_t count) {
  return slot * kWidth + kWidth <= count ? slot * kWidth : count - kWidth;
}

template <typename T>
const T* block_of_ones() {
  static const auto block = [] {
    struct Block {
      T values[kCellBlock];
    } filled;
    for (T& value : filled.values) value = Rounded<T>::from(1.0);
    return filled;
  }();
  return block.values;
}

// What a block of cells keeps between its channels.
struct CellProducts {
  Doubles lane[kSlots];   // running product of the present lane
  Doubles all[kSlots];    // product of the finished lanes
  Ints exponent[kSlots];  // see `rebase`
  Ints signs = {};        // see `collect_signs`
};

// Slots multiplied side by side: as many as the registers of AVX2 hold.
constexpr int kSlotsAtOnce = 2;

// Likelihoods of `Slots` vectors of cells, as something whose vectors load quickly: float32 in memory.
template <int Slots, typename T>
struct Line {
  alignas(64) float values[Slots * kWidth];

  BITRATE_HD explicit Line(const T* from) {
    if constexpr (Slots == 1) {
      store(values, load_floats(from));
    } else {
      for (int i = 0; i < Slots; i += 2) store(values + i * kWidth, load_two(from + i * kWidth));
    }
  }
  BITRATE_HD Doubles vector(int i) const { return load_doubles(values + i * kWidth); }
};

template <int Slots>
struct Line<Slots, float> {
  const float* values;

  BITRATE_HD explicit Line(const float* from) : values(from) {}
  BITRATE_HD Doubles vector(int i) const { return load_doubles(values + i * kWidth); }
};

// Multiply a group of a lane's channels into `Slots` slots; channels[k] points at the block's first cell.
template <int Slots, typename T>
BITRATE_HD void multiply_slots(const T* const (&channels)[kGroup], const T* const (&coming)[kGroup], int64_t slot,
                               int64_t count, bool first, bool last, CellProducts& products) {
  Doubles group[Slots];
  const int64_t cell = slot_cell(slot, count);
  for (const T* channel : coming) prefetch(channel + cell);
  for (int64_t k = 0; k < kGroup; k += 2) {
    const Line<Slots, T> line(channels[k] + cell), next(channels[k + 1] + cell);
    for (int i = 0; i < Slots; ++i) {
      const Doubles one = line.vector(i), other = next.vector(i);
      collect_signs(products.signs, one, other);
      group[i] = (k == 0 ? one : group[i] * one) * other;
    }
  }
  for (int i = 0; i < Slots; ++i) {
    Doubles running = first ? group[i] : products.lane[slot + i] * group[i];
    rebase(running, products.exponent[slot + i]);
    if (last) {
      products.all[slot + i] = products.all[slot + i] * running;
    } else {
      products.lane[slot + i] = running;
    }
  }
}

// Cells adjacent in memory: vectors of cells, one lane after the other, each channel read in one run.
template <typename T>
bool adjacent_cells(const T* likelihoods, int64_t count, int64_t channels, int64_t stride, double* bits) {
  CellProducts products;
  const int64_t slots = (count + kWidth - 1) / kWidth;
  for (int64_t slot = 0; slot < slots; ++slot) {
    products.all[slot] = Doubles{} + 1.0;
    products.exponent[slot] = Ints{};
  }
  for (int64_t lane = 0; lane < kLanes && lane < channels; ++lane) {
    const int64_t groups = lane_groups(channels, lane);
    for (int64_t group = 0; group < groups; ++group) {
      const T *factors[kGroup], *coming[kGroup];
      const bool more = group + 1 < groups;
      for (int64_t k = 0; k < kGroup; ++k) {
        const int64_t c = lane + (group * kGroup + k) * kLanes;
        factors[k] = c < channels ? likelihoods + c * stride : block_of_ones<T>();
        const int64_t then = more ? c + kGroup * kLanes : lane + 1 + k * kLanes;
        coming[k] = then < channels ? likelihoods + then * stride : factors[k];
      }
      const bool first = group == 0, last = group + 1 == groups;
      int64_t slot = 0;
      for (; (slot + kSlotsAtOnce) * kWidth <= count; slot += kSlotsAtOnce) {
        multiply_slots<kSlotsAtOnce>(factors, coming, slot, count, first, last, products);
      }
      for (; slot < slots; ++slot) multiply_slots<1>(factors, coming, slot, count, first, last, products);
    }
  }
  if (any_negative(products.signs)) return false;
  const int64_t rebased = count_groups(channels);
  for (int64_t slot = 0; slot < slots; ++slot) {
    store(bits + slot_cell(slot, count), bits_of(products.all[slot], products.exponent[slot], rebased));
  }
  return true;
}

// Channels adjacent in memory (channels_last): vectors of lanes, several cells at a time; a vector of cells is finished
// together. A lane with fewer groups than the first is rebased as often as it: exact, and counted.
template <typename T>
bool adjacent_channels(const T* likelihoods, int64_t count, int64_t channels, int64_t stride, double* bits) {
  constexpr int64_t kParts = kLanes / kWidth;  // vectors that hold the lanes of a cell
  constexpr int64_t kCells = kWidth < 4 ? kWidth : 4;
  Doubles lanes[kParts][kWidth];  // a vector for each cell; once transposed, for each lane
  Ints exponents[kParts][kWidth];
  T tail[kCells][kLanes];  // the last channels of each cell, filled up with ones
  Ints signs = {};
  const int64_t whole = channels / kLanes, rest = channels % kLanes;
  const int64_t vectors = whole + (rest != 0), groups = (vectors + kGroup - 1) / kGroup;
  for (int64_t slot = 0; slot * kWidth < count; ++slot) {
    const int64_t cell = slot_cell(slot, count);
    for (int64_t first = 0; first < kWidth; first += kCells) {
      const T *from[kCells], *coming[kCells];
      Doubles running[kCells][kParts];
      Ints powers[kCells][kParts];
      for (int64_t i = 0; i < kCells; ++i) {
        const int64_t j = cell + first + i;
        from[i] = likelihoods + j * stride;
        coming[i] = j + kCells < count ? from[i] + kCells * stride : from[i];
        for (int64_t part = 0; part < kParts; ++part) {
          running[i][part] = Doubles{} + 1.0;
          powers[i][part] = Ints{};
        }
        for (int64_t lane = 0; rest != 0 && lane < kLanes; ++lane) {
          tail[i][lane] = lane < rest ? from[i][whole * kLanes + lane] : *block_of_ones<T>();
        }
      }
      const auto multiply = [&](int64_t begin, bool ahead, const auto& channels_of) {
        Doubles group[kCells][kParts] = {};
        for (int64_t vector = begin; vector < begin + kGroup; vector += 2) {
          for (int64_t i = 0; i < kCells; ++i) {
            const T *line = channels_of(i, vector), *next = channels_of(i, vector + 1);
            for (int64_t part = 0; part < kParts; ++part) {
              const Doubles one = load_doubles(line + part * kWidth), other = load_doubles(next + part * kWidth);
              collect_signs(signs, one, other);
              group[i][part] = (vector == begin ? one : group[i][part] * one) * other;
            }
            if (ahead) prefetch(coming[i] + vector * kLanes);
          }
        }
        for (int64_t i = 0; i < kCells; ++i) {
          for (int64_t part = 0; part < kParts; ++part) {
            running[i][part] = running[i][part] * group[i][part];
            rebase(running[i][part], powers[i][part]);
          }
        }
      };
      int64_t begin = 0;
      for (; begin + kGroup <= whole; begin += kGroup) {
        multiply(begin, true, [&](int64_t i, int64_t vector) { return from[i] + vector * kLanes; });
      }
      if (begin < vectors) {
        multiply(begin, false, [&](int64_t i, int64_t vector) {
          return vector < whole ? from[i] + vector * kLanes : vector < vectors ? tail[i] : block_of_ones<T>();
        });
      }
      for (int64_t i = 0; i < kCells; ++i) {
        for (int64_t part = 0; part < kParts; ++part) {
          lanes[part][first + i] = running[i][part];
          exponents[part][first + i] = powers[i][part];
        }
      }
    }
    Doubles product = Doubles{} + 1.0;
    Ints exponent = {};
    for (int64_t part = 0; part < kParts; ++part) {
      transpose(lanes[part]);
      transpose(exponents[part]);
      for (int64_t lane = 0; lane < kWidth; ++lane) {
        product = product * lanes[part][lane];
        exponent = exponent + exponents[part][lane];
      }
    }
    store(bits + cell, bits_of(product, exponent, kLanes * groups));
  }
  return !any_negative(signs);
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
        // The last block is never shorter than a vector.
        const int64_t left = count - begin;
        const int64_t block = left < kCellBlock + kWidth && left > kCellBlock ? left - kWidth : std::min(left, kCellBlock);
        const T* p = likelihoods + begin * strides.cell;
        const bool done = cells ? adjacent_cells(p, block, channels, strides.channel, bits + begin)
                                : adjacent_channels(p, block, channels, strides.cell, bits + begin);
        if (!done) one_by_one(begin, begin + block);  // a negative likelihood
        begin += block;
      }
      return;
    }
  }
  one_by_one(0, count);
}

// Bits that are given.
template <typename T>
void given_bits_loop(const void* from, int64_t count, int64_t, CellStrides strides, double* bits) {
  const T* cells = static_cast<const T*>(from);
  int64_t j = 0;
  if (strides.cell == 1) {
    for (; j + kWidth <= count; j += kWidth) store(bits + j, load_doubles(cells + j));
  }
  for (; j < count; ++j) bits[j] = to_double(cells[j * strides.cell]);
}

bool apply_columns(const int32_t* start, const double* weight, int64_t pitch, int64_t taps, const double* values,
                   int64_t count, double* sums) {
  // The sign bit tells a sum below zero; one more in the exponent's field makes a sign bit of infinity and NaN.
  const auto irregular = [](const auto& pattern) { return pattern | (pattern + 0x10000000000000u); };
  UnsignedInts any_irregular = {};
  int64_t x = 0;
  for (; x + kWidth <= count; x += kWidth) {
    Doubles sum = {};
    const auto add = [&](int64_t t, Doubles value) {
      sum = tap<Arithmetic<Doubles>>(sum, load<Doubles>(weight + t * pitch + x), value);
    };
    if (all_equal(start + x)) {  // neighbouring pixels mostly read the same cells
      for (int64_t t = 0; t < taps; ++t) add(t, broadcast(values[start[x] + t]));
    } else {
      for (int64_t t = 0; t < taps; ++t) {
        Doubles value;
        for (int64_t i = 0; i < kWidth; ++i) value[i] = values[start[x + i] + t];
        add(t, value);
      }
    }
    any_irregular |= irregular(bits_as<UnsignedInts>(sum));
    store(sums + x, sum);
  }
  bool regular = true;
  for (; x < count; ++x) {
    double sum = 0.0;
    for (int64_t t = 0; t < taps; ++t) {
      sum = tap<Arithmetic<double>>(sum, weight[t * pitch + x], values[start[x] + t]);
    }
    regular &= irregular(bits_as<uint64_t>(sum)) >> 63 == 0;
    sums[x] = sum;
  }
  return regular && !any_negative(Ints(any_irregular));
}

// Up to twelve rows are summed in registers; more go through a buffer, twelve at a time and in the same order.
constexpr int64_t kRowsAtOnce = 12;

// sum = from[x] + sum over k of weights[k] * rows[k][x], given to finish(x, sum) a vector at a time, the rest singly.
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
      sum = Arithmetic<Doubles>::fma(broadcast(weight[k]), load_doubles(row[k] + x), sum);
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
    case 4: return sum_rows<4>(rows, weights, from, begin, count, finish);
    case 5: return sum_rows<5>(rows, weights, from, begin, count, finish);
    case 6: return sum_rows<6>(rows, weights, from, begin, count, finish);
    case 7: return sum_rows<7>(rows, weights, from, begin, count, finish);
    case 8: return sum_rows<8>(rows, weights, from, begin, count, finish);
    case 9: return sum_rows<9>(rows, weights, from, begin, count, finish);
    case 10: return sum_rows<10>(rows, weights, from, begin, count, finish);
    case 11: return sum_rows<11>(rows, weights, from, begin, count, finish);
    default: return sum_rows<12>(rows, weights, from, begin, count, finish);
  }
}

template <typename T>
void add_rows(const T* const* rows, const double* weights, int64_t taps, int64_t count, double* sums) {
  for (int64_t k = 0; k < taps; k += kRowsAtOnce) {
    sum_few_rows(rows + k, weights + k, std::min(kRowsAtOnce, taps - k), sums, 0, count,
                 [&](int64_t x, const auto& sum) { store(sums + x, sum); });
  }
}

enum class Pixels { Any, Regular, Guided };

template <Pixels kPixels, bool Streaming>
void write_few_rows(const double* const* rows, const double* weights, int64_t taps, const double* from, int64_t count,
                    const float* guide, float* map) {
  const auto write = [&](int64_t x, const auto& sum) {
    if constexpr (std::is_same_v<std::decay_t<decltype(sum)>, double>) {
      map[x] = Rounded<float>::from(kPixels == Pixels::Guided ? sum * double(guide[x]) : sum);
    } else {
      Floats result;
      if constexpr (kPixels == Pixels::Guided) {
        result = rounded(sum * load_doubles(guide + x));
      } else {
        result = kPixels == Pixels::Regular ? narrow(sum) : rounded(sum);
      }
      if constexpr (Streaming) {
        stream(map + x, result);
      } else {
        store(map + x, result);
      }
    }
  };
  int64_t head = 0;
  if constexpr (Streaming) {  // up to the first aligned vector
    const uintptr_t past = reinterpret_cast<uintptr_t>(map) % sizeof(Floats);
    head = std::min<int64_t>(count, int64_t((sizeof(Floats) - past) % sizeof(Floats) / sizeof(float)));
    sum_few_rows(rows, weights, taps, from, 0, head, write);
  }
  sum_few_rows(rows, weights, taps, from, head, count, write);
}

template <Pixels kPixels>
constexpr auto choose_stores(bool streaming) {
  return streaming ? write_few_rows<kPixels, true> : write_few_rows<kPixels, false>;
}

void write_rows(const double* const* rows, const double* weights, int64_t taps, int64_t count, bool regular, bool streaming,
                const float* guide, float* map) {
  double sums[kPixelBlock];
  const double* from = nullptr;
  int64_t done = 0;
  if (taps > kRowsAtOnce) {
    done = (taps - 1) / kRowsAtOnce * kRowsAtOnce;
    std::fill(sums, sums + count, 0.0);
    add_rows(rows, weights, done, count, sums);
    from = sums;
  }
  const auto write = guide != nullptr ? choose_stores<Pixels::Guided>(streaming)
                     : regular        ? choose_stores<Pixels::Regular>(streaming)
                                      : choose_stores<Pixels::Any>(streaming);
  write(rows + done, weights + done, taps - done, from, count, guide, map);
}

void canonicalise(double* values, int64_t count) {
  for (int64_t x = 0; x < count; ++x) values[x] = Rounded<double>::from(values[x]);
}

void fence() { stream_fence(); }

// Quotients in the gradient's type.
template <typename T>
BITRATE_HD void store_rounded(T* to, Doubles values, bool streaming) {
  const auto put = [&](const auto& result) {
    if (streaming) {
      stream(to, result);
    } else {
      store(to, result);
    }
  };
  if constexpr (std::is_same_v<T, double>) {
    for (int64_t i = 0; i < kWidth; ++i) to[i] = Rounded<double>::from(values[i]);
  } else if constexpr (std::is_same_v<T, float>) {
    put(rounded(values));
  } else {
    put(rounded(values, T{}));
  }
}

// One run of adjacent elements; shared(x) gives the numerators, singly or by vectors. The run that follows begins `ahead`
// elements on.
template <typename T, typename Shared>
BITRATE_HD void divide_run(const T* likelihoods, int64_t count, int64_t ahead, const Shared& shared, bool streaming,
                           T* gradient) {
  int64_t x = 0;
  const auto one = [&] {
    gradient[x] = Rounded<T>::from(shared(x, double{}) / to_double(likelihoods[x]));
    ++x;
  };
  while (streaming && x < count && reinterpret_cast<uintptr_t>(gradient + x) % sizeof(Floats) != 0) one();
  for (; x + kWidth <= count; x += kWidth) {
    prefetch(likelihoods + ahead + x);
    store_rounded(gradient + x, shared(x, Doubles{}) / load_doubles(likelihoods + x), streaming);
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
      const int64_t ahead = c + 1 < channels ? strides.channel : 0;
      divide_run(likelihoods + c * strides.channel, count, ahead, by_cell, streaming,
                 gradient + c * gradient_strides.channel);
    }
  } else if (strides.channel == 1 && gradient_strides.channel == 1) {
    for (int64_t j = 0; j < count; ++j) {
      const auto by_channel = [&](int64_t, auto kind) { return decltype(kind){} + shared[j]; };
      const int64_t ahead = j + 1 < count ? strides.cell : 0;
      divide_run(likelihoods + j * strides.cell, channels, ahead, by_channel, streaming,
                 gradient + j * gradient_strides.cell);
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

template <typename T>
void given_bits_gradient_loop(const double* shared, const void*, int64_t count, int64_t, CellStrides,
                              CellStrides gradient_strides, bool, void* to) {
  T* gradient = static_cast<T*>(to);
  for (int64_t j = 0; j < count; ++j) gradient[j * gradient_strides.cell] = Rounded<T>::from(shared[j]);
}

constexpr Kernels make_kernels(const char* name) {
  return {
      name,
      {{cell_bits_loop<double>, cell_bits_loop<float>, cell_bits_loop<Half>, cell_bits_loop<BFloat16>},
       {given_bits_loop<double>, given_bits_loop<float>, given_bits_loop<Half>, given_bits_loop<BFloat16>}},
      apply_columns,
      add_rows<double>,
      add_rows<float>,
      write_rows,
      canonicalise,
      {{gradient_loop<double>, gradient_loop<float>, gradient_loop<Half>, gradient_loop<BFloat16>},
       {given_bits_gradient_loop<double>, given_bits_gradient_loop<float>, given_bits_gradient_loop<Half>,
        given_bits_gradient_loop<BFloat16>}},
      {source_bits_loop<Family::Gaussian>, source_bits_loop<Family::Laplace>, source_bits_loop<Family::Logistic>,
       source_bits_loop<Family::Mixture>, source_bits_loop<Family::Factorized>},
      fill_table,
      {source_gradient_loop<Family::Gaussian>, source_gradient_loop<Family::Laplace>, source_gradient_loop<Family::Logistic>,
       source_gradient_loop<Family::Mixture>, source_gradient_loop<Family::Factorized>},
      fence,
      make_guide_block};
}

}  // namespace
}  // namespace bitrate
