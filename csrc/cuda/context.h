// A thread of a CUDA block, as core/context.h describes it.
#pragma once

#include "../core/context.h"

namespace bitrate {

// All shared memory is dynamic: its layout comes with the launch.
extern __shared__ __align__(16) unsigned char block_memory[];

class CudaContext {
 public:
  __device__ __forceinline__ int32_t block() const { return int32_t(blockIdx.x); }
  __device__ __forceinline__ int32_t thread() const { return int32_t(threadIdx.x); }
  __device__ __forceinline__ int32_t threads() const { return int32_t(blockDim.x); }
  __device__ __forceinline__ void barrier() const { __syncthreads(); }

  template <int kWidth, typename T>
  __device__ __forceinline__ Pack<T, kWidth> load(const T* base, int64_t index) const {
    return *reinterpret_cast<const Pack<T, kWidth>*>(base + index);
  }

  template <typename T, int kWidth>
  __device__ __forceinline__ void store(T* base, int64_t index, const Pack<T, kWidth>& pack) const {
    *reinterpret_cast<Pack<T, kWidth>*>(base + index) = pack;
  }

  template <int kWidth, typename T>
  __device__ __forceinline__ Pack<T, kWidth> get(Shared<T> array, int32_t index) const {
    return *reinterpret_cast<const Pack<T, kWidth>*>(block_memory + array.first + index * int32_t(sizeof(T)));
  }

  template <typename T, int kWidth>
  __device__ __forceinline__ void put(Shared<T> array, int32_t index, const Pack<T, kWidth>& pack) const {
    *reinterpret_cast<Pack<T, kWidth>*>(block_memory + array.first + index * int32_t(sizeof(T))) = pack;
  }
};

}  // namespace bitrate
