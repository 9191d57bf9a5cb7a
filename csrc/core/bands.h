// Banded matrices, and the one step that applies them. Forward and backward, CPU and GPU all go through `tap`.
#pragma once

#include "scalar.h"

namespace bitrate {

// A banded matrix [rows, columns]: row r weighs columns start[r] ... start[r] + taps - 1.
struct Band {
  const int32_t* start;  // [rows]
  const double* weight;  // [taps, rows]
  int64_t rows, columns, taps;
};

// One tap of a banded product, in the order of the taps from a sum of zero. A weight of zero is no tap: an infinite or NaN
// value touches only what it weighs on.
template <typename Arithmetic, typename Double>
BITRATE_HD Double tap(Double sum, Double weight, Double value) {
  return weight != 0.0 ? Arithmetic::fma(weight, value, sum) : sum;
}

}  // namespace bitrate
