// What the statements that ptx.py makes of PTX stand for. A register is its bits; an instruction is a function with its name
// (`add.rn.f64` is op_add_rn<f64>), so one that is not here does not compile. What PTX leaves open is random: registers that
// nobody wrote, sign and payload of a NaN, and a NaN as an integer.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "checked.h"

namespace bitrate::ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using b8 = u8;
using b16 = u16;
using b32 = u32;
using b64 = u64;
using f32 = float;
using f64 = double;
using pred = bool;
struct f16 {
  uint16_t bits;
};

// One instruction of the PTX may be another than it was: the one with this number; none is 0.
inline int planted = 0;

// A piece of the code without a branch.
struct Block {
  const char* kernel;
  int line;
  bool reached = false;
};
inline std::vector<Block> blocks;

inline uint64_t random_bits() {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// ---- bits, and values of them

struct Operand {
  uint64_t bits;

  template <typename T>
  operator T() const {
    if constexpr (std::is_same_v<T, bool>) return bits & 1;
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }
};

template <typename T>
uint64_t bits_from(T value) {
  if constexpr (std::is_integral_v<T>) return uint64_t(value);  // a signed one is extended
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T element(const void* from, int k) {
  T value;
  std::memcpy(&value, static_cast<const char*>(from) + k * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void put_element(void* to, int k, T value) {
  std::memcpy(static_cast<char*>(to) + k * sizeof(T), &value, sizeof(T));
}

template <typename T>
T result(T value) {
  if (value == value) return value;
  constexpr int fraction = std::numeric_limits<T>::digits - 1, bits = 8 * sizeof(T);
  const uint64_t quiet = ~uint64_t(0) >> (65 - bits) & ~uint64_t(0) << (fraction - 1);
  const uint64_t open = uint64_t(1) << (bits - 1) | ((uint64_t(1) << (fraction - 1)) - 1);
  return Operand{quiet | (random_bits() & open)};
}

// ---- a thread, and the memory that it sees

class Thread {
 public:
  virtual ~Thread() = default;
  virtual u32 block() = 0;
  virtual u32 thread() = 0;
  virtual u32 threads() = 0;
  virtual void barrier(int line) = 0;
  virtual const void* load(u64 address, int64_t size) = 0;
  virtual void* store(u64 address, int64_t size) = 0;
  virtual void* shared(u32 address, int64_t size, bool write) = 0;

  // Called for each step back.
  void turn(int line) {
    if (++turns_ > 1 << 25) throw BrokenRule("a loop without end at line " + std::to_string(line));
  }

 private:
  int64_t turns_ = 0;
};

template <typename Ctx>
class ThreadOf final : public Thread {
 public:
  explicit ThreadOf(Ctx& ctx) : ctx_(ctx) {}
  u32 block() override { return u32(ctx_.block()); }
  u32 thread() override { return u32(ctx_.thread()); }
  u32 threads() override { return u32(ctx_.threads()); }
  void barrier(int line) override { ctx_.barrier(line); }
  const void* load(u64 address, int64_t size) override { return ctx_.load_bytes(reinterpret_cast<void*>(address), size); }
  void* store(u64 address, int64_t size) override { return ctx_.store_bytes(reinterpret_cast<void*>(address), size); }
  void* shared(u32 address, int64_t size, bool write) override { return ctx_.shared_bytes(address, size, write); }

 private:
  Ctx& ctx_;
};

// Memory of several pieces that are only read: a kernel's parameters, the tables of a module.
struct Piece {
  const void* data;
  int64_t bytes;
};

inline const void* piece_at(const Piece& piece, u64 offset, int64_t size, const char* what) {
  if (offset + u64(size) > u64(piece.bytes) || offset % u64(size) != 0) {
    throw BrokenRule(std::to_string(size) + " bytes at " + std::to_string(int64_t(offset)) + " of " + what + " of " +
                     std::to_string(piece.bytes));
  }
  return static_cast<const char*>(piece.data) + offset;
}

// Parameter k lies at k << 32.
using Parameters = std::vector<Piece>;
inline const void* parameter(const Parameters& all, u64 address, int64_t size) {
  if (address >> 32 >= all.size()) throw BrokenRule("an address outside all parameters");
  return piece_at(all[address >> 32], address & 0xffffffffu, size, "a parameter");
}

// The table that an address is in, if any.
inline std::vector<Piece> tables;
inline const void* table(u64 address, int64_t size) {
  for (const Piece& piece : tables) {
    const u64 offset = address - reinterpret_cast<u64>(piece.data);
    if (offset < u64(piece.bytes)) return piece_at(piece, offset, size, "a table");
  }
  return nullptr;
}

inline const void* constant(u64 address, int64_t size) {
  if (const void* found = table(address, size)) return found;
  throw BrokenRule("an address outside all constants");
}

inline const void* global(Thread& thread, u64 address, int64_t size) {
  const void* found = table(address, size);
  return found != nullptr ? found : thread.load(address, size);
}

// A kernel's parameter as nvcc declares it.
template <int kBytes, int kAlignment>
struct Declared {};

template <typename T, int kBytes, int kAlignment>
const T& laid_out(Declared<kBytes, kAlignment>, const T& given) {
  static_assert(sizeof(T) == kBytes && alignof(T) == kAlignment, "nvcc lays out this parameter otherwise");
  return given;
}

template <typename... Declarations>
struct Kernel {
  void (*code)(Thread&, const Parameters&);

  template <typename Ctx, typename... Given>
  void operator()(Ctx& ctx, const Given&... given) const {
    ThreadOf<Ctx> thread(ctx);
    code(thread, Parameters{{&laid_out(Declarations(), given), int64_t(sizeof(Given))}...});
  }
};

// ---- instructions, each a function of a type of operand

#define BITRATE_EXT_OP(type, name, parameters, ...) \
  template <typename T>                             \
  type op_##name parameters {                       \
    __VA_ARGS__;                                    \
  }

BITRATE_EXT_OP(T, mov, (T a), return a)
BITRATE_EXT_OP(T, cvta_to_global, (T a), return a)
BITRATE_EXT_OP(T, and, (T a, T b), return a & b)
BITRATE_EXT_OP(T, or, (T a, T b), return a | b)
BITRATE_EXT_OP(T, xor, (T a, T b), return a ^ b)
BITRATE_EXT_OP(T, selp, (T a, T b, bool first), return first ? a : b)
template <typename T>
T op_not(T a) {
  if constexpr (std::is_same_v<T, bool>) return !a;
  return T(~a);
}

// Of integers. Without a rounding in its name, an instruction is on them alone.
template <typename T>
constexpr bool kInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;
template <typename T>
constexpr u32 kBits = 8 * sizeof(T);
template <bool kSigned, typename Signed, typename Plain>
using Either = std::conditional_t<kSigned, Signed, Plain>;
template <typename T, bool kSigned = std::is_signed_v<T>>  // twice as wide
using Wide = Either<sizeof(T) == 8, Either<kSigned, __int128, unsigned __int128>,
                    Either<sizeof(T) == 4, Either<kSigned, s64, u64>, Either<kSigned, s32, u32>>>;

BITRATE_EXT_OP(T, add, (T a, T b), static_assert(kInteger<T>); return T(u64(a) + u64(b)))
BITRATE_EXT_OP(T, sub, (T a, T b), static_assert(kInteger<T>); return T(u64(a) - u64(b)))
BITRATE_EXT_OP(T, mul_lo, (T a, T b), return T(u64(a) * u64(b)))
BITRATE_EXT_OP(T, mad_lo, (T a, T b, T c), return T(u64(a) * u64(b) + u64(c)))
BITRATE_EXT_OP(T, mul_hi, (T a, T b), return T(Wide<T>(a) * Wide<T>(b) >> kBits<T>))
BITRATE_EXT_OP(T, mad_hi, (T a, T b, T c), return T(u64(op_mul_hi(a, b)) + u64(c)))
BITRATE_EXT_OP(Wide<T>, mul_wide, (T a, T b), return Wide<T>(a) * Wide<T>(b))
BITRATE_EXT_OP(Wide<T>, mad_wide, (T a, T b, Wide<T> c), return Wide<T>(u64(op_mul_wide(a, b)) + u64(c)))

template <typename T>
void check_division(T a, T b) {
  static_assert(kInteger<T>);
  if (b == 0 || (std::is_signed_v<T> && b == T(-1) && a == std::numeric_limits<T>::min())) {
    throw BrokenRule("the division of " + std::to_string(a) + " by " + std::to_string(b));
  }
}
BITRATE_EXT_OP(T, div, (T a, T b), check_division(a, b); return a / b)
BITRATE_EXT_OP(T, rem, (T a, T b), check_division(a, b); return a % b)

// Shifts by the width or more leave nothing but the sign.
BITRATE_EXT_OP(T, shl, (T a, u32 by), return by < kBits<T> ? T(u64(a) << by) : T(0))
BITRATE_EXT_OP(T, shr, (T a, u32 by), return by < kBits<T> ? T(a >> by) : T(a < 0 ? -1 : 0))
BITRATE_EXT_OP(T, shf_l_wrap, (T low, T high, u32 by), return T((u64(high) << 32 | low) << (by & 31) >> 32))
BITRATE_EXT_OP(T, shf_r_wrap, (T low, T high, u32 by), return T((u64(high) << 32 | low) >> (by & 31)))
BITRATE_EXT_OP(u32, popc, (T a), return u32(__builtin_popcountll(a)))
BITRATE_EXT_OP(u32, clz, (T a), return a == 0 ? kBits<T> : u32(__builtin_clzll(a)) - (64 - kBits<T>))
template <typename T>
T op_bfe(T a, u32 first, u32 length) {
  static_assert(!std::is_signed_v<T>);
  return op_shr(a, first & 255) & (op_shl(T(1), length & 255) - 1);
}
template <typename T>
T op_bfi(T from, T into, u32 first, u32 length) {
  const T mask = op_shl(T(op_shl(T(1), length & 255) - 1), first & 255);
  return (into & ~mask) | (op_shl(from, first & 255) & mask);
}
template <typename T>
T op_prmt(T a, T b, u32 selector) {
  const u64 bytes = u64(b) << 32 | a;
  T made = 0;
  for (u32 k = 0; k < 4; ++k) {
    const u32 choice = selector >> 4 * k & 15, byte = u32(bytes >> 8 * (choice & 7)) & 255;
    made |= T(choice < 8 ? byte : byte & 128 ? 255 : 0) << 8 * k;
  }
  return made;
}

// Of floating-point numbers: rounded to the nearest, and no subnormal is lost.
BITRATE_EXT_OP(T, add_rn, (T a, T b), return result(a + b))
BITRATE_EXT_OP(T, sub_rn, (T a, T b), return result(a - b))
BITRATE_EXT_OP(T, mul_rn, (T a, T b), return result(a * b))
BITRATE_EXT_OP(T, div_rn, (T a, T b), return result(a / b))
BITRATE_EXT_OP(T, fma_rn, (T a, T b, T c), return result(std::fma(a, b, c)))
BITRATE_EXT_OP(T, sqrt_rn, (T a), return result(std::sqrt(a)))
BITRATE_EXT_OP(T, rcp_rn, (T a), return result(T(1) / a))
BITRATE_EXT_OP(T, copysign, (T a, T b), return std::copysign(b, a))

// Of both. -0 comes before 0; of a number and NaN the number counts.
template <typename T>
bool before(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a == b) return std::signbit(a) && !std::signbit(b);
  }
  return a < b;
}
BITRATE_EXT_OP(T, min, (T a, T b), return a != a || b != b ? result(a != a ? b : a) : before(b, a) ? b : a)
BITRATE_EXT_OP(T, max, (T a, T b), return a != a || b != b ? result(a != a ? b : a) : before(a, b) ? b : a)
template <typename T>
T op_neg(T a) {
  if constexpr (kInteger<T>) return T(-u64(a));
  return result(-a);
}
BITRATE_EXT_OP(T, abs, (T a), return before(a, T(0)) ? op_neg(a) : result(a))

#undef BITRATE_EXT_OP

// ---- comparisons: those with "u" are true of NaN, too

#define BITRATE_EXT_COMPARISON(name, expression) \
  template <typename T>                          \
  bool op_setp_##name(T a, T b) {                \
    return expression;                           \
  }                                              \
  template <typename T>                          \
  bool op_setp_##name##_and(T a, T b, bool c) {  \
    return (expression) && c;                    \
  }                                              \
  template <typename T>                          \
  bool op_setp_##name##_or(T a, T b, bool c) {   \
    return (expression) || c;                    \
  }                                              \
  template <typename T>                          \
  bool op_setp_##name##_xor(T a, T b, bool c) {  \
    return (expression) != c;                    \
  }
