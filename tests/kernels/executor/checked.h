// Runs a kernel body on the CPU and watches it. Each thread of a block is a fiber; between two barriers they run one after
// the other, in an order that a seed chooses. Every access is checked: bounds, alignment, memory that nobody wrote or that
// is not the caller's to read, races (two threads, one address, no barrier between, at least one writes) in shared memory,
// outputs written exactly once, and barriers that some threads never reach.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/context.h"

namespace bitrate {

// A rule of the kernel language that a body broke.
struct BrokenRule : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the kernels may touch of global memory.
class GlobalMemory {
 public:
  // Elements [sizes] at `strides` from `base`, inside the allocation [begin, begin + bytes).
  void add(const char* name, const void* begin, int64_t bytes, const void* base, const std::vector<int64_t>& sizes,
           const std::vector<int64_t>& strides, int64_t element, bool output) {
    Area area{name, static_cast<const char*>(begin), bytes, element, output, std::vector<uint8_t>(bytes, kForeign)};
    const int64_t offset = static_cast<const char*>(base) - area.begin;
    mark(area, offset, sizes.data(), strides.data(), sizes.size());
    areas_.push_back(std::move(area));
  }

  void load(const void* address, int64_t size) { find(address, size, false); }

  void store(const void* address, int64_t size) {
    Area& area = find(address, size, true);
    uint8_t* state = area.state.data() + (static_cast<const char*>(address) - area.begin);
    for (int64_t i = 0; i < size; ++i) {
      if (state[i] == kWritten) fail(area, address, size, "is written twice");
      state[i] = kWritten;
    }
  }

  // After a launch: each element of an output has been written.
  void finish() const {
    for (const Area& area : areas_) {
      if (!area.output) continue;
      const auto left = std::find(area.state.begin(), area.state.end(), kOurs);
      if (left != area.state.end()) {
        throw BrokenRule(std::string(area.name) + ": byte " + std::to_string(left - area.state.begin()) +
                         " is never written");
      }
    }
  }

 private:
  enum State : uint8_t { kForeign, kOurs, kWritten };

  struct Area {
    const char* name;
    const char* begin;
    int64_t bytes, element;
    bool output;
    std::vector<uint8_t> state;  // of each byte
  };

  static void mark(Area& area, int64_t offset, const int64_t* sizes, const int64_t* strides, size_t dimensions) {
    if (dimensions == 0) {
      if (offset < 0 || offset + area.element > area.bytes) throw std::invalid_argument("an element outside its allocation");
      std::memset(area.state.data() + offset, kOurs, area.element);
      return;
    }
    for (int64_t i = 0; i < sizes[0]; ++i) {
      mark(area, offset + i * strides[0] * area.element, sizes + 1, strides + 1, dimensions - 1);
    }
  }

  Area& find(const void* address, int64_t size, bool store) {
    const char* first = static_cast<const char*>(address);
    if (reinterpret_cast<uintptr_t>(address) % size != 0) {
      throw BrokenRule("an access of " + std::to_string(size) + " bytes is not aligned to them");
    }
    for (size_t tried = 0; tried < areas_.size(); ++tried, last_ = (last_ + 1) % areas_.size()) {
      Area& area = areas_[last_];
      if (first < area.begin || first >= area.begin + area.bytes) continue;
      if (first + size > area.begin + area.bytes) fail(area, address, size, "reaches past the end");
      if (area.output != store) fail(area, address, size, store ? "is an input" : "is an output");
      for (int64_t i = 0; i < size; ++i) {
        if (area.state[first - area.begin + i] == kForeign) fail(area, address, size, "is not part of the tensor");
      }
      return area;
    }
    throw BrokenRule("an access of " + std::to_string(size) + " bytes outside all tensors");
  }

  [[noreturn]] static void fail(const Area& area, const void* address, int64_t size, const char* what) {
    throw BrokenRule(std::string(area.name) + ": " + std::to_string(size) + " bytes at " +
                     std::to_string(static_cast<const char*>(address) - area.begin) + " of " + std::to_string(area.bytes) +
                     ": " + what);
  }

