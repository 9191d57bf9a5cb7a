// The CPU path of the guide of a picture. Free of torch: threads are handed in.
#pragma once

#include "../core/guide.h"
#include "project.h"

namespace bitrate {

// guide[batch, height, width], contiguous.
struct GuideTask {
  Picture picture;
  GuideWeights weights;
  int64_t phase_rows, phase_columns;
  const float* places;  // [phase_rows, phase_columns + kMostStep]: exponents of places in a cell; each row begins again
  float* guide;
};

constexpr int64_t kMostStep = 16;     // pixels of the widest vector
constexpr int64_t kGuideMargin = 32;  // beside a block of columns: its reach, and a vector more, aligned
constexpr int64_t kGuideRows = 28;    // that a block keeps

// Floats between the rows of a block of columns.
BITRATE_HD int64_t guide_pitch(int64_t columns) { return round_up(columns + 2 * kGuideMargin, kMostStep); }

// phases[rows, columns] are natural logarithms of factors of the places in a cell.
void make_guide(const Picture& picture, const GuideWeights& weights, const float* phases, int64_t phase_rows,
                int64_t phase_columns, float* guide, const Kernels& kernels, const ParallelFor& parallel);

}  // namespace bitrate
