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

// Memory that does exist.
struct Real {
  const void* begin;
  int64_t bytes;
};

class IndexContext {
 public:
  IndexContext(int32_t block, int32_t thread, int32_t threads, const std::vector<Real>& real, std::vector<Touched>& touched)
      : block_(block), thread_(thread), threads_(threads), real_(real), touched_(touched) {}

  int32_t block() const { return block_; }
  int32_t thread() const { return thread_; }
  int32_t threads() const { return threads_; }
  void barrier(int = 0) {}

  const void* load_bytes(const void* address, int64_t size) {
    for (const Real& real : real_) {
      if (uint64_t(address) - uint64_t(real.begin) < uint64_t(real.bytes)) return address;
    }
    touched_.push_back({uint64_t(address), size, false});
    return &nothing_;
  }

  void* store_bytes(void* address, int64_t size) {
    touched_.push_back({uint64_t(address), size, true});
    return &ignored_;
  }

  void* shared_bytes(int64_t, int64_t, bool write) { return write ? &ignored_ : &nothing_; }

  template <int kWidth, typename T>
  Pack<T, kWidth> load(const T* base, int64_t index) {
    Pack<T, kWidth> pack;
    std::memcpy(&pack, load_bytes(base + index, sizeof(pack)), sizeof(pack));
    return pack;
  }

  template <typename T, int kWidth>
  void store(T* base, int64_t index, const Pack<T, kWidth>& pack) {
    store_bytes(base + index, sizeof(pack));
  }

  template <int kWidth, typename T>
  Pack<T, kWidth> get(Shared<T>, int32_t) {
    return {};
  }

  template <typename T, int kWidth>
  void put(Shared<T>, int32_t, const Pack<T, kWidth>&) {}

 private:
  int32_t block_, thread_, threads_;
  const std::vector<Real>& real_;
  std::vector<Touched>& touched_;
  Pack<double, 2> nothing_ = {}, ignored_;
};

}  // namespace bitrate
