// The CUDA entry points. Bands come as six tensors a latent: of its rows and of its columns the start and the weight on the
// GPU, and the start once more on the CPU, where launches are planned; so nothing waits for the device.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "../cuda/launch.h"
#include "checks.h"

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

void check_device(const Tensor& tensor, int32_t device) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device, "all tensors must be on GPU ", device);
}

struct BandPair {
  Band band;
  const int32_t* host_start;
};

BandPair checked_bands(const std::vector<Tensor>& bands, size_t first, int64_t rows, int64_t columns, int32_t device) {
  const Band host = checked_band(bands[first + 2], bands[first + 1], rows, columns);
  check_start(bands[first], rows);
  check_device(bands[first], device);
  check_device(bands[first + 1], device);
  Band band = host;
  band.start = static_cast<const int32_t*>(bands[first].data_ptr());
  return {band, host.start};
}

void project_cuda(std::vector<Tensor> values, std::vector<Tensor> bands, std::optional<Tensor> guide, Tensor out) {
  const Image<void> map = checked_map<void>("out", out);
  const int32_t device = out.get_device_index();
  STD_TORCH_CHECK(bands.size() == 6 * values.size(), "bands must be six tensors a latent, got ", bands.size(), " for ",
                  values.size());
  if (guide.has_value()) check_device(*guide, device);
  std::vector<PlannedTerm> terms;
  for (size_t k = 0; k < values.size(); ++k) {
    check_device(values[k], device);
    const Latent latent = checked_latent(values[k], map.batch);
    const BandPair rows = checked_bands(bands, 6 * k, map.height, latent.h, device);
    const BandPair columns = checked_bands(bands, 6 * k + 3, map.width, latent.w, device);
    terms.push_back({latent, rows.band, columns.band, rows.host_start, columns.host_start});
  }
  if (map.batch == 0 || map.height == 0 || map.width == 0) return;
  const DeviceGuard guard(device);
  start(plan_project(terms, checked_guide(guide, map), map, device_limits(), overrides), current_stream(device));
}

void project_backward_cuda(Tensor grad, Tensor values, std::vector<Tensor> bands, Tensor gradient) {
  const Image<const void> image = checked_map<const void>("grad", grad);
  const int32_t device = grad.get_device_index();
  STD_TORCH_CHECK(bands.size() == 6, "bands must be six tensors, got ", bands.size());
  check_device(values, device);
  check_device(gradient, device);
  const Latent latent = checked_latent(values, image.batch);
  const BandPair rows = checked_bands(bands, 0, latent.h, image.height, device);
  const BandPair columns = checked_bands(bands, 3, latent.w, image.width, device);
  const GradientTerm term = checked_gradient(latent, gradient, rows.band, columns.band);
  if (latent.batch == 0 || latent.channels == 0 || latent.h == 0 || latent.w == 0) return;
  const DeviceGuard guard(device);
  start(plan_backward({term, rows.host_start, columns.host_start}, image, device_limits(), overrides),
        current_stream(device));
}

// Why the GPU cannot run the kernels; empty where it can.
std::string cuda_unavailable(int64_t device) {
  const DeviceGuard guard(static_cast<int32_t>(device));
  return unavailable_reason();
}

// Overrides the plan: threads a block, rows and columns of a tile, elements a load; zeros leave it the choice.
void choose_launch(int64_t threads, int64_t tile_rows, int64_t tile_columns, int64_t width) {
  STD_TORCH_CHECK(threads >= 0 && threads <= kThreads && threads % 32 == 0, "threads must be a multiple of 32, at most ",
                  kThreads, ", got ", threads);
  overrides = {int(threads), int32_t(tile_rows), int32_t(tile_columns), int32_t(width)};
}

}  // namespace
}  // namespace bitrate

STABLE_TORCH_LIBRARY_FRAGMENT(bitrate_ext, m) {
  m.def("_cuda_unavailable(int device) -> str");
  m.def("_choose_launch(int threads, int tile_rows, int tile_columns, int width) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CUDA, m) {
  m.impl("_project", TORCH_BOX(&bitrate::project_cuda));
  m.impl("_project_backward", TORCH_BOX(&bitrate::project_backward_cuda));
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CompositeExplicitAutograd, m) {
  m.impl("_cuda_unavailable", TORCH_BOX(&bitrate::cuda_unavailable));
  m.impl("_choose_launch", TORCH_BOX(&bitrate::choose_launch));
}
