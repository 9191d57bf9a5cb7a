// The factorised prior: a small network for each channel, from a value to the logit of its distribution, monotone. It is
// evaluated at both edges of a symbol, and beside them their difference, which would cancel where a distribution is wide.
#pragma once

#include "distributions.h"

namespace bitrate {

constexpr int kUnits = 3;   // of a hidden layer
constexpr int kHidden = 4;  // hidden layers: weights, biases and gates; then weights and a bias
constexpr int kWeights = 58;
// And where the channel's symbols lie between whole numbers; then what the weights are rounded by.
constexpr int kParameters = kWeights + 1 + kWeights;

BITRATE_HD constexpr int first_parameter(int layer) { return layer == 0 ? 0 : 15 * layer - 6; }
BITRATE_HD constexpr int units_before(int layer) { return layer == 0 ? 1 : kUnits; }
BITRATE_HD constexpr int units_after(int layer) { return layer == kHidden ? 1 : kUnits; }

// Relative error 1e-7.
template <typename Float>
BITRATE_HD Float hyperbolic_tangent(Float x) {
  const Float limit = Float{} + 9.0f, z = x > limit ? limit : (x < -limit ? -limit : x), q = z * z;
  const Float above = polynomial(q, 1.0f, 0.13367887f, 0.0034800023f, 2.0353435e-05f, 1.300222e-08f);
  const Float below = polynomial(q, 1.0f, 0.46701199f, 0.02581764f, 0.00032601802f, 7.6319157e-07f);
  return z * above / below;
}

// The same to 1e-9, by way of exp(-2 |x|).
template <typename Float>
BITRATE_HD Pair<Float> hyperbolic_tangent(Pair<Float> x) {
  const Float none = {}, one = none + 1.0f;
  const auto left = x.high < none;
  const Pair<Float> twice{none + 2.88539004f, none + 3.8519193e-08f};  // 2 log2 e
  const Pair<Float> y = fused({left ? -x.high : x.high, left ? -x.low : x.low}, twice, {none, none});
  const Float most = at_most(y.high, 100.0f), shifted = most + 12582912.0f;  // see power_of_half
  const Pair<Float> rest = sum_of(shifted - 12582912.0f - most, -y.low);
  const Float slope = polynomial(rest.high, 0.0555041087f, 0.00961812911f, 0.00133335581f, 0.000154035304f, 1.52527338e-05f,
                                 1.32154868e-06f, 1.01780860e-07f);
  Pair<Float> e = fused({slope, none}, rest, {none + 0.240226507f, none - 2.2778894e-10f});  // ln^2 2 / 2
  e = fused(e, rest, {none + 0.693147182f, none - 1.9046542e-09f});                          // ln 2
  e = fused(e, rest, {one, none});
  const Float whole = power_of_two<Float>(0x4b400000 - bits_as<IntOf<Float>>(shifted));
  e = {e.high * whole, e.low * whole};
  const Pair<Float> above = sum_of(one, -e.high), below = sum_of(one, e.high);
  const Float ratio = above.high / below.high;
  const Float lost = fused(-ratio, below.high, above.high) + ((above.low - e.low) - ratio * (below.low + e.low));
  const Pair<Float> found = sum_of(ratio, lost / below.high);
  return {left ? -found.high : found.high, left ? -found.low : found.low};
}

// A unit at the lower and the upper edge, and `gap` = high - low >= 0. Gradients are those of low and gap.
template <typename Float>
struct Edges {
  Float low, gap, high;
};

template <typename Float>
BITRATE_HD Edges<Float> fused(Float a, const Edges<Float>& b, const Edges<Float>& c) {
  return {fused(a, b.low, c.low), fused(a, b.gap, c.gap), fused(a, b.high, c.high)};
}

// A unit's sum over a layer's inputs, from its bias on.
template <int kLayer, typename Number, typename Parameter>
BITRATE_HD Number unit_sum(const Parameter& parameter, int j, const Number (&inputs)[kUnits], Number sum) {
#pragma unroll
  for (int i = 0; i < units_before(kLayer); ++i) {
    sum = fused(parameter(first_parameter(kLayer) + j * units_before(kLayer) + i), inputs[i], sum);
  }
  return sum;
}

BITRATE_HD constexpr int bias_of(int layer, int j) {
  return first_parameter(layer) + units_after(layer) * units_before(layer) + j;
}
BITRATE_HD constexpr int gate_of(int layer, int j) { return bias_of(layer, j) + kUnits; }

// The logit of one value, with bend(sum, gate) for a hidden unit.
template <int kLayer = 0, typename Number, typename Parameter, typename Bend>
BITRATE_HD Number logit_of(const Parameter& parameter, const Number (&inputs)[kUnits], const Bend& bend) {
  Number outputs[kUnits];
#pragma unroll
  for (int j = 0; j < units_after(kLayer); ++j) {
    outputs[j] = unit_sum<kLayer>(parameter, j, inputs, parameter(bias_of(kLayer, j)));
    if constexpr (kLayer < kHidden) outputs[j] = bend(outputs[j], parameter(gate_of(kLayer, j)));
  }
  if constexpr (kLayer < kHidden) {
    return logit_of<kLayer + 1>(parameter, outputs, bend);
  } else {
    return outputs[0];
  }
}

// What backward needs of a layer: its inputs, and the tangents at both edges with their difference.
template <typename Float>
struct Layer {
  Edges<Float> inputs[kUnits];
  Float below[kUnits], above[kUnits], rise[kUnits];
};

// tanh(low + gap) - tanh(low), from both tangents.
template <typename Float>
BITRATE_HD Float tangent_rise(Float gap, Float below, Float above) {
  const Float q = gap * gap;  // of a small gap's own tangent
  const Float slope = polynomial(q, 1.0f, -0.33333333f, 0.13333333f, -0.053968254f, 0.021869488f, -0.0088632355f);
  return gap < 0.4f ? gap * slope * (1.0f - below * above) : above - below;
}

// One layer for a channel's parameters, parameter(k) each.
template <int kLayer, typename Float, typename Parameter>
BITRATE_HD void step_forward(const Parameter& parameter, Layer<Float>& layer, Edges<Float> (&outputs)[kUnits]) {
#pragma unroll
  for (int j = 0; j < units_after(kLayer); ++j) {
    const Float bias = parameter(bias_of(kLayer, j));
    Edges<Float> sum = unit_sum<kLayer>(parameter, j, layer.inputs, Edges<Float>{bias, Float{}, bias});
    if constexpr (kLayer < kHidden) {
      layer.below[j] = hyperbolic_tangent(sum.low);
      layer.above[j] = hyperbolic_tangent(sum.high);
      layer.rise[j] = tangent_rise(sum.gap, layer.below[j], layer.above[j]);
      sum = fused(parameter(gate_of(kLayer, j)), Edges<Float>{layer.below[j], layer.rise[j], layer.above[j]}, sum);
    }
    outputs[j] = sum;
  }
}

// The gradients of a layer's parameters, written to write(k, gradient), and of its inputs, from those of its outputs.
template <int kLayer, typename Float, typename Parameter, typename Write>
BITRATE_HD void step_backward(const Parameter& parameter, const Layer<Float>& layer, const Edges<Float> (&outputs)[kUnits],
                              Edges<Float> (&inputs)[kUnits], const Write& write) {
  using A = Arithmetic<Float>;
  constexpr int kBefore = units_before(kLayer), kAfter = units_after(kLayer), kFirst = first_parameter(kLayer);
#pragma unroll
  for (int i = 0; i < kBefore; ++i) inputs[i] = Edges<Float>{};
#pragma unroll
  for (int j = 0; j < kAfter; ++j) {
    Edges<Float> sum = outputs[j];
    if constexpr (kLayer < kHidden) {
      const int at = gate_of(kLayer, j);
      const Float gate = parameter(at), below = layer.below[j], above = layer.above[j], rise = layer.rise[j];
      write(at, A::fma(sum.low, below, sum.gap * rise));
      const Float bent = gate * (1.0f - below * below), apart = gate * rise * (below + above);
      sum.low = A::fma(sum.low, bent, sum.low) - sum.gap * apart;
      sum.gap = A::fma(sum.gap, gate * (1.0f - above * above), sum.gap);
    }
    write(bias_of(kLayer, j), sum.low);
#pragma unroll
    for (int i = 0; i < kBefore; ++i) {
      const int at = kFirst + j * kBefore + i;
      const Float weight = parameter(at);
      write(at, A::fma(sum.low, layer.inputs[i].low, sum.gap * layer.inputs[i].gap));
      inputs[i].low = A::fma(weight, sum.low, inputs[i].low);
      inputs[i].gap = A::fma(weight, sum.gap, inputs[i].gap);
    }
  }
}

// The network, with its layers kept.
template <typename Float>
struct Network {
  Layer<Float> layers[kHidden + 1];
  Edges<Float> logit;

