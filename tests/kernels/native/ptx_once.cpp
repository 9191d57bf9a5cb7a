// Runs the kernel `once` of a PTX file, as ptx.py translates it, in one thread: ptx_once OUTPUTS INPUT... reads and writes
// 64 bits each, in hexadecimal.
#include <cinttypes>
#include <cstdlib>

#include "ptx.h"

namespace bitrate {

#include BITRATE_EXT_PTX

namespace {

struct OneThread {
  int32_t block() { return 0; }
  int32_t thread() { return 0; }
  int32_t threads() { return 1; }
  void barrier(int) {}
  const void* load_bytes(const void* address, int64_t) { return address; }
  void* store_bytes(void* address, int64_t) { return address; }
  void* shared_bytes(int64_t, int64_t, bool) { throw BrokenRule("there is no shared memory"); }
};

}  // namespace
}  // namespace bitrate

int main(int count, char** given) {
  std::vector<uint64_t> from, to(std::strtoull(given[1], nullptr, 10));
  for (int k = 2; k < count; ++k) from.push_back(std::strtoull(given[k], nullptr, 16));
  uint64_t* const output = to.data();
  const uint64_t* const input = from.data();
  bitrate::OneThread thread;
  try {
    bitrate::once(thread, output, input, int32_t(to.size()));
  } catch (const bitrate::BrokenRule& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  for (const uint64_t value : to) std::printf("%016" PRIx64 "\n", value);
}
