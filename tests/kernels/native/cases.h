// Random likelihoods, layouts and bands for the native programs.
#pragma once

#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "oracle.h"

namespace cases {

using namespace bitrate;

inline std::mt19937 random_bits(7);
inline int64_t pick(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint64_t(high - low + 1)); }
inline double unit() { return (double(random_bits()) + 0.5) / 4294967296.0; }

constexpr unsigned char kGap = 0x5a;  // what lies between the elements of an output
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kTail = 0;  // the sanitizer watches what comes after
#else
constexpr int64_t kTail = 64;
#endif

// Elements that begin a few into an allocation and, under the sanitizer, end with it.
class Buffer {
 public:
  Buffer() : Buffer(0, 1, kGap) {}
  Buffer(int64_t count, int64_t element, unsigned char gap)
      : size_(count * element), head_(pick(0, 7) * element), bytes_(new unsigned char[head_ + size_ + kTail]), gap_(gap) {
    std::memset(bytes_.get(), gap, head_ + size_ + kTail);
  }
  unsigned char* data() const { return bytes_.get() + head_; }
  int64_t size() const { return size_; }
  bool surroundings_untouched() const {
    for (int64_t i = 0; i < head_; ++i) {
      if (bytes_[i] != gap_) return false;
    }
    for (int64_t i = head_ + size_; i < head_ + size_ + kTail; ++i) {
      if (bytes_[i] != gap_) return false;
    }
    return true;
  }

 private:
  int64_t size_, head_;
  std::shared_ptr<unsigned char[]> bytes_;
  unsigned char gap_;
};

struct Grid {
  int64_t n, c, h, w;
};

struct Strides {
  int64_t batch, channel, row, cell;
};

constexpr int kLayouts = 6;      // that an output may have
constexpr int kReadLayouts = 8;  // with those in which elements share an address
enum Layout { kContiguous, kChannelsLast, kSliced, kEverySecond, kTransposed, kSlicedChannelsLast, kOneImage, kOneChannel };

inline Strides strides_of(int layout, const Grid& g) {
  const int64_t cells = g.h * g.w;
  switch (layout) {
    case kContiguous: return {g.c * cells, cells, g.w, 1};
    case kChannelsLast: return {g.c * cells, 1, g.w * g.c, g.c};
    case kSliced: return {(g.c + 1) * (g.h + 2) * (g.w + 3), (g.h + 2) * (g.w + 3), g.w + 3, 1};
    case kEverySecond: return {g.c * cells * 2, cells * 2, g.w * 2, 2};
    case kTransposed: return {g.c * cells, cells, 1, g.h};
    case kSlicedChannelsLast: return {(g.w * (g.c + 2) + 5) * g.h, 1, g.w * (g.c + 2) + 5, g.c + 2};
    case kOneImage: return {0, cells, g.w, 1};
    default: return {cells, 0, g.w, 1};
  }
}

inline int64_t span_of(const Grid& g, const Strides& s) {
  if (g.n * g.c * g.h * g.w == 0) return 0;
  return 1 + (g.n - 1) * s.batch + (g.c - 1) * s.channel + (g.h - 1) * s.row + (g.w - 1) * s.cell;
}

// Calls each(element offset) for every element of a grid.
template <typename Each>
void for_each(const Grid& g, const Strides& s, const Each& each) {
  for (int64_t n = 0; n < g.n; ++n) {
    for (int64_t c = 0; c < g.c; ++c) {
      for (int64_t i = 0; i < g.h; ++i) {
        for (int64_t j = 0; j < g.w; ++j) each(n * s.batch + c * s.channel + i * s.row + j * s.cell);
      }
    }
  }
}

enum Kind { kUniform, kNearOne, kTiny, kDecades, kAboveOne, kFloor, kHuge, kKinds };

template <typename T>
double likelihood(int kind) {
  const double smallest = std::is_same_v<T, double>  ? 4.9406564584124654e-324
                          : std::is_same_v<T, float> ? 1.401298464324817e-45
                          : std::is_same_v<T, Half>  ? 5.9604644775390625e-8
                                                     : 9.183549615799121e-41;
  const double place = std::is_same_v<T, double>  ? std::ldexp(1.0, -53)
                       : std::is_same_v<T, float> ? std::ldexp(1.0, -24)
                       : std::is_same_v<T, Half>  ? std::ldexp(1.0, -11)
                                                  : std::ldexp(1.0, -8);
  switch (kind) {
    case kUniform: return unit();
    case kNearOne: return 1.0 - place * double(pick(0, 9));
    case kTiny: return smallest * double(pick(1, 9));
    case kDecades: return std::pow(2.0, -30.0 * unit());
    case kAboveOne: return 1.0 + 7.0 * unit();
    case kFloor: return 1e-9;
    default: return std::is_same_v<T, Half> ? 65504.0 : 3.3e38;
  }
}

