// Sources in the sweep: formulas of one symbol beside the C library's functions in 80 bits, and the loops of an instruction
// set beside the same formulas, one symbol at a time.
#pragma once

#include "cases.h"
#include "cpu/kernels.h"

namespace source_cases {

using namespace bitrate;
using cases::pick;
using cases::unit;

// CDF(-x) and the density at x of the standard distributions.
inline long double tail(Family family, long double x) {
  switch (family) {
    case Family::Laplace: return x > 0 ? expl(-x) / 2 : 1 - expl(x) / 2;
    case Family::Logistic: return 1 / (1 + expl(x));
    default: return erfcl(x / sqrtl(2)) / 2;
  }
}

inline long double density(Family family, long double x) {
  const long double e = expl(-fabsl(x));
  switch (family) {
    case Family::Laplace: return e / 2;
    case Family::Logistic: return e / ((1 + e) * (1 + e));
    default: return expl(-x * x / 2) * 0.398942280401432677939946059934L;
  }
}

// What is wrong with a symbol, or nothing.
template <Family kFamily>
std::string wrong_symbol() {
  const float scale = 0.11f * expf(float(9 * unit()));
  const float reach[] = {0.5f, 3.0f, kFamily == Family::Gaussian ? 35.0f : 600.0f};
  float distance = float(unit()) * (reach[pick(0, 2)] * scale + 1.0f);
  if (pick(0, 9) == 0) distance = rintf(distance * 2) / 2;
  const Symbol<float> found = symbol_of<kFamily, true, float>(distance, scale, 0.11f);
  const long double a = ((long double)distance - 0.5L) / scale, b = ((long double)distance + 0.5L) / scale;
  const long double exact = a > 0 ? tail(kFamily, a) - tail(kFamily, b) : 1 - tail(kFamily, -a) - tail(kFamily, b);
  const long double bits = -log2l(exact), got = -log2l(found.mantissa) - found.exponent;
  const long double near = density(kFamily, a) / scale / exact, far = density(kFamily, b) / scale / exact;
  const long double by_distance = far - near, by_scale = a * near - b * far, natural = fabsl(a) * near + b * far;
  const std::string what = "family " + std::to_string(int(kFamily)) + ", distance " + std::to_string(distance) + ", scale " +
                           std::to_string(scale) + ": ";
  if (!(fabsl(got - bits) <= 1e-6L * std::max(1.0L, bits)) || got < 0) return what + "bits";
  if (!(fabsl(found.by_distance - by_distance) <= 1e-5L * fabsl(by_distance) + 1e-30L)) return what + "slope by distance";
  if (!(fabsl(found.by_scale - by_scale) <= 1e-5L * natural + 1e-30L)) return what + "slope by scale";
  return "";
}

// A network's likelihood and slope by the C library, for weights that keep every logit small.
inline std::string wrong_network() {
  float p[kParameters];
  for (int k = 0; k < kParameters; ++k)
    p[k] = k <= kWeights ? float(unit()) : float(unit() - 0.5) * 6e-8f * p[k - kWeights - 1];
  const auto exact = [&](int k) { return (long double)p[k] + p[kWeights + 1 + k]; };
  const auto logit = [&](long double value) {
    long double in[kUnits] = {value}, out[kUnits];
    for (int layer = 0, at = 0; layer <= kHidden; ++layer) {
      const int before = units_before(layer), after = units_after(layer);
      for (int j = 0; j < after; ++j) {
        out[j] = exact(at + after * before + j);
        for (int i = 0; i < before; ++i) out[j] += exact(at + j * before + i) * in[i];
        if (layer < kHidden) out[j] += exact(at + after * before + after + j) * tanhl(out[j]);
      }
      at += after * before + (layer < kHidden ? 2 : 1) * after;
      std::copy(out, out + after, in);
    }
    return in[0];
  };
  const auto natural_log = [&](long double value) {
    const long double low = logit(value - 0.5L), high = logit(value + 0.5L);
    return logl(-expm1l(low - high)) - log1pl(expl(-high)) - log1pl(expl(low));
  };
  const float value = float(6 * unit() - 3);
  const auto parameter = [&](int k) { return p[k]; };
  const Symbol<float> found = factorized(value, parameter);
  const long double bits = -natural_log(value) / logl(2), got = -log2l(found.mantissa) - found.exponent;
  if (!(fabsl(got - bits) <= 1e-6L * std::max(1.0L, bits))) return "a network's bits";
  Network<float> network;
  network.layers[0].inputs[0] = {value - 0.5f, 1.0f, value + 0.5f};
  network.forward(parameter);
  const Symbol<float> symbol = of_logit<true>(network.logit);
  const Edges<float> outputs[kUnits] = {{symbol.by_distance, symbol.by_scale, 0.0f}};
  float by_value = 0.0f, by_parameter[kWeights];
  network.backward(parameter, outputs, [&](int k, float gradient) { by_parameter[k] = gradient; }, by_value);
  const long double step = 1e-4L, own = (natural_log(value + step) - natural_log(value - step)) / (2 * step);
  if (!(fabsl(by_value - own) <= 1e-3L * fabsl(own) + 1e-3L)) return "a network's slope";
  const int k = int(pick(0, kWeights - 1));
  const float middle = p[k];
  p[k] = middle + 1e-4f;
  const long double above = natural_log(value), wide = p[k];
  p[k] = middle - 1e-4f;
  const long double slope = (above - natural_log(value)) / (wide - p[k]);
  return fabsl(by_parameter[k] - slope) <= 1e-3L * fabsl(slope) + 1e-3L ? "" : "a network's slope by a parameter";
}

// One run of a source, of one dtype and layout, in buffers of exact size.
template <Family kFamily, typename T>
std::string wrong_run(const Kernels& kernels, DType dtype) {
  const int64_t counts[] = {1, 15, 16, 17, 47, kSourceBlock - 1, kSourceBlock + 9, 2 * kSourceBlock};
  SourceTerm term{kFamily, dtype, 1, pick(1, 70), 1, counts[pick(0, 7)], 1, 0.11f, pick(0, 2) == 0 ? 0.01f : 0.0f, {}, {}};
  if (kFamily == Family::Mixture) term.components = pick(1, 3);
  const int64_t layout = kFamily == Family::Factorized ? 0 : pick(0, 2), w = term.w;
  std::vector<std::vector<T>> inputs, gradients;
  for (int i = 0; i < (kFamily == Family::Factorized ? 1 : term.count()); ++i) {
    const int64_t channels = term.channels * (i == 0 ? 1 : term.components);
    const Strided strided = layout == 0   ? Strided{nullptr, 0, w, 0, 1}
                            : layout == 1 ? Strided{nullptr, 0, 1, 0, channels}
                                          : Strided{nullptr, 0, 2 * w, 0, 2};
    const int64_t span = layout == 2 ? 2 * w * channels - 1 : w * channels;
    inputs.emplace_back(span);
    for (T& one : inputs.back()) {
      one = Rounded<T>::from(i == 1 ? 4.0 * unit() - 0.1 : i == 3 ? unit() : 12 * unit() - 6);
      if (i == 0 && pick(0, 2) == 0) one = Rounded<T>::from((pick(0, 9) == 0 ? 40.0 : 1.0) * std::rint(to_double(one)));
    }
    gradients.emplace_back(span);
    term.inputs[i] = term.gradients[i] = strided;
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    term.inputs[i].data = inputs[i].data();
    term.gradients[i].data = gradients[i].data();
  }
  std::vector<float> parameters(term.channels * kParameters);
  for (size_t k = 0; k < parameters.size(); ++k) {
    parameters[k] = k % kParameters <= kWeights ? float(unit()) : 6e-8f * float(unit() - 0.5);
  }
  if (kFamily == Family::Factorized) term.inputs[1] = {parameters.data(), 0, kParameters, 0, 0};
  std::vector<double> found(w), shared(w), sums(term.channels * kWeights), expected_sums(sums.size());
  for (double& one : shared) one = unit() - 0.5;
  std::vector<float> origin(term.channels), mantissa(term.channels * kSymbols);
  std::vector<int32_t> exponent(mantissa.size());
  SymbolTable table{origin.data(), mantissa.data(), exponent.data()};
  const bool tabled = kFamily == Family::Factorized && pick(0, 1) == 0;
  for (int64_t c = 0; tabled && c < term.channels; ++c) kernels.fill_table(term, c, table);
  const SourceRun run{0, 0, 0, w};
  kernels.source_bits[int(kFamily)](term, run, tabled ? &table : nullptr, found.data());
  kernels.source_gradient[int(kFamily)](term, run, shared.data(), sums.data());
  for (int64_t x = 0; x < w; ++x) {
    const auto reader = [&](int64_t channel) {
      return [&, channel](int64_t i, int64_t k) {
        if (kFamily == Family::Factorized && i == 1) return parameters[channel * kParameters + k];
        return float(to_double(inputs[i][term.inputs[i].offset(0, k * term.channels + channel, 0, x)]));
      };
    };
    double product = 1.0;
    int64_t power = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      double running = 1.0;
      for (int64_t first = lane; first < term.channels; first += kGroup * kLanes) {
        double group = 1.0;
        for (int64_t c = first; c < term.channels && c < first + kGroup * kLanes; c += kLanes) {
          const Scaled<float> one = likelihood_of<kFamily, float>(term, reader(c));
          group = group * double(one.mantissa);
          power += one.exponent;
        }
        running = running * group;
        rebase(running, power);
      }
      product = product * running;
    }
    const double bits = bits_of(product, power, count_groups(term.channels));
    if (std::memcmp(&bits, &found[x], 8) != 0) return "bits of a run";
    for (int64_t c = 0; c < term.channels; ++c) {
      const float gradient = float(shared_gradient(Source::Likelihoods, shared[x]));
      bool same = true;
      slopes_of<kFamily, float>(term, gradient, reader(c), [&](int64_t i, int64_t k, float value) {
        if (kFamily == Family::Factorized && i == 1) {
          expected_sums[c * kWeights + k] += value;
          return;
        }
        const T rounded = Rounded<T>::from(value);
        const T& got = gradients[i][term.gradients[i].offset(0, k * term.channels + c, 0, x)];
        same = same && std::memcmp(&rounded, &got, sizeof(T)) == 0;
      });
      if (!same) return "gradients of a run";
    }
  }
  for (size_t k = 0; kFamily == Family::Factorized && k < sums.size(); ++k) {
    if (!(std::fabs(sums[k] - expected_sums[k]) <= 1e-3 + 1e-4 * std::fabs(sums[k]))) return "sums over a run";
  }
  return "";
}

template <typename T>
std::string wrong_run(const Kernels& kernels, DType dtype, Family family) {
  switch (family) {
    case Family::Laplace: return wrong_run<Family::Laplace, T>(kernels, dtype);
    case Family::Logistic: return wrong_run<Family::Logistic, T>(kernels, dtype);
    case Family::Mixture: return wrong_run<Family::Mixture, T>(kernels, dtype);
    case Family::Factorized: return wrong_run<Family::Factorized, T>(kernels, dtype);
    default: return wrong_run<Family::Gaussian, T>(kernels, dtype);
  }
}

}  // namespace source_cases