BITRATE_EXT_COMPARISON(lt, a < b)
BITRATE_EXT_COMPARISON(le, a <= b)
BITRATE_EXT_COMPARISON(gt, a > b)
BITRATE_EXT_COMPARISON(ge, a >= b)
BITRATE_EXT_COMPARISON(eq, a == b)
BITRATE_EXT_COMPARISON(ne, a<b || a> b)
BITRATE_EXT_COMPARISON(ltu, !(a >= b))
BITRATE_EXT_COMPARISON(leu, !(a > b))
BITRATE_EXT_COMPARISON(gtu, !(a <= b))
BITRATE_EXT_COMPARISON(geu, !(a < b))
BITRATE_EXT_COMPARISON(equ, !(a < b || a > b))
BITRATE_EXT_COMPARISON(neu, !(a == b))
BITRATE_EXT_COMPARISON(num, a == a && b == b)
BITRATE_EXT_COMPARISON(nan, a != a || b != b)
#undef BITRATE_EXT_COMPARISON

// ---- conversions

template <typename To, typename From>
To op_cvt(From a) {  // exact, or an integer's lowest bits
  if constexpr (std::is_same_v<From, f16>) {
    const int exponent = a.bits >> 10 & 31, fraction = a.bits & 1023;
    const float magnitude = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                            : exponent == 0 ? std::ldexp(float(fraction), -24)
                                            : std::ldexp(float(fraction | 1024), exponent - 25);
    return result(a.bits >> 15 ? -magnitude : magnitude);
  } else if constexpr (std::is_integral_v<To> && std::is_integral_v<From>) {
    return To(a);
  } else {
    static_assert(std::is_same_v<To, f64> && std::is_same_v<From, f32>, "its rounding is left open");
    return result(To(a));
  }
}
template <typename To, typename From>
To op_cvt_rn(From a) {
  static_assert(std::is_floating_point_v<To>);
  return result(To(a));
}

template <typename To, typename From>
To op_cvt_rz(From a) {
  static_assert(sizeof(To) < sizeof(From));
  const To nearest = To(a);
  return result(std::fabs(From(nearest)) > std::fabs(a) ? std::nextafter(nearest, To(0)) : nearest);
}

// To a whole number, which an integer holds as far as it can.
template <typename To, typename From>
To whole(From a) {
  if constexpr (std::is_floating_point_v<To>) {
    static_assert(std::is_same_v<To, From>);
    return result(a);
  } else {
    if (a != a) return To(random_bits());
    if (a < From(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (a >= std::ldexp(From(1), int(kBits<To>) - std::is_signed_v<To>)) return std::numeric_limits<To>::max();
    return To(a);
  }
}
template <typename To, typename From>
To op_cvt_rni(From a) {
  return whole<To>(std::nearbyint(a));
}
template <typename To, typename From>
To op_cvt_rzi(From a) {
  return whole<To>(std::trunc(a));
}
template <typename To, typename From>
To op_cvt_rmi(From a) {
  return whole<To>(std::floor(a));
}
template <typename To, typename From>
To op_cvt_rpi(From a) {
  return whole<To>(std::ceil(a));
}

}  // namespace bitrate::ptx