struct Sample {
  Buffer buffer;
  Grid grid;
  Latent latent;
};

// Likelihoods of one kind, of which `irregular` are replaced by numbers that are no probability. The gaps hold NaN.
// Of one channel they may be bits as well.
inline Sample random_sample(DType dtype, const Grid& grid, int layout, int kind, int64_t irregular,
                            Source source = Source::Likelihoods) {
  const Strides s = strides_of(layout, grid);
  Sample sample{Buffer(span_of(grid, s), kElementSize[int(dtype)], 0xff), grid, {}};
  visit(dtype, [&](auto type) {
    using T = decltype(type);
    T* data = reinterpret_cast<T*>(sample.buffer.data());
    std::vector<T> some(97);  // enough to choose from
    for (T& value : some) value = oracle::Nearest<T>::of(likelihood<T>(kind));
    for_each(grid, s, [&](int64_t at) { data[at] = some[random_bits() % some.size()]; });
    const double values[] = {NAN, INFINITY, -INFINITY, 0.0, -0.5, -0.25, -std::ldexp(1.0, -24), 2.0};
    for (int64_t k = 0; k < irregular && grid.n * grid.c * grid.h * grid.w > 0; ++k) {
      const int64_t at = pick(0, grid.n - 1) * s.batch + pick(0, grid.c - 1) * s.channel + pick(0, grid.h - 1) * s.row +
                         pick(0, grid.w - 1) * s.cell;
      const int64_t chosen = pick(0, 10);
      if (chosen < 8) {
        data[at] = oracle::Nearest<T>::of(values[chosen]);
      } else {  // -0, and NaN of either sign with all other bits set: rounding would not keep them
        std::memset(static_cast<void*>(data + at), chosen == 8 ? 0 : 0xff, sizeof(T));
        reinterpret_cast<unsigned char*>(data + at)[sizeof(T) - 1] = chosen == 8 ? 0x80 : chosen == 9 ? 0xff : 0x7f;
      }
    }
  });
  sample.latent = {sample.buffer.data(), dtype, source, grid.n, grid.c, grid.h, grid.w, s.batch, s.channel, s.row, s.cell};
  return sample;
}

// Bits of every cell of one image by the scalar definition; false where one is not near the logarithms' sum.
inline bool scalar_bits(const Sample& sample, int64_t image, std::vector<double>& bits) {
  const Latent& latent = sample.latent;
  bits.assign(latent.h * latent.w, 0.0);
  bool close = true;
  visit(latent.dtype, [&](auto type) {
    using T = decltype(type);
    for (int64_t i = 0; i < latent.h; ++i) {
      for (int64_t j = 0; j < latent.w; ++j) {
        const T* cell = static_cast<const T*>(latent.data) + image * latent.batch_stride + i * latent.row_stride +
                        j * latent.cell_stride;
        double& found = bits[i * latent.w + j];
        if (latent.source == Source::Bits) {
          found = oracle::value_of(*cell);
          continue;
        }
        found = cell_bits(cell, latent.channels, latent.channel_stride);
        close = close && oracle::close_to_logarithms(found, cell, latent.channels, latent.channel_stride);
      }
    }
  });
  return close;
}

// A band [rows, columns] in buffers of its very size.
struct Matrix {
  std::vector<int32_t> start;
  std::vector<double> weight;
  Band band;
  Matrix(int64_t rows, int64_t columns, int64_t most_taps, bool last_column = false) : start(rows) {
    const int64_t taps = std::min(columns, pick(1, most_taps)), kind = pick(0, 3);
    weight.resize(taps * rows);
    for (int64_t r = 0; r < rows; ++r) {
      start[r] = int32_t(kind == 0 ? pick(0, columns - taps) : std::min(r * columns / rows, columns - taps));
    }
    for (double& w : weight) {  // some zeros; fractions; both signs; too small for float32
      w = pick(0, 9) == 0 ? 0.0 : kind < 2 ? double(pick(0, 4)) / 4.0 : unit() - (kind == 3 ? 0.3 : 0.0);
      if (kind == 3 && rows % 5 == 0) w *= 1e-60;
    }
    if (last_column) {
      start.back() = int32_t(columns - taps);
      weight.back() = 1.0;
    }
    band = {start.data(), weight.data(), rows, columns, taps};
  }
  Matrix(const Matrix&) = delete;
};

// The sets that this processor has; with a name, that one alone, if it has it.
inline std::vector<const Kernels*> instruction_sets(const std::string& name = "") {
  std::vector<const Kernels*> sets{&baseline_kernels};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2_kernels);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) sets.push_back(&avx512_kernels);
#endif
  std::vector<const Kernels*> chosen;
  for (const Kernels* kernels : sets) {
    if (name.empty() || name == kernels->name) chosen.push_back(kernels);
  }
  return chosen;
}

}  // namespace cases
