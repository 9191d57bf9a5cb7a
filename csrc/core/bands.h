// Banded matrices, and the one step that applies them. Forward and backward, CPU and GPU all go through `tap`.
#pragma once

#include "ranges.h"

namespace bitrate {

// A banded matrix [rows, columns]: row r weighs columns start[r] ... start[r] + taps - 1.
struct Band {
  const int32_t* start;  // [rows]
  const double* weight;  // [taps, rows]
  int64_t rows, columns, taps;
};

// Columns that some rows of a band read, from the starts of the first and of the last; all, unless starts are `sorted`.
BITRATE_HD Span columns_read(const Band& band, bool sorted, int32_t first, int32_t last) {
  if (!sorted) return {0, int32_t(band.columns)};
  return {first, last + int32_t(band.taps)};
}

// One tap of a banded product, in the order of the taps from a sum of zero. A weight of zero is no tap: an infinite or NaN
// value touches only what it weighs on.
template <typename Arithmetic, typename Double>
BITRATE_HD Double tap(Double sum, Double weight, Double value) {
  return weight != 0.0 ? Arithmetic::fma(weight, value, sum) : sum;
}

}  // namespace bitrate
