// The CPU path of sources: latents and their distributions to the bits of cells, and back. Free of torch.
#pragma once

#include "project.h"

namespace bitrate {

// bits[image, row, column] of each source, contiguous.
void sum_sources(const std::vector<SourceTerm>& sources, const std::vector<double*>& bits, const Kernels& kernels,
                 const ParallelFor& parallel);

// The gradients that each source wants, from those of its cells.
void sum_sources_backward(const std::vector<SourceTerm>& sources, const std::vector<const double*>& grads,
                          const Kernels& kernels, const ParallelFor& parallel);

}  // namespace bitrate
