// The GPU kernels are written once, over a context that stands for one thread of a block. It is the only way to memory and
// to the other threads, so the same body runs as CUDA (cuda/context.h), on the CPU under watch (executor/checked.h), on real
// threads, or with addresses alone. A context `ctx` has
//   ctx.block(), ctx.thread(), ctx.threads()   index of the block, of the thread in it, and threads a block
//   ctx.barrier()                              all threads of the block
//   ctx.load<kWidth>(base, index)              kWidth adjacent elements of global memory, aligned to their size
//   ctx.store(base, index, pack)
//   ctx.get<kWidth>(array, index)              the same of the block's shared memory
//   ctx.put(array, index, pack)
#pragma once

#include "scalar.h"

namespace bitrate {

// Adjacent elements, loaded or stored at once.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

// An array in the block's shared memory.
template <typename T>
struct Shared {
  int32_t first;  // byte
};

template <typename Ctx, typename T>
BITRATE_HD T read(Ctx& ctx, const T* base, int64_t index) {
  return ctx.template load<1>(base, index).value[0];
}

template <typename Ctx, typename T>
BITRATE_HD T get(Ctx& ctx, Shared<T> array, int32_t index) {
  return ctx.template get<1>(array, index).value[0];
}

template <typename Ctx, typename T>
BITRATE_HD void put(Ctx& ctx, Shared<T> array, int32_t index, T value) {
  ctx.put(array, index, Pack<T, 1>{{value}});
}

}  // namespace bitrate
