// What a symbol's likelihood is, CDF(v + 1/2) - CDF(v - 1/2), for each family of distributions: as a mantissa and a power of
// two, so that tails of a thousand bits neither underflow nor need a logarithm; and the slopes of its logarithm.
//
// Everything is float32, over a scalar or a vector. The forms cancel nowhere: a symbol inside is 1 less two tails, or a sum
// of positive parts; one outside is the nearer tail times what is left of it.
#pragma once

#include "exp.h"

namespace bitrate {

// likelihood = mantissa * 2^exponent; by_distance and by_scale are the derivatives of its natural logarithm.
template <typename Float>
struct Symbol {
  Float mantissa;
  IntOf<Float> exponent;
  Float by_distance, by_scale;
};

constexpr float kRootTwoPi = 0.39894228f;  // 1 / sqrt(2 pi)

// exp(x^2 / 2) CDF(-x) of the normal distribution for x >= 0, as a fraction: relative error 8e-8.
template <typename Float>
struct Mills {
  Float above, below;

  BITRATE_HD explicit Mills(Float x) {
    const Float z = at_most(x, 1024.0f);
    above = polynomial(z, 0.5f, 0.47398642f, 0.21085788f, 0.050272092f, 0.0056329742f);
    below = polynomial(z, 1.0f, 1.74586f, 1.3146851f, 0.54264086f, 0.12601376f, 0.014119772f);
  }
};

// Where a symbol's edges lie close, for p = gap^2 / 4 and h = w^2 / 8: the mean over [-1, 1] of cosh(gap x / 2) exp(-h x^2),
// but for a factor exp(p / 6 - h / 3), to 2e-8; and the edges' densities beside that mean, their difference and their sum,
// exp(-h) sinh(gap / 2) / (gap / 2) and exp(-h) cosh(gap / 2) over it, to 1e-6.
template <typename Float>
BITRATE_HD Float close_mean(Float p, Float h) {
  using A = Arithmetic<Float>;
  const Float j3 = polynomial(p, -0.0028678577f, -0.00091495161f);
  const Float j2 = polynomial(p, 0.044472687f, 0.004141327f, -0.0005018028f, 1.6350828e-05f);
  const Float j1 = polynomial(p, -1.6678797e-06f, -0.044439234f, 0.0042300821f, -0.00017556436f, 3.435156e-06f);
  const Float j0 = polynomial(p, 1.0f, -1.0791089e-07f, -0.0055553815f, 0.00035260274f, -1.0976631e-05f, 1.7196058e-07f);
  return A::fma(A::fma(A::fma(j3, h, j2), h, j1), h, j0);
}

template <typename Float>
BITRATE_HD Float close_difference(Float p, Float h) {
  using A = Arithmetic<Float>;
  const Float j2 = polynomial(p, 0.17617337f, -0.031772844f, 0.0040299362f, -0.00027008244f);
  const Float j1 = polynomial(p, -0.66660172f, 0.044320386f, -0.0040882016f, 0.00033095619f, -1.49555e-05f);
  return A::fma(A::fma(A::fma(Float{} - 0.0081610605f, h, j2), h, j1), h, Float{} + 1.0f);
}

template <typename Float>
BITRATE_HD Float close_sum(Float p, Float h) {
  using A = Arithmetic<Float>;
  const Float j2 = polynomial(p, 0.17686531f, 0.024728654f, -0.007453497f, 0.0006646695f);
  const Float j1 = polynomial(p, -0.66663408f, -0.17760061f, 0.024936542f, -0.0030275362f, 0.00027827048f, -1.3949191e-05f);
  const Float j0 =
      polynomial(p, 1.0f, 0.33332634f, -0.022198439f, 0.0020859898f, -0.00019157345f, 1.3905347e-05f, -5.3702229e-07f);
  return A::fma(A::fma(A::fma(Float{} - 0.011835158f, h, j2), h, j1), h, j0);
}

// A likelihood that is not worked out yet: part * 2^-y, or 1 less as much where `part` is negative.
template <typename Float>
struct Tail {
  Float part, y;
};

// What comes of it: mantissa * 2^exponent, which is `value` where float32 holds it. Where it is `inside`, 1 and `small`.
template <typename Float>
struct WorkedTail {
  decltype(Float{} < Float{}) inside;
  Float small, value, mantissa;
  IntOf<Float> exponent;

