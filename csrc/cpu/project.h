// The CPU path: latents to a map, and a map's gradient to the latents'. Free of torch: threads are handed in.
#pragma once

#include <functional>
#include <vector>

#include "../core/tensors.h"
#include "kernels.h"

namespace bitrate {

// Calls body(begin, end) on parts of [0, count) of at least `grain` each, on as many threads as it likes.
using ParallelFor = std::function<void(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body)>;

// map = sum over terms of rows * bits * columns^T, times the guide where there is one.
void project(const std::vector<Term>& terms, const Guide& guide, const Image<void>& map, const Kernels& kernels,
             const ParallelFor& parallel);

// Cell gradients = rows * grad * columns^T (bands transposed), then -cell gradient / (p ln 2) for each likelihood, or the
// cell gradient itself for bits.
void project_backward(const Image<const void>& grad, const GradientTerm& term, const Kernels& kernels,
                      const ParallelFor& parallel);

}  // namespace bitrate
