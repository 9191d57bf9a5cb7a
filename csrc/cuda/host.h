// What is asked of the CUDA runtime, and what is made of its answers.
//
// Each call's own answer counts, and the runtime's record of a last error is never read: it may be an earlier call's.
// The record is cleared where an error is told, so that nobody finds it again. No CUDA header is included here: the
// runtime's names are those of who includes this file, which is kernels.cu, and a test with a runtime that fails as told.
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>

#include "../core/rate_plan.h"

namespace bitrate::host {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string said = cudaGetErrorString(error);
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + said);
}

// Of a device by its number, whichever is current; asked once for each.
inline DeviceLimits device_limits(int device) {
  constexpr int kKept = 128;
  static std::atomic<int> kept[kKept];
  const bool keeps = device >= 0 && device < kKept;
  int count = keeps ? kept[device].load(std::memory_order_relaxed) : 0;
  if (count == 0) {
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "no properties of the GPU");
    if (keeps) kept[device].store(count, std::memory_order_relaxed);
  }
  return {count};
}

// Why the current device has no code for a kernel: neither its own nor PTX that its driver compiles. Other errors are
// thrown: they say nothing of the build, and may be gone with the next call.
inline std::string no_code_reason(const void* kernel) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorJitCompilationDisabled: cudaGetLastError(); return cudaGetErrorString(error);
    default: check(error, "the kernels cannot be loaded"); return "";
  }
}

template <typename Params>
void start(const void* kernel, const Launch<Params>& launch, void* stream) {
  void* arguments[] = {const_cast<Params*>(&launch.params)};
  check(cudaLaunchKernel(kernel, dim3(unsigned(launch.blocks)), dim3(unsigned(launch.threads)), arguments,
                         size_t(launch.shared_bytes), static_cast<cudaStream_t>(stream)),
        "the launch failed");
}

}  // namespace bitrate::host
