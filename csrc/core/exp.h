// Elementary functions of float32 in a fixed order of + - * / and fma, so that every processor gives the same bytes. Each
// is a template over float or a vector of floats; `Arithmetic` holds what differs.
#pragma once

#include "bits.h"

namespace bitrate {

template <>
struct Arithmetic<float> {
  using Int = int32_t;
  static BITRATE_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static BITRATE_HD float at_most(float x, float limit) { return x > limit ? limit : x; }
  static BITRATE_HD bool any(bool condition) { return condition; }
};

template <typename Float>
using IntOf = typename Arithmetic<Float>::Int;

// c + rest[0] x + rest[1] x^2 + ...
template <typename Float>
BITRATE_HD Float polynomial(Float, float c) {
  return Float{} + c;
}

template <typename Float, typename... Rest>
BITRATE_HD Float polynomial(Float x, float c, Rest... rest) {
  return Arithmetic<Float>::fma(polynomial(x, rest...), x, Float{} + c);
}

template <typename Float>
BITRATE_HD Float magnitude(Float x) {
  return bits_as<Float>(bits_as<IntOf<Float>>(x) & 0x7fffffff);
}

// The lesser; a NaN of x stays.
template <typename Float>
BITRATE_HD Float at_most(Float x, float most) {
  return Arithmetic<Float>::at_most(x, Float{} + most);
}

// 2^exponent for an exponent of 127 at most; 0 below -126.
template <typename Float>
BITRATE_HD Float power_of_two(IntOf<Float> exponent) {
  const IntOf<Float> biased = exponent + 127, none = {};
  return bits_as<Float>((biased > none ? biased : none) << 23);
}

// A number of 44 bits and more: a float, and what it is rounded by.
template <typename Float>
struct Pair {
  Float high, low;
};

// a + b without a rounding (Knuth's two-sum).
template <typename Float>
BITRATE_HD Pair<Float> sum_of(Float a, Float b) {
  const Float sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

template <typename Float>
BITRATE_HD Float fused(Float a, Float b, Float c) {
  return Arithmetic<Float>::fma(a, b, c);
}

template <typename Float>
BITRATE_HD Pair<Float> fused(Pair<Float> a, Pair<Float> b, Pair<Float> c) {
  const Float product = a.high * b.high;
  const Pair<Float> sum = sum_of(product, c.high);
  const Float rest = fused(a.high, b.low, fused(a.low, b.high, fused(a.high, b.high, -product)));
  return sum_of(sum.high, sum.low + (c.low + rest));
}

// (1 + excess) 2^exponent, |excess| < 1/2.
template <typename Float>
struct Power {
  Float excess;
  IntOf<Float> exponent;

  BITRATE_HD Float value() const {
    const Float whole = power_of_two<Float>(exponent);
    return Arithmetic<Float>::fma(whole, excess, whole);
  }
  // 1 - value, next to 1 too.
  BITRATE_HD Float complement() const {
    const Float whole = power_of_two<Float>(exponent);
    return Arithmetic<Float>::fma(Float{} - whole, excess, 1.0f - whole);
  }
};

constexpr float kMostBits = 4e6f;  // of a symbol: what costs more counts as this
constexpr float kLog2E = 1.44269504f;

// 2^-(y + low) for y >= 0 and a low part of at most a bit; relative error 6e-8, and of y's rounding what is unavoidable.
template <typename Float>
BITRATE_HD Power<Float> power_of_half(Float y, Float low = Float{}) {
  y = at_most(y, kMostBits);
  const Float shifted = y + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to a whole number, in its last bits
  const Float rest = shifted - 12582912.0f - y - low;
  const Float slope = polynomial(rest, 0.69314718f, 0.24022648f, 0.055503324f, 0.0096184369f, 0.0013398875f, 0.00015353362f);
  return {rest * slope, 0x4b400000 - bits_as<IntOf<Float>>(shifted)};
}

}  // namespace bitrate
