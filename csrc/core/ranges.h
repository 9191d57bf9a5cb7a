// Whole numbers and ranges of them.
#pragma once

#include "scalar.h"

namespace bitrate {

template <typename T>
BITRATE_HD T min_of(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
BITRATE_HD T max_of(T a, T b) {
  return a > b ? a : b;
}

BITRATE_HD int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
BITRATE_HD int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Half-open.
template <typename Int>
struct RangeOf {
  Int begin, end;
  BITRATE_HD Int size() const { return end - begin; }
};

using Range = RangeOf<int64_t>;
// Of cells or pixels along one axis on a GPU: 32 bits hold them (plan.h sees to it), and registers are few.
using Span = RangeOf<int32_t>;

}  // namespace bitrate
