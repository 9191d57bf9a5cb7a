// Eight lanes of float64 and of int64, for whatever instruction set the including file is compiled. GCC's and clang's vector
// extension does the arithmetic; only fused multiply-add, half floats and streaming stores need an instruction by name.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/bits.h"

namespace bitrate {

using Doubles = double __attribute__((vector_size(64)));
using Ints = int64_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(32)));
using Shorts = uint16_t __attribute__((vector_size(16)));

constexpr int64_t kWidth = 8;

template <typename Vector, typename T>
BITRATE_HD Vector load(const T* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof(Vector));
  return vector;
}

template <typename T, typename Vector>
BITRATE_HD void store(T* to, const Vector& vector) {
  __builtin_memcpy(to, &vector, sizeof(Vector));
}

template <>
struct Arithmetic<Doubles> {
  static BITRATE_HD Doubles fma(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    using Quad = double __attribute__((vector_size(32)));
    Quad parts[2];
    for (int i = 0; i < 2; ++i) {
      const auto part = [&](const Doubles& v) { return load<Quad>(reinterpret_cast<const double*>(&v) + 4 * i); };
      parts[i] = (Quad)_mm256_fmadd_pd((__m256d)part(a), (__m256d)part(b), (__m256d)part(c));
    }
    return load<Doubles>(parts);
#else
    Doubles result;
    for (int64_t i = 0; i < kWidth; ++i) result[i] = __builtin_fma(a[i], b[i], c[i]);
    return result;
#endif
  }
  static BITRATE_HD Doubles from(Ints value) { return __builtin_convertvector(value, Doubles); }
};

// Eight likelihoods in float64, exactly; their sign bits are or-ed into `signs`.
BITRATE_HD Doubles load_likelihoods(const float* from, Words& signs) {
  const Words pattern = load<Words>(from);
  signs |= pattern;
  return __builtin_convertvector(bits_as<Floats>(pattern), Doubles);
}

BITRATE_HD Doubles load_likelihoods(const BFloat16* from, Words& signs) {
  const Words pattern = __builtin_convertvector(load<Shorts>(from), Words) << 16;
  signs |= pattern;
  return __builtin_convertvector(bits_as<Floats>(pattern), Doubles);
}

BITRATE_HD Doubles load_likelihoods(const Half* from, Words& signs) {
  const Shorts pattern = load<Shorts>(from);
  signs |= __builtin_convertvector(pattern, Words) << 16;
#if defined(__F16C__)
  return __builtin_convertvector((Floats)_mm256_cvtph_ps((__m128i)pattern), Doubles);
#else
  Doubles values;
  for (int64_t i = 0; i < kWidth; ++i) values[i] = to_double(Half{pattern[i]});
  return values;
#endif
}

BITRATE_HD Doubles load_likelihoods(const double* from, Words&) { return load<Doubles>(from); }

BITRATE_HD bool any_sign(Words signs) {
  uint32_t all = 0;
  for (int64_t i = 0; i < kWidth; ++i) all |= signs[i];
  return (all >> 31) != 0;
}

// Eight results as the map has them; see Rounded<float>.
BITRATE_HD Floats rounded(Doubles values) {
  const Floats narrow = __builtin_convertvector(values, Floats) + 0.0f;
  const Words canonical = Words{} + 0x7fc00000u;
  return narrow == narrow ? narrow : bits_as<Floats>(canonical);
}

// A store that does not read the line first and leaves the caches alone; `to` is 32-byte aligned.
BITRATE_HD void stream(float* to, Floats values) {
#if defined(__AVX__)
  _mm256_stream_ps(to, (__m256)values);
#elif defined(__x86_64__)
  const float* parts = reinterpret_cast<const float*>(&values);
  _mm_stream_ps(to, _mm_loadu_ps(parts));
  _mm_stream_ps(to + 4, _mm_loadu_ps(parts + 4));
#else
  store(to, values);
#endif
}

// Order streaming stores before what follows.
BITRATE_HD void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace bitrate
