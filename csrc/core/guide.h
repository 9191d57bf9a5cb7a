// A guide from a picture (see docs/projections.md), in float32 with the order of arithmetic fixed. Each pixel's is a power
// of two of what the picture has around it: the logarithms of
//   near, far   gradient's energy summed over 3 x 3 and 9 x 9 pixels,
//   texture     energy of what a mean over 3 x 3 leaves, summed over 3 x 3,
// each weighted, and its mid-tones and its place in its cell. Sums go down columns, then along rows, by threes, and nine are
// three threes; none is carried on from pixel to pixel, so a part of a picture has the bytes of the whole. Means are sums:
// what divides them is in `offset`. Picture, energies and texture go on beyond the borders as they end.
// Formulas are templates over a float or a vector of floats.
#pragma once

#include "launch.h"

namespace bitrate {

constexpr int32_t kGuideReach = 5;   // pixels that a guide depends on to each side
constexpr double kMostWeight = 2.5;  // of a feature, and the largest logarithm of a place's factor

// A picture [batch, channels, height, width]; strides in elements.
struct Picture {
  const void* data;
  DType dtype;
  int64_t batch, channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
};

// Weights of logarithms to the base of two, and of mid-tones; what is added for each place in a cell; and what each of
// other than three channels counts for luminance, since a division's own code flushes to zero on a GPU.
struct GuideWeights {
  float near, far, texture, middle, offset, channel;
};

// Of the natural weights of features.
inline GuideWeights guide_weights(const double (&weights)[4], int64_t channels) {
  constexpr double kLog36 = 5.169925001442312, kLog324 = 8.339850002884624, kLog729 = 9.509775004326936, kShort = 3.04004025,
                   kLog2E = 1.4426950408889634;
  return {float(weights[0]),
          float(weights[1]),
          float(weights[2]),
          float(weights[3] * kLog2E),
          float(-(weights[0] * kLog36 + weights[1] * kLog324 + weights[2] * kLog729 +
                  kShort * (weights[0] + weights[1] + weights[2]))),
          1.0f / float(channels)};
}

template <typename Float>
struct Single;

template <>
struct Single<float> {
  static BITRATE_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static BITRATE_HD float max(float a, float b) { return a > b ? a : b; }
  static BITRATE_HD float min(float a, float b) { return a < b ? a : b; }
  static BITRATE_HD float from(int32_t value) { return float(value); }
  static BITRATE_HD int32_t bits(float value) { return bits_as<int32_t>(value); }
  // value * 2^n, where `whole` has n in its lowest bits; whatever they are, of NaN.
  static BITRATE_HD float scaled(float value, float whole) {
    return bits_as<float>(bits_as<uint32_t>(value) + (bits_as<uint32_t>(whole) << 23));
  }
  // Of a normal number above zero; the mantissa in [1, 2).
  static BITRATE_HD float mantissa(float value) { return bits_as<float>((bits(value) & 0x7fffff) | 0x3f800000); }
  static BITRATE_HD float exponent(float value) { return from((bits(value) >> 23) - 127); }
};

BITRATE_HD float to_single(double value) { return float(value); }
template <typename T>
BITRATE_HD float to_single(T value) {
  return to_float(value);
}

// A channel as it counts: in [0, 1]. NaN stays.
template <typename Float>
BITRATE_HD Float clamped(Float value) {
  return Single<Float>::min(Float{} + 1.0f, Single<Float>::max(Float{}, value));
}

// Luminance of R, G and B (ITU-R BT.601).
template <typename Float>
BITRATE_HD Float luminance(Float r, Float g, Float b) {
  using S = Single<Float>;
  return S::fma(Float{} + 0.114f, clamped(b), S::fma(Float{} + 0.587f, clamped(g), 0.299f * clamped(r)));
}

// Four times the energy of a gradient.
template <typename Float>
BITRATE_HD Float energy(Float left, Float right, Float up, Float down) {
  using S = Single<Float>;
  const Float across = right - left, along = down - up;
  return S::fma(across, across, S::fma(along, along, Float{} + 4e-3f));
}

// 81 times the energy of texture, of the sum of nine pixels around one.
template <typename Float>
BITRATE_HD Float texture(Float own, Float around) {
  const Float left = Single<Float>::fma(Float{} + 9.0f, own, 0.0f - around);
  return Single<Float>::fma(left, left, Float{} + 81e-4f);
}

template <typename Float>
BITRATE_HD Float sum3(Float a, Float b, Float c) {
  return a + b + c;
}

// log2 of a normal number above zero, and 3.04004025 (kShort below) more, within 5e-6: the exponent, and a polynomial of the
// mantissa.
template <typename Float>
BITRATE_HD Float log2_of(Float value) {
  using S = Single<Float>;
  const Float zero{}, m = S::mantissa(value);
  Float series = zero - 0.0256910883f;
  series = S::fma(series, m, zero + 0.275148779f);
  series = S::fma(series, m, zero - 1.2669183f);
  series = S::fma(series, m, zero + 3.28652883f);
  series = S::fma(series, m, zero - 5.34198904f);
  series = S::fma(series, m, zero + 6.1129632f);
  return S::fma(series, m, S::exponent(value));
}

// 2^value within 3e-6 of it, for values from -126 to 127.
template <typename Float>
BITRATE_HD Float exp2_of(Float value) {
  using S = Single<Float>;
  constexpr float kToWhole = 12582912.0f;  // 1.5 * 2^23: the last bit of a sum with it is one
  const Float zero{}, shifted = value + kToWhole, rest = value - (shifted - kToWhole);
  Float series = zero + 0.00968191028f;
  series = S::fma(series, rest, zero + 0.0559196956f);
  series = S::fma(series, rest, zero + 0.240220204f);
  series = S::fma(series, rest, zero + 0.693121552f);
  series = S::fma(series, rest, zero + 1.0f);
  return S::scaled(series, shifted);
}

// The exponent of a place in its cell, of the natural logarithm of its factor.
BITRATE_HD float place_exponent(const GuideWeights& w, float phase) {
  return Single<float>::fma(phase, 1.44269504f, w.offset);  // log2 e
}

// No weight is above kMostWeight, so 2^-88 < guide < 2^88 and bitrate_map takes it as it is: means of energy are from
// 2^-10 to 2^-0.9 and of texture from 2^-13.3 to 2^0.1, so that exponents are up to 2.5 * (10 + 10 + 13.3 + (1/4 + 1) / ln
// 2). One fixed NaN wherever a pixel is NaN that it depends on: each is in the sum of `far`.
template <typename Float>
BITRATE_HD Float guide_of(GuideWeights w, Float near, Float far, Float texture, Float own, Float place) {
  using S = Single<Float>;
  const Float zero{};
  Float exponent = S::fma(S::fma(zero - w.middle, own, zero + w.middle), own, place);
  exponent = S::fma(zero + w.near, log2_of(near), exponent);
  exponent = S::fma(zero + w.far, log2_of(far), exponent);
  exponent = S::fma(zero + w.texture, log2_of(texture), exponent);
  return far == far ? exp2_of(exponent) : bits_as<Float>(S::bits(zero) + 0x7fc00000);
}

}  // namespace bitrate
