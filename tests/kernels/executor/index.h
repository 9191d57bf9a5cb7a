// Runs a kernel body for its addresses alone: likelihoods, maps and shared memory do not exist, so shapes may be of any
// size; the starts of bands are read, since addresses follow from them. Barriers mean nothing here.
#pragma once

#include <cstdint>
#include <vector>

#include "core/context.h"

namespace bitrate {

// An access to a tensor that does not exist.
struct Touched {
  uint64_t address;
  int64_t bytes;
  bool store;
};

class IndexContext {
 public:
  IndexContext(int32_t block, int32_t thread, int32_t threads, const std::vector<const void*>& real,
               std::vector<Touched>& touched)
      : block_(block), thread_(thread), threads_(threads), real_(real), touched_(touched) {}

  int32_t block() const { return block_; }
  int32_t thread() const { return thread_; }
  int32_t threads() const { return threads_; }
  void barrier() {}

  template <int kWidth, typename T>
  Pack<T, kWidth> load(const T* base, int64_t index) {
    Pack<T, kWidth> pack = {};
    for (const void* real : real_) {
      if (real == base) {
        for (int v = 0; v < kWidth; ++v) pack.value[v] = base[index + v];
        return pack;
      }
    }
    touched_.push_back({reinterpret_cast<uint64_t>(base + index), int64_t(sizeof(pack)), false});
    return pack;
  }

  template <typename T, int kWidth>
  void store(T* base, int64_t index, const Pack<T, kWidth>& pack) {
    touched_.push_back({reinterpret_cast<uint64_t>(base + index), int64_t(sizeof(pack)), true});
  }

  template <int kWidth, typename T>
  Pack<T, kWidth> get(Shared<T>, int32_t) {
    return {};
  }

  template <typename T, int kWidth>
  void put(Shared<T>, int32_t, const Pack<T, kWidth>&) {}

 private:
  int32_t block_, thread_, threads_;
  const std::vector<const void*>& real_;
  std::vector<Touched>& touched_;
};

}  // namespace bitrate
