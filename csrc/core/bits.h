// Bits of one latent cell: -log2 of the product of its likelihoods, with the order of arithmetic fixed.
//
// The channels of a cell are dealt to kLanes lanes (channel c to lane c % kLanes). Each lane multiplies its likelihoods in
// float64, kGroup at a time, and each group's product into the lane's running product, which is then brought back to
// [1, 16) by an exact power of two whose exponent is counted. At the end the lanes are multiplied and one log2 is taken.
// Only the multiplications round (2^-53 each), so the result is far closer to the true sum than a float32 sum of logs.
// A CPU may vectorise over cells, or over lanes where channels are adjacent in memory; a GPU may give lanes and groups to
// different threads: the bytes stay the same. Formulas are templates over a scalar or a vector of scalars.
#pragma once

#include "scalar.h"

namespace bitrate {

constexpr int64_t kLanes = 8;
// Six float32 values, subnormals included, stay inside float64's range: 1.4e-45^6 > 2.2e-308 and 3.4e38^6 < 1.8e308.
constexpr int64_t kGroup = 6;

// What a formula needs beyond operators, for a scalar or a vector of doubles.
template <typename Double>
struct Arithmetic;

template <>
struct Arithmetic<double> {
  static BITRATE_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
  static BITRATE_HD int64_t shift_right(int64_t value, int places) { return value >> places; }  // of 0 and more
  static BITRATE_HD double from(int64_t value) { return double(value); }
};

// Channels dealt to `lane` of a cell.
BITRATE_HD int64_t lane_channels(int64_t channels, int64_t lane) {
  return lane < channels ? (channels - lane + kLanes - 1) / kLanes : 0;
}

BITRATE_HD int64_t lane_groups(int64_t channels, int64_t lane) {
  return (lane_channels(channels, lane) + kGroup - 1) / kGroup;
}

// Groups of all lanes: how often `rebase` runs for one cell.
BITRATE_HD int64_t count_groups(int64_t channels) {
  int64_t groups = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) groups += lane_groups(channels, lane);
  return groups;
}

// Bring a non-negative normal product to [1, 16) and add the exponent taken out, plus 1023, to `exponent`. Zero, infinity
// and NaN keep their value: only the upper bits of the exponent field count, so the factor is never zero or infinite.
template <typename Double, typename Int>
BITRATE_HD void rebase(Double& product, Int& exponent) {
  const Int field = bits_as<Int>(product) & 0x7fc0000000000000;
  product = product * bits_as<Double>(0x7fe0000000000000 - field);
  exponent = exponent + Arithmetic<Double>::shift_right(field, 52);
}

// -(log2(product) + exponent - 1023 * groups) for a product in [1, 2^64), or 0, infinity or NaN, as IEEE's log2 has it.
// Only + - * / and fma, so every processor agrees to the last bit. The mantissa is brought to [sqrt(1/2), sqrt(2)), and
// log2 m = 2 / ln 2 * atanh((m - 1) / (m + 1)) as a series of ten terms: relative error 4e-16, next to m = 1 too.
template <typename Double, typename Int>
BITRATE_HD Double bits_of(Double product, Int exponent, int64_t groups) {
  using A = Arithmetic<Double>;
  const Double zero = {};
  const Int pattern = bits_as<Int>(product) & 0x7fffffffffffffff;        // -0 is special, as 0 is
  const Int shift = (pattern - 0x3fe6a09e667f3bcd) >> 52;                // the pattern of sqrt(1/2)
  const Double m = bits_as<Double>(pattern - shift * 0x10000000000000);  // 2^52
  const Double s = (m - 1.0) / (m + 1.0);
  const Double z = s * s;
  Double series = zero + 0.15186263588304877;  // 2 / (19 ln 2)
  series = A::fma(series, z, zero + 0.16972882833987804);
  series = A::fma(series, z, zero + 0.19235933878519512);
  series = A::fma(series, z, zero + 0.22195308321368667);
  series = A::fma(series, z, zero + 0.26230818925253877);
  series = A::fma(series, z, zero + 0.32059889797532517);
  series = A::fma(series, z, zero + 0.41219858311113238);
  series = A::fma(series, z, zero + 0.57707801635558531);
  series = A::fma(series, z, zero + 0.96179669392597556);
  series = A::fma(series, z, zero + 2.8853900817779268);  // 2 / ln 2
  const Double finite = 0.0 - A::fma(s, series, A::from(exponent + shift - 1023 * groups));
  const Double infinity = zero + __builtin_inf();
  const Double special = product == 0.0 ? infinity : 0.0 - product;
  return (product >= 1.0) & (product < infinity) ? finite : special;
}

// A likelihood as the products take it: NaN where it is negative, as log2 has it. -0 may stay: a product of zero is
// infinitely many bits whatever its sign.
BITRATE_HD double factor(double likelihood) { return likelihood < 0.0 ? __builtin_nan("") : likelihood; }

// The narrower formats compare before they widen: float64 comparisons are slow on most GPUs.
template <typename T>
BITRATE_HD double factor(T likelihood) {
  const float value = to_float(likelihood);
  return double(value < 0.0f ? __builtin_nanf("") : value);
}

// The definition, for one cell of float32 or 16-bit likelihoods, `stride` elements from channel to channel.
template <typename T>
BITRATE_HD double cell_bits(const T* likelihoods, int64_t channels, int64_t stride) {
  double product = 1.0;
  int64_t exponent = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    double lane_product = 1.0;
    for (int64_t first = lane; first < channels; first += kGroup * kLanes) {
      double group = 1.0;
      for (int64_t c = first; c < channels && c < first + kGroup * kLanes; c += kLanes) {
        group = group * factor(likelihoods[c * stride]);
      }
      lane_product = lane_product * group;
      rebase(lane_product, exponent);
    }
    product = product * lane_product;
  }
  return bits_of(product, exponent, count_groups(channels));
}

// Bits of one float64 likelihood; two rebasings bring subnormals to [1, 16) too.
BITRATE_HD double likelihood_bits(double likelihood) {
  double product = factor(likelihood);
  int64_t exponent = 0;
  rebase(product, exponent);
  rebase(product, exponent);
  return bits_of(product, exponent, 2);
}

// A sum and the roundings that it lost (Knuth's two-sum).
struct CompensatedSum {
  double sum = 0.0;
  double lost = 0.0;

  BITRATE_HD void add(double value) {
    const double total = sum + value;
    const double part = total - sum;
    lost += (sum - (total - part)) + (value - part);
    sum = total;
  }
  BITRATE_HD double value() const { return lost - lost == 0.0 ? sum + lost : sum; }  // `lost` is NaN beside infinities
};

// The definition for float64 likelihoods, where a float64 product would lose what is next to 1: a compensated sum of logs.
template <>
BITRATE_HD double cell_bits<double>(const double* likelihoods, int64_t channels, int64_t stride) {
  CompensatedSum bits;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    CompensatedSum lane_bits;
    for (int64_t c = lane; c < channels; c += kLanes) lane_bits.add(likelihood_bits(likelihoods[c * stride]));
    bits.add(lane_bits.value());
  }
  return bits.value();
}

}  // namespace bitrate