  std::vector<Area> areas_;
  size_t last_ = 0;
};

// The shared memory of the running block, with what is known of each word.
class SharedMemoryWatch {
 public:
  explicit SharedMemoryWatch(int64_t bytes) : bytes_(bytes), data_(new Line[bytes / 16 + 1]), words_(bytes / 4 + 1) {}

  void start_block() {
    first_epoch_ = ++epoch_;
    std::memset(data_.get(), 0xff, bytes_);  // NaN
  }
  void pass_barrier() { ++epoch_; }

  void* access(int32_t thread, int64_t first, int64_t size, bool write) {
    if (first < 0 || first + size > bytes_)
      throw BrokenRule(at(first, size) + "outside the block's " + std::to_string(bytes_));
    if (first % size != 0) throw BrokenRule(at(first, size) + "not aligned");
    for (int64_t i = first / 4; i < (first + size) / 4; ++i) {
      Word& word = words_[i];
      const bool fresh = word.written == epoch_, seen = word.seen == epoch_;
      if (fresh && word.writer != thread) throw BrokenRule(at(first, size) + "a race with the thread that wrote it");
      if (write) {
        if (seen && word.reader != thread) throw BrokenRule(at(first, size) + "a race with a thread that reads it");
        word.writer = thread;
        word.written = epoch_;
      } else {
        if (word.written < first_epoch_) throw BrokenRule(at(first, size) + "read before anything is written");
        word.reader = seen && word.reader != thread ? kSeveral : thread;
        word.seen = epoch_;
      }
    }
    return reinterpret_cast<char*>(data_.get()) + first;
  }

 private:
  static constexpr int32_t kSeveral = -1;
  struct alignas(16) Line {
    char bytes[16];
  };
  struct Word {
    int32_t writer = 0, reader = 0;
    int64_t written = 0, seen = 0;  // epochs
  };

  static std::string at(int64_t first, int64_t size) {
    return "shared memory: " + std::to_string(size) + " bytes at " + std::to_string(first) + ": ";
  }

  int64_t bytes_, epoch_ = 1, first_epoch_ = 1;
  std::unique_ptr<Line[]> data_;
  std::vector<Word> words_;
};

// The limits of a launch that every supported GPU has.
inline void check_limits(int64_t blocks, int threads, int64_t shared_bytes) {
  if (blocks < 1 || blocks > 0x7fffffff) throw BrokenRule("a grid of " + std::to_string(blocks) + " blocks");
  if (threads < 1 || threads > 1024) throw BrokenRule("a block of " + std::to_string(threads) + " threads");
  if (shared_bytes > 48 << 10) throw BrokenRule(std::to_string(shared_bytes) + " bytes of shared memory");
}

// In which order threads run between two barriers, and blocks after each other.
enum class Order : int { Ascending, Descending, Random };

template <typename Params>
class CheckedRun {
 public:
  class Context {
   public:
    Context(CheckedRun& run, int32_t thread) : run_(run), thread_(thread) {}
    int32_t block() const { return run_.block_; }
    int32_t thread() const { return thread_; }
    int32_t threads() const { return int32_t(run_.fibers_.size()); }
    void barrier(int line = __builtin_LINE()) { run_.wait(thread_, line); }

    const void* load_bytes(const void* address, int64_t size) {
      run_.global_.load(address, size);
      return address;
    }

    void* store_bytes(void* address, int64_t size) {
      run_.global_.store(address, size);
      return address;
    }

    void* shared_bytes(int64_t first, int64_t size, bool write) { return run_.shared_.access(thread_, first, size, write); }

    template <int kWidth, typename T>
    Pack<T, kWidth> load(const T* base, int64_t index) {
      Pack<T, kWidth> pack;
      std::memcpy(&pack, load_bytes(base + index, sizeof(pack)), sizeof(pack));
      return pack;
    }

