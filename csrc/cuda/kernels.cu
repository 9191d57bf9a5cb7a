// The kernels: the bodies of csrc/core over a CUDA thread, and their launches.
#include "../core/project.h"
#include "../core/project_backward.h"
#include "context.h"
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

void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

template <typename Params>
void start(void (*kernel)(Params), const Launch<Params>& launch, void* stream) {
  kernel<<<unsigned(launch.blocks), launch.threads, size_t(launch.shared_bytes), static_cast<cudaStream_t>(stream)>>>(
      launch.params);
  check_cuda(cudaGetLastError(), "the launch failed");
}

}  // namespace

DeviceLimits device_limits() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "no current device");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "no properties of the device");
  return {count};
}

std::string unavailable_reason() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, project_kernel);
  if (error == cudaSuccess) return "";
  cudaGetLastError();  // not for the next caller to find
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return "the kernels were not built for compute capability " + std::to_string(major) + "." + std::to_string(minor) + " (" +
         cudaGetErrorString(error) + ")";
}

void start(const Launch<ProjectParams>& launch, void* stream) { start(project_kernel, launch, stream); }
void start(const Launch<BackwardParams>& launch, void* stream) { start(project_backward_kernel, launch, stream); }

}  // namespace bitrate
