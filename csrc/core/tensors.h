// Tensors as the kernels see them: an address, sizes and strides. No torch.
#pragma once

#include "bands.h"

namespace bitrate {

enum class DType : int { Float64, Float32, Float16, BFloat16 };
constexpr int kDTypes = 4;
constexpr int64_t kElementSize[kDTypes] = {8, 4, 2, 2};

// Likelihoods [batch, channels, h, w] of one latent; strides in elements.
struct Latent {
  const void* likelihoods;
  DType dtype;
  int64_t batch, channels, h, w;
  int64_t batch_stride, channel_stride, row_stride, cell_stride;
};

struct Term {
  Latent latent;
  Band rows;     // [H, h]
  Band columns;  // [W, w]
};

// A map or its gradient, contiguous [batch, height, width].
template <typename Data>
struct Image {
  Data* data;
  bool is_double;  // float64, else float32
  int64_t batch, height, width;
};

struct GradientTerm {
  Latent latent;
  void* gradient;  // of the likelihoods' dtype and shape
  int64_t batch_stride, channel_stride, row_stride, cell_stride;
  Band rows;     // transposed: [h, H]
  Band columns;  // transposed: [w, W]
};

}  // namespace bitrate
