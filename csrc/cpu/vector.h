// Vectors of float64 as wide as the instruction set the including file is compiled for. GCC's and clang's vector extension
// does the arithmetic; conversions, fused multiply-add and streaming stores are chosen by name. BITRATE_AVX2 and
// BITRATE_AVX512 are set by the including file: before version 13, g++ does not update its own macros in a target pragma.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/bits.h"

namespace bitrate {

#if defined(BITRATE_AVX512)
constexpr int64_t kWidth = 8;
#elif defined(BITRATE_AVX2)
constexpr int64_t kWidth = 4;
#else
constexpr int64_t kWidth = 2;
#endif

using Doubles = double __attribute__((vector_size(8 * kWidth)));
using Ints = int64_t __attribute__((vector_size(8 * kWidth)));
using Floats = float __attribute__((vector_size(4 * kWidth)));
using Words = uint32_t __attribute__((vector_size(4 * kWidth)));
using Shorts = uint16_t __attribute__((vector_size(2 * kWidth)));

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

// By name where g++ would split a conversion in halves.
BITRATE_HD Doubles widen(Floats values) {
#if defined(BITRATE_AVX512)
  return (Doubles)_mm512_cvtps_pd((__m256)values);
#else
  return __builtin_convertvector(values, Doubles);
#endif
}

BITRATE_HD Floats narrow(Doubles values) {
#if defined(BITRATE_AVX512)
  return (Floats)_mm512_cvtpd_ps((__m512d)values);
#else
  return __builtin_convertvector(values, Floats);
#endif
}

template <>
struct Arithmetic<Doubles> {
  static BITRATE_HD Doubles fma(Doubles a, Doubles b, Doubles c) {
#if defined(BITRATE_AVX512)
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(BITRATE_AVX2)
    return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    Doubles result;
    for (int64_t i = 0; i < kWidth; ++i) result[i] = __builtin_fma(a[i], b[i], c[i]);
    return result;
#endif
  }
  static BITRATE_HD Doubles from(Ints value) { return __builtin_convertvector(value, Doubles); }
};

// The smaller of two, element by element; `known` where `value` is NaN.
BITRATE_HD Floats smaller(Floats value, Floats known) {
#if defined(BITRATE_AVX512)
  return (Floats)_mm256_min_ps((__m256)value, (__m256)known);
#elif defined(BITRATE_AVX2)
  return (Floats)_mm_min_ps((__m128)value, (__m128)known);
#else
  return value < known ? value : known;
#endif
}

BITRATE_HD Floats load_floats(const float* from) { return load<Floats>(from); }

BITRATE_HD Floats load_floats(const BFloat16* from) {
  return bits_as<Floats>(__builtin_convertvector(load<Shorts>(from), Words) << 16);
}

BITRATE_HD Floats load_floats(const Half* from) {
#if defined(BITRATE_AVX512)
  return (Floats)_mm256_cvtph_ps(load<__m128i>(from));
#elif defined(BITRATE_AVX2)
  return (Floats)_mm_cvtph_ps(_mm_cvtsi64_si128(load<int64_t>(from)));
#else
  Floats values;
  for (int64_t i = 0; i < kWidth; ++i) values[i] = to_float(from[i]);
  return values;
#endif
}

// A vector of numbers in float64, exactly.
BITRATE_HD Doubles load_doubles(const double* from) { return load<Doubles>(from); }

template <typename T>
BITRATE_HD Doubles load_doubles(const T* from) {
  return widen(load_floats(from));
}

// The same for likelihoods, whose smallest is kept: a negative one is NaN, which a product of two would hide.
template <typename T>
BITRATE_HD Doubles load_likelihoods(const T* from, Floats& smallest) {
  const Floats values = load_floats(from);
  smallest = smaller(values, smallest);
  return widen(values);
}

BITRATE_HD bool any_negative(Floats smallest) {
  bool negative = false;
  for (int64_t i = 0; i < kWidth; ++i) negative |= smallest[i] < 0.0f;
  return negative;
}

// Results as the map has them; see Rounded<float>.
BITRATE_HD Floats rounded(Doubles values) {
  const Floats single = narrow(values) + 0.0f;
  const Words canonical = Words{} + 0x7fc00000u;
  return single == single ? single : bits_as<Floats>(canonical);
}

// A store that does not read its line first and leaves the caches alone; `to` is aligned to the vector.
BITRATE_HD void stream(float* to, Floats values) {
#if defined(BITRATE_AVX512)
  _mm256_stream_ps(to, (__m256)values);
#elif defined(BITRATE_AVX2)
  _mm_stream_ps(to, (__m128)values);
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
