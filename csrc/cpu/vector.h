// Vectors of float64 as wide as the instruction set the including file is compiled for. GCC's and clang's vector extension
// does the arithmetic; conversions, fused multiply-add and streaming stores are chosen by name. BITRATE_AVX2 and
// BITRATE_AVX512 are set by the including file: before version 13, g++ does not update its own macros in a target pragma.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <utility>

#include "../core/exp.h"

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
using UnsignedInts = uint64_t __attribute__((vector_size(8 * kWidth)));
using Floats = float __attribute__((vector_size(4 * kWidth)));
using Words = uint32_t __attribute__((vector_size(4 * kWidth)));
using Shorts = uint16_t __attribute__((vector_size(2 * kWidth)));
// Two of each: as many float32 as a register holds.
using TwoFloats = float __attribute__((vector_size(8 * kWidth)));
using TwoWords = uint32_t __attribute__((vector_size(8 * kWidth)));
using TwoInts = int32_t __attribute__((vector_size(8 * kWidth)));
using HalfInts = int32_t __attribute__((vector_size(4 * kWidth)));
using TwoShorts = uint16_t __attribute__((vector_size(4 * kWidth)));

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

BITRATE_HD Doubles broadcast(double value) {
#if defined(BITRATE_AVX512)
  return (Doubles)_mm512_set1_pd(value);
#elif defined(BITRATE_AVX2)
  return (Doubles)_mm256_set1_pd(value);
#else
  return Doubles{value, value};
#endif
}

// By name where g++ would split a conversion in halves.
BITRATE_HD Doubles widen(Floats values) {
#if defined(BITRATE_AVX512)
  return (Doubles)_mm512_cvtps_pd((__m256)values);
#elif defined(BITRATE_AVX2)
  return (Doubles)_mm256_cvtps_pd((__m128)values);
#else
  return __builtin_convertvector(values, Doubles);
#endif
}

BITRATE_HD Floats narrow(Doubles values) {
#if defined(BITRATE_AVX512)
  return (Floats)_mm512_cvtpd_ps((__m512d)values);
#elif defined(BITRATE_AVX2)
  return (Floats)_mm256_cvtpd_ps((__m256d)values);
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
  // AVX2 has no shift of signed 64-bit integers.
  static BITRATE_HD Ints shift_right(Ints value, int places) { return Ints(UnsignedInts(value) >> places); }
  static BITRATE_HD Doubles from(Ints value) { return __builtin_convertvector(value, Doubles); }
};

template <>
struct Arithmetic<TwoFloats> {
  using Int = TwoInts;
  static BITRATE_HD TwoFloats fma(TwoFloats a, TwoFloats b, TwoFloats c) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(BITRATE_AVX2)
    return (TwoFloats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    TwoFloats result;
    for (int64_t i = 0; i < 2 * kWidth; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return result;
#endif
  }
  // The processor's minimum is its second operand where that is NaN, and costs half of a comparison and a choice.
  static BITRATE_HD TwoFloats at_most(TwoFloats x, TwoFloats limit) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_min_ps((__m512)limit, (__m512)x);
#elif defined(BITRATE_AVX2)
    return (TwoFloats)_mm256_min_ps((__m256)limit, (__m256)x);
#else
    return x > limit ? limit : x;
#endif
  }
  static BITRATE_HD bool any(TwoInts mask) {
#if defined(BITRATE_AVX512)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(BITRATE_AVX2)
    return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
    int32_t found = 0;
    for (int64_t i = 0; i < 2 * kWidth; ++i) found |= mask[i];
    return found != 0;
#endif
  }
};

BITRATE_HD Ints widen(HalfInts values) {
#if defined(BITRATE_AVX512)
  return (Ints)_mm512_cvtepi32_epi64((__m256i)values);
#elif defined(BITRATE_AVX2)
  return (Ints)_mm256_cvtepi32_epi64((__m128i)values);
#else
  return __builtin_convertvector(values, Ints);
#endif
}

// from[index[i]] each.
BITRATE_HD TwoFloats gather(const float* from, TwoInts index) {
#if defined(BITRATE_AVX512)
  return (TwoFloats)_mm512_i32gather_ps((__m512i)index, from, 4);
#elif defined(BITRATE_AVX2)
  return (TwoFloats)_mm256_i32gather_ps(from, (__m256i)index, 4);
#else
  TwoFloats found;
  for (int64_t i = 0; i < 2 * kWidth; ++i) found[i] = from[index[i]];
  return found;
#endif
}

