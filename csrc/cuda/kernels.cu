// The kernels: the bodies of csrc/core over a CUDA thread, and their launches.
#include "../core/project.h"
#include "../core/project_backward.h"
#include "../core/rate.h"
#include "context.h"
#include "host.h"
#include "launch.h"

namespace bitrate {
namespace {

// The second number is of blocks that must fit on a multiprocessor: it bounds registers, so that enough loads are in flight.
__global__ void __launch_bounds__(kThreads, 2) project_kernel(const __grid_constant__ ProjectParams params) {
  CudaContext context;
  project_tile(context, params);
}

__global__ void __launch_bounds__(kThreads, 3) project_backward_kernel(const __grid_constant__ BackwardParams params) {
  CudaContext context;
  project_tile_backward(context, params);
}

__global__ void __launch_bounds__(kThreads, 2) rate_kernel(const __grid_constant__ RateParams params) {
  CudaContext context;
  sum_run(context, params);
}

__global__ void __launch_bounds__(kThreads, 2) rate_backward_kernel(const __grid_constant__ RateParams params) {
  CudaContext context;
  write_run_slopes(context, params);
}

__global__ void __launch_bounds__(kThreads, 1) network_backward_kernel(const __grid_constant__ NetworkParams params) {
  CudaContext context;
  write_network_slopes(context, params);
}

__global__ void __launch_bounds__(kThreads, 4) add_runs_kernel(const __grid_constant__ NetworkParams params) {
  CudaContext context;
  add_runs(context, params);
}

template <typename Kernel>
const void* address(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

DeviceLimits device_limits(int device) { return host::device_limits(device); }

std::string no_code_reason() { return host::no_code_reason(address(project_kernel)); }

void start(const Launch<ProjectParams>& launch, void* stream) { host::start(address(project_kernel), launch, stream); }
void start(const Launch<BackwardParams>& launch, void* stream) {
  host::start(address(project_backward_kernel), launch, stream);
}

void start_rate(const Launch<RateParams>& launch, bool backward, void* stream) {
  host::start(backward ? address(rate_backward_kernel) : address(rate_kernel), launch, stream);
}

void start_network(const Launch<NetworkParams>& launch, void* stream) {
  host::start(address(network_backward_kernel), launch, stream);
  if (launch.params.sums == nullptr) return;
  Launch<NetworkParams> adding = launch;
  adding.blocks = adding_blocks(launch);
  adding.shared_bytes = 0;
  host::start(address(add_runs_kernel), adding, stream);
}

}  // namespace bitrate