  BITRATE_HD explicit WorkedTail(Tail<Float> tail, Float low = Float{}) : inside(tail.part < 0.0f) {
    const Power<Float> power = power_of_half(tail.y, low);
    const Float scaled = Arithmetic<Float>::fma(tail.part, power.excess, tail.part);
    small = scaled * power_of_two<Float>(power.exponent);
    value = inside ? small + 1.0f : small;
    mantissa = inside ? value : scaled;
    exponent = inside ? IntOf<Float>{} : power.exponent;
  }
};

// Normal, at a distance >= 0 from the mean. w is one over the scale, u the distance in scales, a and b those of the symbol's
// edges, and gap = (b^2 - a^2) / 2. Where the edges lie close, exp(-u^2 / 2) times a mean over them; else
// exp(-a^2 / 2) (M(a) - exp(-gap) M(b)), or 1 less the same with a sum.
template <typename Float>
struct Normal {
  decltype(Float{} < Float{}) close;
  Float w, u, gap, a, h, p;
  Float more = {};             // of y, where edges lie close
  Float less = {}, lost = {};  // exp(-gap) where they do not, and 1 less that
  Tail<Float> tail = {};

  BITRATE_HD Normal(Float distance, Float scale) {
    using A = Arithmetic<Float>;
    w = 1.0f / scale;
    u = distance * w;
    gap = u * w;
    a = (distance - 0.5f) * w;
    h = w * w * 0.125f;
    p = gap * gap * 0.25f;
    close = (w <= 1.0f) & (gap <= 4.0f);
    if (A::any(close)) {
      more = (h + h - p) * (kLog2E / 6.0f);
      tail.part = close_mean(p, h) * (w * kRootTwoPi);
      tail.y = A::fma(u * u, Float{} + 0.5f * kLog2E, more);
    }
    if (A::any(close == 0)) {
      using Int = IntOf<Float>;
      const Mills<Float> near(magnitude(a)), far((distance + 0.5f) * w);
      const Power<Float> ratio = power_of_half(gap * kLog2E);
      less = ratio.value();
      lost = ratio.complement();
      const Float other = less * far.above * near.below;
      const Int sign = bits_as<Int>(a) & int32_t(0x80000000u);  // inside
      const Float flipped = bits_as<Float>(bits_as<Int>(other) ^ sign ^ int32_t(0x80000000u));
      const Float apart = A::fma(near.above, far.below, flipped) / (near.below * far.below);
      tail.part = close ? tail.part : bits_as<Float>(bits_as<Int>(apart) ^ sign);
      tail.y = close ? tail.y : a * a * (0.5f * kLog2E);
    }
  }
};

// With kPart a tail's relative error stays at 1e-6 however far out it is, as a mixture's slopes want it, which are ratios of
// tails: `rest` is what the distance is rounded by, and the exponent is a pair.
template <bool kSlopes, bool kPart, typename Float>
BITRATE_HD Symbol<Float> gaussian(Float distance, Float scale, Float rest) {
  using A = Arithmetic<Float>;
  const Normal<Float> normal(distance, scale);
  const auto close = normal.close;
  const Float w = normal.w;
  Tail<Float> tail = normal.tail;
  Float low = {};
  if constexpr (kPart) {
    const Pair<Float> edge = sum_of(distance, close ? Float{} : Float{} - 0.5f);
    const Float q = edge.high * w, lost = (A::fma(-q, scale, edge.high) + (edge.low + rest)) * w, square = q * q;
    const Pair<Float> half = fused(Pair<Float>{square, A::fma(q, q, -square) + 2.0f * q * lost},
                                   Pair<Float>{Float{} + 0.72134752f, Float{} + 9.6298149e-09f},  // log2(e) / 2
                                   Pair<Float>{close ? normal.more : Float{}, Float{}});
    const auto known = magnitude(half.low) <= 1.0f;  // else out of range
    tail.y = known ? half.high : tail.y;
    low = known ? half.low : low;
  }
  const WorkedTail<Float> found(tail, low);
  Symbol<Float> symbol{found.mantissa, found.exponent, {}, {}};
  if constexpr (kSlopes) {
    if (A::any(close)) {
      const Float d = close_difference(normal.p, normal.h), c = close_sum(normal.p, normal.h);
      symbol.by_distance = -normal.gap * d;
      symbol.by_scale = w * A::fma(normal.u * normal.u, d, -c);
    }
    if (A::any(close == 0)) {
      const Float strength = w * kRootTwoPi * (found.inside ? found.small / found.mantissa / tail.part : 1.0f / tail.part);
      symbol.by_distance = close ? symbol.by_distance : -strength * normal.lost;
      symbol.by_scale = close ? symbol.by_scale : strength * A::fma(normal.a, normal.lost, -w * normal.less);
    }
  }
  return symbol;
}

// Laplace: half a tail on either side.
template <bool kSlopes, typename Float>
BITRATE_HD Symbol<Float> laplace(Float distance, Float scale) {
  const Float w = 1.0f / scale, a = (distance - 0.5f) * w, b = (distance + 0.5f) * w;
  const auto outside = a > 0.0f;
  const Power<Float> edge = power_of_half(magnitude(a) * kLog2E), other = power_of_half((outside ? w : b) * kLog2E);
  const Float left = other.complement(), whole = 0.5f * left;
  const Float tail = Arithmetic<Float>::fma(whole, edge.excess, whole), inside = 0.5f * (edge.complement() + left);
  Symbol<Float> symbol{outside ? tail : inside, outside ? edge.exponent : IntOf<Float>{}, {}, {}};
  if constexpr (kSlopes) {
    const Float half = 0.5f * w / inside, gap = power_of_half(distance * w * (2.0f * kLog2E)).complement();
    symbol.by_distance = outside ? -w : -half * edge.value() * gap;
    symbol.by_scale = outside ? w * (a - w * other.value() / left) : half * (a * edge.value() - b * other.value());
  }
  return symbol;
}

// Logistic between logits -b and -a, with w = b - a and sum = a + b >= 0; the slopes are those of a shift of both, and of b
// alone.
template <bool kSlopes, typename Float>
BITRATE_HD Symbol<Float> between_logits(Float a, Float b, Float w, Float sum) {
  const auto outside = a > 0.0f;
  const Power<Float> near = power_of_half(magnitude(a) * kLog2E), far = power_of_half(magnitude(b) * kLog2E),
                     gap = power_of_half(w * kLog2E);
  const Float e = near.value(), f = far.value(), both = (1.0f + e) * (1.0f + f), part = gap.complement() / both;
  Symbol<Float> symbol{
      outside ? Arithmetic<Float>::fma(part, near.excess, part) : part, outside ? near.exponent : IntOf<Float>{}, {}, {}};
  if constexpr (kSlopes) {
    const Float apart = power_of_half(sum * kLog2E).complement() / both;
    symbol.by_distance = outside ? -apart : -apart * e;
    symbol.by_scale = gap.value() / gap.complement() + f / (1.0f + f);
  }
  return symbol;
}

template <bool kSlopes, typename Float>
BITRATE_HD Symbol<Float> logistic(Float distance, Float scale) {
  const Float w = 1.0f / scale, a = (distance - 0.5f) * w, b = (distance + 0.5f) * w;
  Symbol<Float> symbol = between_logits<kSlopes>(a, b, w, 2.0f * distance * w);
  if constexpr (kSlopes) {  // a and b move by -a w and -b w: both as a, and b by -w^2 besides
    symbol.by_scale = -w * Arithmetic<Float>::fma(a, symbol.by_distance, w * symbol.by_scale);
    symbol.by_distance = symbol.by_distance * w;
  }
  return symbol;
}

}  // namespace bitrate
