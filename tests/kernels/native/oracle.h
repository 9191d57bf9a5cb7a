// The definition of the map and of its gradient once more, for one thread and without vectors. It shares no formula with
// csrc/: numbers are decoded by ldexp, rounded to 16 bits by search, and weighed with the C library's fma; bits are the sum
// of the C library's logarithms in 80 bits. Only the last bytes of a cell's bits come from core/bits.h, checked by them.
#pragma once

#include <cmath>
#include <limits>

#include "core/bits.h"
#include "cpu/project.h"

namespace oracle {

using namespace bitrate;

inline double value_of(double value) { return value; }
inline double value_of(float value) { return value; }

// `places` bits of mantissa below an exponent whose smallest normal number is 2^least.
inline double decoded(uint16_t bits, int places, int least) {
  const int exponent = (bits & 0x7fff) >> places, mantissa = bits & ((1 << places) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (0x7fff >> places)) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, least - places);
  return sign * std::ldexp(mantissa + (1 << places), exponent - 1 + least - places);
}

inline double value_of(Half value) { return decoded(value.bits, 10, -14); }
inline double value_of(BFloat16 value) { return decoded(value.bits, 7, -126); }

// The number to which a magnitude of `infinity` or more is rounded has this value while a neighbour is looked for.
template <typename T>
double past_the_largest() {
  return std::is_same_v<T, Half> ? 65536.0 : std::ldexp(1.0, 128);
}

// Nearest of a 16-bit format, ties to even, NaN as one pattern and zero without a sign.
template <typename T>
struct Nearest {
  static T of(double wide) {
    const double value = double(float(wide));
    const uint16_t infinity = std::is_same_v<T, Half> ? 0x7c00 : 0x7f80;
    const uint16_t quiet = std::is_same_v<T, Half> ? 0x7e00 : 0x7fc0;
    if (std::isnan(value)) return {quiet};
    const double size = std::fabs(value);
    int low = 0, high = infinity;  // the number of `low` is not above, that of `high` is
    if (size >= past_the_largest<T>()) low = infinity;
    while (low + 1 < high) {
      const int middle = (low + high) / 2;
      (value_of(T{uint16_t(middle)}) <= size ? low : high) = middle;
    }
    if (low < infinity) {
      const double above = low + 1 == infinity ? past_the_largest<T>() : value_of(T{uint16_t(low + 1)});
      const double down = size - value_of(T{uint16_t(low)}), up = above - size;
      if (up < down || (up == down && low % 2 == 1)) ++low;
    }
    return {uint16_t(low == 0 ? 0 : (value < 0.0 ? 0x8000 | low : low))};
  }
};

template <>
struct Nearest<float> {
  static float of(double wide) {
    const float value = float(wide);
    if (std::isnan(value)) return bits_as<float>(uint32_t(0x7fc00000));
    return value == 0.0f ? 0.0f : value;
  }
};

template <>
struct Nearest<double> {
  static double of(double value) {
    if (std::isnan(value)) return bits_as<double>(uint64_t(0x7ff8000000000000));
    return value == 0.0 ? 0.0 : value;
  }
};

// Whether `bits` are those of a cell, to a few times of what logarithm, products and rounding are seen to lose; of float64
// likelihoods to what each logarithm may lose (core/bits.h), since equal ones lose the same.
template <typename T>
bool close_to_logarithms(double bits, const T* likelihoods, int64_t channels, int64_t stride) {
  long double exact = 0.0L, size = 0.0L;
  for (int64_t c = 0; c < channels; ++c) {
    const long double one = -log2l((long double)value_of(likelihoods[c * stride]));
    exact += one;
    size += fabsl(one);
  }
  if (std::isnan((double)exact) || std::isinf((double)exact)) {
    return std::isnan(bits) == std::isnan((double)exact) && (std::isnan(bits) || bits == (double)exact);
  }
  const long double lost = std::is_same_v<T, double> ? 4e-16L * size : 5e-17L * (channels + 8) + 3e-16L * fabsl(exact);
  return fabsl(bits - exact) <= lost;
}

inline double weighed(double sum, double weight, double value) { return weight != 0.0 ? std::fma(weight, value, sum) : sum; }

// values [band.columns] spread by a band: [band.rows], `step` elements apart in both.
inline double row_of(const Band& band, int64_t row, const double* values, int64_t step) {
  double sum = 0.0;
  for (int64_t t = 0; t < band.taps; ++t) {
    sum = weighed(sum, band.weight[t * band.rows + row], values[(band.start[row] + t) * step]);
  }
  return sum;
}

// Adds rows * bits * columns^T of one image to sums [H, W]; bits [h, w].
inline void spread(const Band& rows, const Band& columns, const std::vector<double>& bits, std::vector<double>& sums) {
  std::vector<double> wide(rows.columns * columns.rows);
  for (int64_t i = 0; i < rows.columns; ++i) {
    for (int64_t x = 0; x < columns.rows; ++x) {
      wide[i * columns.rows + x] = row_of(columns, x, bits.data() + i * columns.columns, 1);
    }
  }
  for (int64_t y = 0; y < rows.rows; ++y) {
    for (int64_t t = 0; t < rows.taps; ++t) {
      const double weight = rows.weight[t * rows.rows + y];
      if (weight == 0.0) continue;
      const double* from = wide.data() + (rows.start[y] + t) * columns.rows;
      for (int64_t x = 0; x < columns.rows; ++x) {
        sums[y * columns.rows + x] = std::fma(weight, from[x], sums[y * columns.rows + x]);
      }
    }
  }
}

// `factor` times rows * grad * columns^T of one image, bands transposed: [h, w] from grad [H, W].
inline std::vector<double> shared(const Band& rows, const Band& columns, const std::vector<double>& grad, double factor) {
  std::vector<double> tall(rows.rows * columns.columns), cells(rows.rows * columns.rows);
  for (int64_t i = 0; i < rows.rows; ++i) {
    for (int64_t x = 0; x < columns.columns; ++x) {
      tall[i * columns.columns + x] = row_of(rows, i, grad.data() + x, columns.columns);
    }
    for (int64_t j = 0; j < columns.rows; ++j) {
      cells[i * columns.rows + j] = row_of(columns, j, tall.data() + i * columns.columns, 1) * factor;
    }
  }
  return cells;
}

}  // namespace oracle
