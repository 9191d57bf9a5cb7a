// The CUDA entry points. Bands come as six tensors a latent: of its rows and of its columns the start and the weight on the
// GPU, and the start once more on the CPU, where launches are planned; so nothing waits for the device. With them goes the
// memory in which plans are kept.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <vector>

#include "../cuda/launch.h"
#include "checks.h"
#include "kept_plans.h"

namespace bitrate {
namespace {

using torch::stable::accelerator::DeviceGuard;

// For tests and trials, set by `_choose_launch`: not to be changed while another thread launches.
LaunchOverrides overrides;

void* current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

// The GPU that a call is for.
int32_t checked_gpu(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_cuda(), name, " must be on a GPU, as other tensors of the call are, and is not");
  return tensor.get_device_index();
}

void check_device(const char* name, const Tensor& tensor, int32_t device) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device, name, " must be on GPU ", device,
                  ", as other tensors of the call are, and is not");
}

// Memory for plans that goes with the bands; null where none was given.
template <typename Plan>
KeptPlans<Plan>* checked_memory(const std::optional<Tensor>& plans) {
  if (!plans.has_value()) return nullptr;
  STD_TORCH_CHECK(
      plans->is_cpu() && plans->scalar_type() == ScalarType::Byte && plans->is_contiguous() && plans->numel() >= kKeptBytes,
      "plans must be contiguous uint8 [", kKeptBytes, "] on the CPU");
  return static_cast<KeptPlans<Plan>*>(plans->data_ptr());
}

struct BandPair {
  Band band;
  const int32_t* host_start;
};

BandPair checked_bands(const std::vector<Tensor>& bands, size_t first, int64_t rows, int64_t columns, int32_t device) {
  const Band host = checked_band(bands[first + 2], bands[first + 1], rows, columns);
  check_start(bands[first], rows);
  check_device("a band's start", bands[first], device);
  check_device("a band's weight", bands[first + 1], device);
  Band band = host;
  band.start = static_cast<const int32_t*>(bands[first].data_ptr());
  return {band, host.start};
}

void project_cuda(std::vector<Tensor> values, std::vector<Tensor> bands, Tensor out, std::optional<Tensor> plans,
                  std::optional<Tensor> guide) {
  const int32_t device = checked_gpu("out", out);
  const Image<void> map = checked_map<void>("out", out);
  STD_TORCH_CHECK(bands.size() == 6 * values.size(), "bands must be six tensors a latent, got ", bands.size(), " for ",
                  values.size());
  if (guide.has_value()) check_device("guide", *guide, device);
  PlanKey key(overrides);
  key.add(map);
  std::vector<Latent> latents;
  for (const Tensor& one : values) {
    check_device("likelihoods", one, device);
    latents.push_back(checked_latent(one, map.batch));
    key.add(latents.back());
  }
  for (const Tensor& band : bands) key.add_band(band.data_ptr());
  if (map.batch == 0 || map.height == 0 || map.width == 0) return;
  MapPlan plan = kept_plan(checked_memory<MapPlan>(plans), key, [&] {
    std::vector<PlannedTerm> terms;
    for (size_t k = 0; k < latents.size(); ++k) {
      const BandPair rows = checked_bands(bands, 6 * k, map.height, latents[k].h, device);
      const BandPair columns = checked_bands(bands, 6 * k + 3, map.width, latents[k].w, device);
      terms.push_back({latents[k], rows.band, columns.band, rows.host_start, columns.host_start});
    }
    return plan_map(terms, map, device_limits(device), overrides);
  });
  const DeviceGuard guard(device);
  start(plan.over(latents, checked_guide(guide, map), map), current_stream(device));
}

void project_backward_cuda(Tensor grad, Tensor values, std::vector<Tensor> bands, Tensor gradient,
                           std::optional<Tensor> plans) {
  const int32_t device = checked_gpu("grad", grad);
  const Image<const void> image = checked_map<const void>("grad", grad);
  STD_TORCH_CHECK(bands.size() == 6, "bands must be six tensors, got ", bands.size());
  check_device("likelihoods", values, device);
  check_device("gradient", gradient, device);
  const Latent latent = checked_latent(values, image.batch);
  GradientTerm term = checked_gradient(latent, gradient, {}, {});
  PlanKey key(overrides);
  key.add(image);
  key.add(latent);
  key.add_layout(term.gradient, {term.batch_stride, term.channel_stride, term.row_stride, term.cell_stride});
  for (const Tensor& band : bands) key.add_band(band.data_ptr());
  if (latent.batch == 0 || latent.channels == 0 || latent.h == 0 || latent.w == 0) return;
  GradientPlan plan = kept_plan(checked_memory<GradientPlan>(plans), key, [&] {
    const BandPair rows = checked_bands(bands, 0, latent.h, image.height, device);
    const BandPair columns = checked_bands(bands, 3, latent.w, image.width, device);
    term.rows = rows.band;
    term.columns = columns.band;
    return GradientPlan{plan_backward({term, rows.host_start, columns.host_start}, image, device_limits(device), overrides)};
  });
  const DeviceGuard guard(device);
  start(plan.over(latent, image, term.gradient), current_stream(device));
}

