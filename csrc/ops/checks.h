// Last guards in front of the kernels: Python has checked already, with kinder words. Each returns what it checked.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "../core/guide.h"

namespace bitrate {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType checked_dtype(const Tensor& tensor, const char* name = "likelihoods") {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::Float64;
    case ScalarType::Float: return DType::Float32;
    case ScalarType::Half: return DType::Float16;
    case ScalarType::BFloat16: return DType::BFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, name, " must be float64, float32, float16 or bfloat16");
}

// Likelihoods have a dimension of channels, bits of cells have none.
inline Latent checked_latent(const Tensor& values, int64_t batch) {
  const int64_t rank = values.dim();
  STD_TORCH_CHECK(rank == 4 || rank == 3, "likelihoods must be [N, C, h, w], and bits [N, h, w], got ", rank, " dimensions");
  STD_TORCH_CHECK(values.size(0) == batch, "likelihoods must have the map's batch size ", batch, ", got ", values.size(0));
  const bool bits = rank == 3;
  return {values.data_ptr(),
          checked_dtype(values),
          bits ? Source::Bits : Source::Likelihoods,
          batch,
          bits ? 1 : values.size(1),
          values.size(rank - 2),
          values.size(rank - 1),
          values.stride(0),
          bits ? 0 : values.stride(1),
          values.stride(rank - 2),
          values.stride(rank - 1)};
}

template <typename Data>
Image<Data> checked_map(const char* name, const Tensor& map) {
  STD_TORCH_CHECK(map.dim() == 4 && map.size(1) == 1, name, " must be [N, 1, H, W]");
  STD_TORCH_CHECK(map.is_contiguous(), name, " must be contiguous");
  const bool is_double = map.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || map.scalar_type() == ScalarType::Float, name, " must be float32 or float64");
  return {map.data_ptr(), is_double, map.size(0), map.size(2), map.size(3)};
}

// A guide of a float32 map, or none.
inline Guide checked_guide(const std::optional<Tensor>& guide, const Image<void>& map) {
  if (!guide.has_value()) return {};
  STD_TORCH_CHECK(!map.is_double && guide->scalar_type() == ScalarType::Float, "guide and out must be float32");
  STD_TORCH_CHECK(guide->dim() == 4 && guide->size(0) == map.batch && guide->size(1) == 1 && guide->size(2) == map.height &&
                      guide->size(3) == map.width && (map.width <= 1 || guide->stride(3) == 1),
                  "guide must be of the map's shape, its rows contiguous");
  return {static_cast<const float*>(guide->data_ptr()), guide->stride(0), guide->stride(2)};
}

inline void check_start(const Tensor& start, int64_t rows) {
  STD_TORCH_CHECK(
      start.scalar_type() == ScalarType::Int && start.dim() == 1 && start.is_contiguous() && start.size(0) == rows,
      "a band's start must be contiguous int32 [", rows, "]");
}

// A band of `rows` x `columns`: every column index it can reach is inside. `start` is read here, so it is the CPU's.
inline Band checked_band(const Tensor& start, const Tensor& weight, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(start.is_cpu(), "a band's start must be on the CPU");
  check_start(start, rows);
  STD_TORCH_CHECK(
      weight.scalar_type() == ScalarType::Double && weight.dim() == 2 && weight.is_contiguous() && weight.size(1) == rows,
      "a band's weight must be contiguous float64 [taps, ", rows, "]");
  const Band band{static_cast<const int32_t*>(start.data_ptr()), static_cast<const double*>(weight.data_ptr()), rows,
                  columns, weight.size(0)};
  for (int64_t r = 0; r < rows && band.taps > 0; ++r) {
    STD_TORCH_CHECK(band.start[r] >= 0 && band.start[r] + band.taps <= columns, "a band's row ", r, " reaches outside ",
                    columns, " columns");
  }
  return band;
}

inline GradientTerm checked_gradient(const Latent& latent, const Tensor& gradient, const Band& rows, const Band& columns) {
  const Latent to = checked_latent(gradient, latent.batch);
  STD_TORCH_CHECK(to.dtype == latent.dtype && to.source == latent.source && to.channels == latent.channels &&
                      to.h == latent.h && to.w == latent.w,
                  "gradient must have the likelihoods' dtype and shape");
  return {latent, const_cast<void*>(to.data), to.batch_stride, to.channel_stride, to.row_stride, to.cell_stride, rows,
          columns};
}

// A picture whose guide is made into `out`, [N, 1, H, W], with phases [stride, stride].
inline Picture checked_picture(const Tensor& picture, const Tensor& phases, const Tensor& out) {
  STD_TORCH_CHECK(picture.dim() == 4 && picture.size(1) > 0, "picture must be [N, C, H, W] of at least one channel");
  STD_TORCH_CHECK(
      phases.dim() == 2 && phases.numel() > 0 && phases.is_contiguous() && phases.scalar_type() == ScalarType::Float,
      "phases must be contiguous float32 [stride, stride]");
  const Image<void> guide = checked_map<void>("out", out);
  STD_TORCH_CHECK(!guide.is_double && guide.batch == picture.size(0) && guide.height == picture.size(2) &&
                      guide.width == picture.size(3),
                  "out must be float32 of the picture's size");
  return {picture.data_ptr(), checked_dtype(picture, "picture"),
          picture.size(0),    picture.size(1),
          picture.size(2),    picture.size(3),
          picture.stride(0),  picture.stride(1),
          picture.stride(2),  picture.stride(3)};
}

inline GuideWeights checked_weights(const std::vector<double>& weights, int64_t channels) {
  STD_TORCH_CHECK(weights.size() == 4, "weights must be 4, got ", weights.size());
  for (const double weight : weights) {
    STD_TORCH_CHECK(std::abs(weight) <= kMostWeight, "weights must be at most ", kMostWeight, ", got ", weight);
  }
  return guide_weights({weights[0], weights[1], weights[2], weights[3]}, channels);
}

}  // namespace bitrate
