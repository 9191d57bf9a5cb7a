// The factorised prior: a small network for each channel, from a value to the logit of its distribution, monotone. It is
// evaluated at both edges of a symbol, and beside them their difference, which would cancel where a distribution is wide.
#pragma once

#include "distributions.h"

namespace bitrate {

constexpr int kUnits = 3;   // of a hidden layer
constexpr int kHidden = 4;  // hidden layers: weights, biases and gates; then weights and a bias
constexpr int kWeights = 58;
constexpr int kParameters = kWeights + 1;  // and where the channel's symbols lie between whole numbers

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

// A unit at the lower and the upper edge, and `gap` = high - low >= 0. Gradients are those of low and gap.
template <typename Float>
struct Edges {
  Float low, gap, high;
};

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
  using A = Arithmetic<Float>;
  constexpr int kBefore = units_before(kLayer), kAfter = units_after(kLayer), kFirst = first_parameter(kLayer);
#pragma unroll
  for (int j = 0; j < kAfter; ++j) {
    const Float bias = parameter(kFirst + kAfter * kBefore + j);
    Edges<Float> sum{bias, Float{}, bias};
#pragma unroll
    for (int i = 0; i < kBefore; ++i) {
      const Float weight = parameter(kFirst + j * kBefore + i);
      sum.low = A::fma(weight, layer.inputs[i].low, sum.low);
      sum.gap = A::fma(weight, layer.inputs[i].gap, sum.gap);
      sum.high = A::fma(weight, layer.inputs[i].high, sum.high);
    }
    if constexpr (kLayer < kHidden) {
      const Float gate = parameter(kFirst + kAfter * kBefore + kAfter + j);
      layer.below[j] = hyperbolic_tangent(sum.low);
      layer.above[j] = hyperbolic_tangent(sum.high);
      layer.rise[j] = tangent_rise(sum.gap, layer.below[j], layer.above[j]);
      sum.low = A::fma(gate, layer.below[j], sum.low);
      sum.gap = A::fma(gate, layer.rise[j], sum.gap);
      sum.high = A::fma(gate, layer.above[j], sum.high);
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
      const int at = kFirst + kAfter * kBefore + kAfter + j;
      const Float gate = parameter(at), below = layer.below[j], above = layer.above[j], rise = layer.rise[j];
      write(at, A::fma(sum.low, below, sum.gap * rise));
      const Float bent = gate * (1.0f - below * below), apart = gate * rise * (below + above);
      sum.low = A::fma(sum.low, bent, sum.low) - sum.gap * apart;
      sum.gap = A::fma(sum.gap, gate * (1.0f - above * above), sum.gap);
    }
    write(kFirst + kAfter * kBefore + j, sum.low);
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

template <typename Float, typename Parameter>
BITRATE_HD Symbol<Float> factorized(Float value, const Parameter& parameter) {
  Network<Float> network;
  network.layers[0].inputs[0] = Edges<Float>{value - 0.5f, Float{} + 1.0f, value + 0.5f};
  network.forward(parameter);
  Symbol<Float> symbol = of_logit<false>(network.logit);
  symbol.mantissa = magnitude(value) > 3.4028235e38f ? symbol.mantissa * 0.0f : symbol.mantissa;
  return symbol;
}

}  // namespace bitrate