void rate_cuda(const std::vector<SourceTerm>& sources, const std::vector<Tensor>& tensors, const std::vector<Tensor>& cells,
               bool backward) {
  STD_TORCH_CHECK(cells.size() == sources.size(), "cells must be a tensor for each source");
  if (sources.empty()) return;
  const int32_t device = checked_gpu("values", tensors[0]);
  for (const Tensor& one : tensors) check_device("a source's tensor", one, device);
  std::vector<double*> found;
  for (size_t k = 0; k < sources.size(); ++k) {
    check_device("cells", cells[k], device);
    found.push_back(checked_cells(cells[k], sources[k]));
  }
  const DeviceGuard guard(device);
  for (const Launch<RateParams>& launch : plan_rate(sources, found, backward)) {
    start_rate(launch, backward, current_stream(device));
  }
  for (size_t k = 0; backward && k < sources.size(); ++k) {
    const SourceTerm& source = sources[k];
    if (source.family != Family::Factorized || source.batch * source.channels * source.h * source.w == 0) continue;
    Launch<NetworkParams> launch = plan_network(source, found[k]);
    std::optional<Tensor> sums;  // freed in the stream's order
    if (source.gradients[1].data != nullptr) {
      sums = torch::stable::new_empty(cells[k], {sum_count(launch)});
      launch.params.sums = static_cast<double*>(sums->data_ptr());
    }
    start_network(launch, current_stream(device));
  }
}

void cell_bits_cuda(std::vector<Tensor> tensors, std::vector<int64_t> families, std::vector<double> bounds,
                    std::vector<double> floors, std::vector<Tensor> out) {
  rate_cuda(checked_sources(tensors, families, bounds, floors), tensors, out, false);
}

void cell_bits_backward_cuda(std::vector<Tensor> grads, std::vector<Tensor> tensors, std::vector<int64_t> families,
                             std::vector<double> bounds, std::vector<double> floors, std::vector<Tensor> gradients) {
  std::vector<SourceTerm> sources = checked_sources(tensors, families, bounds, floors);
  aim_gradients(sources, tensors, gradients);
  std::vector<Tensor> all = tensors;
  all.insert(all.end(), gradients.begin(), gradients.end());
  rate_cuda(sources, all, grads, true);
}

// Why the GPU has no code; empty where it has.
std::string no_cuda_code(int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  return no_code_reason();
}

// Bytes that the plans of some bands take.
int64_t plan_bytes() { return kKeptBytes; }

// Overrides the plan: threads a block, rows and columns of a tile, elements a load; zeros leave it the choice.
void choose_launch(int64_t threads, int64_t tile_rows, int64_t tile_columns, int64_t width) {
  STD_TORCH_CHECK(threads >= 0 && threads <= kThreads && threads % 32 == 0, "threads must be a multiple of 32, at most ",
                  kThreads, ", got ", threads);
  overrides = {int(threads), int32_t(tile_rows), int32_t(tile_columns), int32_t(width)};
}

}  // namespace
}  // namespace bitrate

STABLE_TORCH_LIBRARY_FRAGMENT(bitrate_ext, m) {
  m.def("_no_cuda_code(int device) -> str");
  m.def("_plan_bytes() -> int");
  m.def("_choose_launch(int threads, int tile_rows, int tile_columns, int width) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CUDA, m) {
  m.impl("_project", TORCH_BOX(&bitrate::project_cuda));
  m.impl("_project_backward", TORCH_BOX(&bitrate::project_backward_cuda));
  m.impl("_cell_bits", TORCH_BOX(&bitrate::cell_bits_cuda));
  m.impl("_cell_bits_backward", TORCH_BOX(&bitrate::cell_bits_backward_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CompositeExplicitAutograd, m) {
  m.impl("_no_cuda_code", TORCH_BOX(&bitrate::no_cuda_code));
  m.impl("_plan_bytes", TORCH_BOX(&bitrate::plan_bytes));
  m.impl("_choose_launch", TORCH_BOX(&bitrate::choose_launch));
}
