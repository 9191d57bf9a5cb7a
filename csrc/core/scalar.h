// Number formats of the likelihoods, and bit-level views; no torch, for host and device alike.
#pragma once

#include <cstdint>
#include <cstring>

// The one macro of the project: a function that g++ and nvcc both compile, always inlined so that a copy made for one
// instruction set can never be linked into code for another.
#if defined(__CUDACC__)
#define BITRATE_HD __host__ __device__ __forceinline__
#else
#define BITRATE_HD inline __attribute__((always_inline))
#endif

namespace bitrate {

// The same bits as another type; works for scalars and for the vectors of cpu/vector.h.
template <typename To, typename From>
BITRATE_HD To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// Exact. Subnormals go through an integer so that a flush-to-zero mode of the caller does not lose them.
BITRATE_HD float to_float(Half value) {
#if defined(__CUDA_ARCH__)
  float exact;  // one instruction where the lines below are twenty
  asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(value.bits));
  return exact;
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -magnitude : magnitude;
  }
  const uint32_t rebased = exponent == 31 ? 0xffu : exponent + 112u;  // bias 15 -> 127
  return bits_as<float>(sign | (rebased << 23) | (mantissa << 13));
#endif
}

BITRATE_HD float to_float(BFloat16 value) { return bits_as<float>(uint32_t(value.bits) << 16); }
BITRATE_HD float to_float(float value) { return value; }

BITRATE_HD double to_double(double value) { return value; }
template <typename T>
BITRATE_HD double to_double(T value) {
  return double(to_float(value));
}

// Round a double to T, nearest even, through float for the 16-bit formats; NaN gets one fixed bit pattern and -0 becomes
// +0, so that equal results are equal bytes on every processor.
template <typename T>
struct Rounded;

template <>
struct Rounded<double> {
  static BITRATE_HD double from(double value) {
    return value == value ? value + 0.0 : bits_as<double>(uint64_t(0x7ff8000000000000u));
  }
};

template <>
struct Rounded<float> {
  static BITRATE_HD float from(float value) { return value == value ? value + 0.0f : bits_as<float>(0x7fc00000u); }
  static BITRATE_HD float from(double value) { return from(float(value)); }
};

template <>
struct Rounded<BFloat16> {
  template <typename Real>
  static BITRATE_HD BFloat16 from(Real value) {
    const uint32_t bits = bits_as<uint32_t>(Rounded<float>::from(value));
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(0x7fc0u)};
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {uint16_t(rounded == 0x8000u ? 0u : rounded)};
  }
};

template <>
struct Rounded<Half> {
  template <typename Real>
  static BITRATE_HD Half from(Real value) {
    const uint32_t bits = bits_as<uint32_t>(Rounded<float>::from(value));
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {uint16_t(0x7e00u)};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds to 65536 or more
    uint32_t rounded;
    if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by shifting the mantissa out
      const uint32_t exponent = magnitude >> 23;
      if (exponent < 102u) return {uint16_t(0u)};  // below 2^-25
      const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      const uint32_t shift = 126u - exponent;  // 14 ... 24
      const uint32_t kept = mantissa >> shift;
      const uint32_t rest = mantissa & ((1u << shift) - 1u);
      const uint32_t tie = 1u << (shift - 1u);
      rounded = kept + ((rest > tie || (rest == tie && (kept & 1u))) ? 1u : 0u);
    } else {
      rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return {uint16_t(rounded == 0u ? 0u : sign | rounded)};
  }
};

}  // namespace bitrate
