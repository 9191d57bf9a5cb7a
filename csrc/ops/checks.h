// Last guards in front of the kernels: Python has checked already, with kinder words. Each returns what it checked.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "../core/sources.h"

namespace bitrate {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType checked_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return DType::Float64;
    case ScalarType::Float: return DType::Float32;
    case ScalarType::Half: return DType::Float16;
    case ScalarType::BFloat16: return DType::BFloat16;
    default: break;
  }
  STD_TORCH_CHECK(false, "likelihoods must be float64, float32, float16 or bfloat16");
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

inline Strided strided(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

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

// Sources come flat: tensors one after the other, see Family, with a bound and a floor each.
inline std::vector<SourceTerm> checked_sources(const std::vector<Tensor>& tensors, const std::vector<int64_t>& families,
                                               const std::vector<double>& bounds, const std::vector<double>& floors) {
  STD_TORCH_CHECK(bounds.size() == families.size() && floors.size() == families.size(),
                  "a source must have one family, bound and floor");
  std::vector<SourceTerm> sources;
  size_t next = 0;
  for (size_t k = 0; k < families.size(); ++k) {
    STD_TORCH_CHECK(families[k] >= 0 && families[k] < kFamilies, "no family of distributions ", families[k]);
    SourceTerm source{};
    source.family = Family(families[k]);
    source.bound = float(bounds[k]);
    source.floor = float(floors[k]);
    STD_TORCH_CHECK(next + source.count() <= tensors.size(), "tensors must be ", source.count(), " for a source");
    const Tensor& values = tensors[next];
    STD_TORCH_CHECK(values.dim() == 4, "a source's tensors must be [N, C, h, w]");
    source.dtype = checked_dtype(values);
    STD_TORCH_CHECK(source.dtype != DType::Float64, "a source's tensors must be narrower than float64");
    source.batch = values.size(0);
    source.channels = values.size(1);
    source.h = values.size(2);
    source.w = values.size(3);
    source.components = 1;
    const bool factorized = source.family == Family::Factorized;
    if (factorized) {
      const Tensor& parameters = tensors[next + 1];
      STD_TORCH_CHECK(values.is_contiguous() && parameters.scalar_type() == ScalarType::Float &&
                          parameters.is_contiguous() && parameters.dim() == 2 && parameters.size(0) == source.channels &&
                          parameters.size(1) == kParameters,
                      "a factorised prior must have contiguous values and float32 parameters [C, ", kParameters, "]");
      source.inputs[0] = strided(values);
      source.inputs[1] = {parameters.data_ptr(), 0, parameters.stride(0), 0, 0};
    }
    for (int i = 0; i < (factorized ? 0 : source.count()); ++i) {
      const Tensor& one = tensors[next + i];
      STD_TORCH_CHECK(one.dim() == 4 && one.scalar_type() == values.scalar_type(), "a source's tensors must be alike");
      if (source.family == Family::Mixture && i == 1 && source.channels > 0) {
        source.components = one.size(1) / source.channels;
      }
      STD_TORCH_CHECK(source.components >= 1 && source.components <= kMostComponents, "a mixture must have 1 to ",
                      kMostComponents, " parts, got ", source.components);
      STD_TORCH_CHECK(one.size(0) == source.batch && one.size(2) == source.h && one.size(3) == source.w &&
                          one.size(1) == source.channels * (i == 0 ? 1 : source.components),
                      "a source's tensors must have one shape");
      source.inputs[i] = strided(one);
    }
    next += source.count();
    sources.push_back(source);
  }
  STD_TORCH_CHECK(next == tensors.size(), "tensors must be ", next, " for these sources, got ", tensors.size());
  return sources;
}

// The bits of each source's cells, or their gradients: float64 [N, h, w].
inline double* checked_cells(const Tensor& cells, const SourceTerm& source) {
  STD_TORCH_CHECK(cells.scalar_type() == ScalarType::Double && cells.dim() == 3 && cells.is_contiguous() &&
                      cells.size(0) == source.batch && cells.size(1) == source.h && cells.size(2) == source.w,
                  "cells must be contiguous float64 [N, h, w] of each source");
  return static_cast<double*>(cells.data_ptr());
}

// A tensor for the gradient of each input, empty where it is not wanted.
inline void aim_gradients(std::vector<SourceTerm>& sources, const std::vector<Tensor>& tensors,
                          const std::vector<Tensor>& gradients) {
  STD_TORCH_CHECK(gradients.size() == tensors.size(), "gradients must be as many as tensors");
  size_t next = 0;
  for (SourceTerm& source : sources) {
    for (int i = 0; i < source.count(); ++i, ++next) {
      const Tensor &one = tensors[next], &gradient = gradients[next];
      if (gradient.numel() == 0) continue;
      if (source.family == Family::Factorized && i == 1) {
        STD_TORCH_CHECK(gradient.dim() == 2 && gradient.is_contiguous() && gradient.scalar_type() == ScalarType::Float &&
                            gradient.size(0) == source.channels && gradient.size(1) == kParameters,
                        "a gradient of parameters must be contiguous float32 [C, ", kParameters, "]");
        source.gradients[1] = {gradient.data_ptr(), 0, gradient.stride(0), 0, 0};
        continue;
      }
      STD_TORCH_CHECK(gradient.dim() == 4 && gradient.scalar_type() == one.scalar_type() &&
                          gradient.size(0) == one.size(0) && gradient.size(1) == one.size(1) &&
                          gradient.size(2) == one.size(2) && gradient.size(3) == one.size(3),
                      "gradients must have the tensors' dtype and shapes");
      source.gradients[i] = strided(gradient);
    }
  }
}

}  // namespace bitrate
