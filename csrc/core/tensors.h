// Tensors as the kernels see them: an address, sizes and strides. No torch.
#pragma once

#include "bands.h"

namespace bitrate {

enum class DType : int { Float64, Float32, Float16, BFloat16 };
constexpr int kDTypes = 4;
constexpr int64_t kElementSize[kDTypes] = {8, 4, 2, 2};

// Calls body(T{}) for the type of that name.
template <typename Body>
BITRATE_HD void visit(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::Float64: return body(double{});
    case DType::Float32: return body(float{});
    case DType::Float16: return body(Half{});
    case DType::BFloat16: return body(BFloat16{});
  }
}

// What a latent holds, from which the bits of its cells are made: a kernel's first step, and the only one that differs.
enum class Source : int {
  Likelihoods,  // [batch, channels, h, w]
  Bits,         // [batch, h, w], already summed: one channel
};
constexpr int kSources = 2;

// Of a cell's gradient, what all its channels share: d(-log2 p)/dp = -1 / (p ln 2), and of bits the whole.
BITRATE_HD double shared_gradient(Source source, double cell_gradient) {
  return source == Source::Bits ? cell_gradient : cell_gradient * -1.4426950408889634;  // -1 / ln 2
}

// One latent; strides in elements.
struct Latent {
  const void* data;
  DType dtype;
  Source source;
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

// What multiplies the pixels of a map, [batch, height, width]; pixels of a row follow each other. Null: nothing does.
struct Guide {
  const float* data;
  int64_t batch_stride, row_stride;
};

struct GradientTerm {
  Latent latent;
  void* gradient;  // of the latent's dtype and shape
  int64_t batch_stride, channel_stride, row_stride, cell_stride;
  Band rows;     // transposed: [h, H]
  Band columns;  // transposed: [w, W]
};

}  // namespace bitrate