BITRATE_HD TwoInts gather(const int32_t* from, TwoInts index) {
#if defined(BITRATE_AVX512)
  return (TwoInts)_mm512_i32gather_epi32((__m512i)index, from, 4);
#elif defined(BITRATE_AVX2)
  return (TwoInts)_mm256_i32gather_epi32(from, (__m256i)index, 4);
#else
  TwoInts found;
  for (int64_t i = 0; i < 2 * kWidth; ++i) found[i] = from[index[i]];
  return found;
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

// Two vectors of 16-bit numbers at once.
BITRATE_HD TwoFloats load_two(const BFloat16* from) {
  return bits_as<TwoFloats>(__builtin_convertvector(load<TwoShorts>(from), TwoWords) << 16);
}

BITRATE_HD TwoFloats load_two(const Half* from) {
#if defined(BITRATE_AVX512)
  return (TwoFloats)_mm512_cvtph_ps(load<__m256i>(from));
#elif defined(BITRATE_AVX2)
  return (TwoFloats)_mm256_cvtph_ps(load<__m128i>(from));
#else
  TwoFloats values;
  for (int64_t i = 0; i < 2 * kWidth; ++i) values[i] = to_float(from[i]);
  return values;
#endif
}

// A vector of numbers in float64, exactly. Straight from memory a conversion costs half of what it does from a register.
BITRATE_HD Doubles load_doubles(const double* from) { return load<Doubles>(from); }

BITRATE_HD Doubles load_doubles(const float* from) {
#if defined(BITRATE_AVX512)
  return (Doubles)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#elif defined(BITRATE_AVX2)
  return (Doubles)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
  return widen(load_floats(from));
#endif
}

template <typename T>
BITRATE_HD Doubles load_doubles(const T* from) {
  return widen(load_floats(from));
}

// Sign bits of all values seen: a negative likelihood is NaN, which a product of two would hide.
BITRATE_HD void collect_signs(Ints& signs, Doubles a, Doubles b) {
#if defined(BITRATE_AVX512)
  signs = (Ints)_mm512_ternarylogic_epi64((__m512i)signs, (__m512i)a, (__m512i)b, 0xfe);
#else
  signs |= bits_as<Ints>(a) | bits_as<Ints>(b);
#endif
}

BITRATE_HD bool any_negative(Ints signs) {
  bool negative = false;
  for (int64_t i = 0; i < kWidth; ++i) negative |= signs[i] < 0;
  return negative;
}

// Whether a vector's worth of 32-bit integers are the same; two are compared at a time, or all.
BITRATE_HD bool all_equal(const int32_t* values) {
#if defined(BITRATE_AVX512)
  return _mm256_cmpneq_epi32_mask(_mm256_loadu_si256((const __m256i*)values), _mm256_set1_epi32(*values)) == 0;
#else
  const uint64_t twice = uint64_t(uint32_t(*values)) * 0x100000001u;
  uint64_t difference = 0;
  for (int64_t i = 0; i < kWidth; i += 2) difference |= load<uint64_t>(values + i) ^ twice;
  return difference == 0;
#endif
}

// Swaps blocks of `Half` x `Half` elements on either side of the diagonal, from halves of the whole down to single ones.
template <typename Vector, int64_t Half, int64_t... J>
BITRATE_HD void transpose(Vector* rows, std::integer_sequence<int64_t, J...> columns) {
  if constexpr (Half > 0) {
    for (int64_t i = 0; i < kWidth; ++i) {
      if (i & Half) continue;
      const Vector upper = rows[i], lower = rows[i + Half];
      rows[i] = Vector{(J & Half ? lower[J ^ Half] : upper[J])...};
      rows[i + Half] = Vector{(J & Half ? lower[J] : upper[J ^ Half])...};
    }
    transpose<Vector, Half / 2>(rows, columns);
  }
}

// A square of as many vectors as each has elements, transposed in place.
template <typename Vector>
BITRATE_HD void transpose(Vector (&rows)[kWidth]) {
  transpose<Vector, kWidth / 2>(rows, std::make_integer_sequence<int64_t, kWidth>());
}

// Results as the map has them; see Rounded<float>.
BITRATE_HD Floats rounded(Doubles values) {
  const Floats single = narrow(values) + 0.0f;
  const Words canonical = Words{} + 0x7fc00000u;
  return single == single ? single : bits_as<Floats>(canonical);
}

// Ask for a line that is read soon, as far as the second cache.
BITRATE_HD void prefetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// The same in the 16-bit formats; see Rounded<BFloat16> and Rounded<Half>.
BITRATE_HD Shorts rounded(Doubles values, BFloat16) {
  const Words bits = bits_as<Words>(rounded(values));
  const Words result = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return __builtin_convertvector(result == 0x8000u ? Words{} : result, Shorts);
}

BITRATE_HD Shorts rounded(Doubles values, Half) {
#if defined(BITRATE_AVX512)
  const Shorts result = (Shorts)_mm256_cvtps_ph((__m256)rounded(values), _MM_FROUND_TO_NEAREST_INT);
#elif defined(BITRATE_AVX2)
  const Shorts result = bits_as<Shorts>(_mm_cvtsi128_si64(_mm_cvtps_ph((__m128)rounded(values), _MM_FROUND_TO_NEAREST_INT)));
#else
  Shorts result;
  for (int64_t i = 0; i < kWidth; ++i) result[i] = Rounded<Half>::from(values[i]).bits;
#endif
  return result == 0x8000u ? Shorts{} : result;
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

BITRATE_HD void stream(void* to, Shorts values) {
#if defined(BITRATE_AVX512)
  _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)values);
#elif defined(BITRATE_AVX2)
  _mm_stream_si64(static_cast<long long*>(to), bits_as<int64_t>(values));
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