    template <typename T, int kWidth>
    void store(T* base, int64_t index, const Pack<T, kWidth>& pack) {
      std::memcpy(store_bytes(base + index, sizeof(pack)), &pack, sizeof(pack));
    }

    template <int kWidth, typename T>
    Pack<T, kWidth> get(Shared<T> array, int32_t index) {
      Pack<T, kWidth> pack;
      std::memcpy(&pack, shared_bytes(array.first + index * int64_t(sizeof(T)), sizeof(pack), false), sizeof(pack));
      return pack;
    }

    template <typename T, int kWidth>
    void put(Shared<T> array, int32_t index, const Pack<T, kWidth>& pack) {
      std::memcpy(shared_bytes(array.first + index * int64_t(sizeof(T)), sizeof(pack), true), &pack, sizeof(pack));
    }

   private:
    CheckedRun& run_;
    int32_t thread_;
  };

  using Body = void (*)(Context&, const Params&);

  CheckedRun(const Params& params, int threads, int64_t shared_bytes, GlobalMemory& global, Body body, Order order,
             uint32_t seed)
      : params_(params), global_(global), shared_(shared_bytes), body_(body), order_(order), random_(seed) {
    for (int i = 0; i < threads; ++i) fibers_.push_back(std::make_unique<Fiber>());
  }

  void run(int64_t blocks) {
    for (const int64_t block : in_order(blocks)) run_block(int32_t(block));
    global_.finish();
  }

 private:
  static constexpr size_t kStackBytes = 64 << 10;
  enum class Status { Ready, Waiting, Finished };

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    Status status = Status::Ready;
    int line = 0;  // of the barrier that it waits at
  };

  std::vector<int64_t> in_order(int64_t count) {
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (order_ == Order::Descending) std::reverse(order.begin(), order.end());
    if (order_ == Order::Random) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  // makecontext hands integers over: the address of the run in two halves, and the thread.
  static void enter(unsigned high, unsigned low, int thread) {
    auto* run = reinterpret_cast<CheckedRun*>(uint64_t(high) << 32 | low);
    try {
      Context context(*run, thread);
      run->body_(context, run->params_);
    } catch (const std::exception& error) {
      run->broken_ = error.what();
    }
    run->fibers_[thread]->status = Status::Finished;
    swapcontext(&run->fibers_[thread]->context, &run->scheduler_);
  }

  void wait(int32_t thread, int line) {
    fibers_[thread]->status = Status::Waiting;
    fibers_[thread]->line = line;
    swapcontext(&fibers_[thread]->context, &scheduler_);
  }

  void run_block(int32_t block) {
    block_ = block;
    shared_.start_block();
    const int threads = int(fibers_.size());
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = *fibers_[i];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      fiber.status = Status::Ready;
      const uint64_t self = reinterpret_cast<uint64_t>(this);
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&CheckedRun::enter), 3, unsigned(self >> 32), unsigned(self),
                  i);
    }
    while (true) {
      for (const int64_t i : in_order(threads)) {
        swapcontext(&scheduler_, &fibers_[i]->context);
        if (!broken_.empty())
          throw BrokenRule("block " + std::to_string(block) + ", thread " + std::to_string(i) + ": " + broken_);
      }
      const auto finished =
          std::count_if(fibers_.begin(), fibers_.end(), [](const auto& fiber) { return fiber->status == Status::Finished; });
      if (finished == threads) return;
      const int line =
          std::max_element(fibers_.begin(), fibers_.end(), [](const auto& a, const auto& b) { return a->line < b->line; })
              ->get()
              ->line;
      for (const auto& fiber : fibers_) {
        if (finished != 0 || fiber->line != line) {
          throw BrokenRule("block " + std::to_string(block) + ": some threads do not reach the barrier of line " +
                           std::to_string(line));
        }
      }
      shared_.pass_barrier();
    }
  }

  const Params& params_;
  GlobalMemory& global_;
  SharedMemoryWatch shared_;
  Body body_;
  Order order_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  ucontext_t scheduler_;
  int32_t block_ = 0;
  std::string broken_;
};

}  // namespace bitrate