  template <int kLayer = 0, typename Parameter>
  BITRATE_HD void forward(const Parameter& parameter) {
    Edges<Float> outputs[kUnits];
    step_forward<kLayer>(parameter, layers[kLayer], outputs);
    if constexpr (kLayer < kHidden) {
      for (int j = 0; j < kUnits; ++j) layers[kLayer + 1].inputs[j] = outputs[j];
      forward<kLayer + 1>(parameter);
    } else {
      logit = outputs[0];
    }
  }

  template <int kLayer = kHidden, typename Parameter, typename Write>
  BITRATE_HD void backward(const Parameter& parameter, const Edges<Float> (&outputs)[kUnits], const Write& write,
                           Float& by_value) const {
    Edges<Float> inputs[kUnits];
    step_backward<kLayer>(parameter, layers[kLayer], outputs, inputs, write);
    if constexpr (kLayer > 0) {
      backward<kLayer - 1>(parameter, inputs, write, by_value);
    } else {
      by_value = inputs[0].low;
    }
  }
};

// A symbol's likelihood, and with kSlopes how its logarithm goes with the logit at its lower edge and with the gap.
template <bool kSlopes, typename Float>
BITRATE_HD Symbol<Float> of_logit(const Edges<Float>& logit) {
  const Float sum = logit.low + logit.high;
  const auto right = sum > 0.0f;  // the logistic function is even: what lies on its left is reflected
  const Float a = right ? logit.low : -logit.high, b = right ? logit.high : -logit.low;
  Symbol<Float> symbol = between_logits<kSlopes>(a, b, logit.gap, magnitude(sum));
  if constexpr (kSlopes) {
    symbol.by_scale = right ? symbol.by_scale : symbol.by_scale - symbol.by_distance;
    symbol.by_distance = right ? symbol.by_distance : -symbol.by_distance;
  }
  return symbol;
}

// Whether roundings show in a symbol's bits, of a logit whose terms have magnitudes that come to `size`.
template <typename Float>
BITRATE_HD auto is_doubtful(const Edges<Float>& logit, const Symbol<Float>& symbol, Float size) {
  const auto inside = (logit.low < 0.0f) & (logit.high > 0.0f);
  const Float low = magnitude(logit.low), high = magnitude(logit.high), bits = low < high ? low : high;
  const Float shown = inside ? size * (1.0f - symbol.mantissa) : size, bar = inside ? Float{} : 10.0f * bits;
  return (shown > 7.0f) & (shown > bar) & (size < 1e30f);
}

// What is read after this is not read before it: a GPU's registers do not hold all weights at once.
BITRATE_HD void read_no_earlier() {
#ifdef __CUDA_ARCH__
  asm volatile("" ::: "memory");
#endif
}

// The network in pairs.
template <typename Float, typename Parameter>
BITRATE_HD Edges<Float> exact_logits(Float value, const Parameter& parameter) {
  const auto weight = [&](int k) { return Pair<Float>{parameter(k), parameter(kWeights + 1 + k)}; };
  const auto at = [&](float side) {
    const Pair<Float> inputs[kUnits] = {sum_of(value, Float{} + side)};
    return logit_of(weight, inputs, [](Pair<Float> x, Pair<Float> gate) {
      read_no_earlier();
      return fused(gate, hyperbolic_tangent(x), x);
    });
  };
  const Pair<Float> low = at(-0.5f), high = at(0.5f), gap = sum_of(high.high, -low.high);
  return {low.high, gap.high + (gap.low + (high.low - low.low)), high.high};
}

// An infinite value has no likelihood.
template <typename Float>
BITRATE_HD Symbol<Float> finite_alone(Float value, Symbol<Float> symbol) {
  symbol.mantissa = magnitude(value) > 3.4028235e38f ? symbol.mantissa * 0.0f : symbol.mantissa;
  return symbol;
}

// A symbol's likelihood by the network in float32; returns whether it is in doubt.
template <typename Float, typename Parameter>
BITRATE_HD auto factorized_quickly(Float value, const Parameter& parameter, Symbol<Float>& symbol) {
  Network<Float> network;
  network.layers[0].inputs[0] = Edges<Float>{value - 0.5f, Float{} + 1.0f, value + 0.5f};
  network.forward(parameter);
  symbol = of_logit<false>(network.logit);
  const Float sizes[kUnits] = {magnitude(value) + 0.5f};
  const Float size = logit_of([&](int k) { return magnitude(parameter(k)); }, sizes,
                              [](Float x, Float gate) { return fused(gate, at_most(x, 1.0f), x); });
  const auto doubtful = is_doubtful(network.logit, symbol, size);
  symbol = finite_alone(value, symbol);
  return doubtful;
}

// The same in pairs.
template <typename Float, typename Parameter>
BITRATE_HD Symbol<Float> factorized_exactly(Float value, const Parameter& parameter) {
  return finite_alone(value, of_logit<false>(exact_logits(value, parameter)));
}

template <typename Float, typename Parameter>
BITRATE_HD Symbol<Float> factorized(Float value, const Parameter& parameter) {
  Symbol<Float> symbol;
  const auto doubtful = factorized_quickly(value, parameter, symbol);
  if (Arithmetic<Float>::any(doubtful)) {
    const Symbol<Float> exact = factorized_exactly(value, parameter);
    symbol.mantissa = doubtful ? exact.mantissa : symbol.mantissa;
    symbol.exponent = doubtful ? exact.exponent : symbol.exponent;
  }
  return symbol;
}

}  // namespace bitrate
