// Instructions that the CPU path takes for a likelihood and for a pixel, counted one by one: a child runs it, and its
// parent steps it. Unlike times, counts do not depend on what else a machine does. Figures are differences between two
// sizes, so that what a call costs once does not count. Linux on x86-64; driven by tools/instruction_counts.py.
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cpu/project.h"

using namespace bitrate;

namespace {

constexpr int kCannotStep = 77;
// Stepping is slow: two vectors of the widest set a row of cells, and no more than what is usual of all else.
constexpr int64_t kRows = 2, kColumns = 16;
constexpr int64_t kChannels = 48;
constexpr int64_t kDown = 2, kAcross = 16;  // pixels a cell

const ParallelFor on_one = [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  if (count > 0) body(0, count);
};

// Steps a child through `work` and counts; the child stops itself before and after, which costs the same each time.
int64_t instructions(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kCannotStep);
    work();  // tables that are made once
    raise(SIGSTOP);
    work();
    raise(SIGSTOP);
    _exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) std::exit(kCannotStep);
  int64_t count = 0;
  do {
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) std::exit(kCannotStep);
    waitpid(child, &status, 0);
    ++count;
  } while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
  if (!WIFSTOPPED(status)) std::exit(1);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return count;
}

// The band of bilinear interpolation by a whole number, or its transpose.
struct Bilinear {
  std::vector<int32_t> start;
  std::vector<double> weight;
  Band band;

  Bilinear(int64_t cells, int64_t stride, bool transposed) {
    const int64_t pixels = cells * stride, rows = transposed ? cells : pixels, taps = transposed ? 2 * stride : 2;
    start.resize(rows);
    weight.resize(taps * rows);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t first = transposed ? r * stride - stride / 2 : (r - stride / 2) / stride;
      start[r] = int32_t(std::clamp<int64_t>(first, 0, (transposed ? pixels : cells) - taps));
      for (int64_t t = 0; t < taps; ++t) weight[t * rows + r] = 1.0 / double(t + 2);
    }
    band = {start.data(), weight.data(), rows, transposed ? pixels : cells, taps};
  }
};

struct Strides {
  int64_t channel, cell;
};

// A call on an image of `rows` x kColumns cells.
int64_t call(const Kernels& kernels, DType dtype, bool channels_last, bool backward, int64_t channels, int64_t rows) {
  const int64_t cells = rows * kColumns, height = rows * kDown, width = kColumns * kAcross;
  const Strides s = channels_last ? Strides{1, channels} : Strides{cells, 1};
  // From a line's start, and some number between 0 and 1 in each format.
  std::unique_ptr<unsigned char[]> likelihoods(new unsigned char[cells * channels * 4]);
  std::unique_ptr<unsigned char[]> gradient(new unsigned char[cells * channels * 4]);
  std::unique_ptr<unsigned char[]> map(new unsigned char[height * width * 4]);
  std::memset(likelihoods.get(), 0x3e, cells * channels * 4);
  std::memset(map.get(), 0x3e, height * width * 4);
  const Latent latent{likelihoods.get(), dtype,     Source::Likelihoods, 1,     channels, rows, kColumns,
                      cells * channels,  s.channel, kColumns * s.cell,   s.cell};
  const Bilinear down(rows, kDown, backward), across(kColumns, kAcross, backward);
  const std::vector<Term> terms{{latent, down.band, across.band}};
  return instructions([&] {
    if (backward) {
      project_backward(
          {map.get(), false, 1, height, width},
          {latent, gradient.get(), cells * channels, s.channel, kColumns * s.cell, s.cell, down.band, across.band}, kernels,
          on_one);
    } else {
      project(terms, {map.get(), false, 1, height, width}, kernels, on_one);
    }
  });
}

// Counts one kind of call, if it is the one asked for, or all are.
void report(const Kernels& kernels, const std::string& only, const std::string& format, DType dtype, bool channels_last,
            bool backward) {
  const std::string kind = (backward ? "backward " : "forward ") + format;
  if (!only.empty() && only != kind) return;
  const int64_t usual = call(kernels, dtype, channels_last, backward, kChannels, kRows);
  const int64_t deeper = call(kernels, dtype, channels_last, backward, 2 * kChannels, kRows);
  const int64_t higher = call(kernels, dtype, channels_last, backward, kChannels, 2 * kRows);
  const double cells = kRows * kColumns;
  std::printf("%s %s, a likelihood: %.4f\n", kernels.name, kind.c_str(), double(deeper - usual) / (cells * kChannels));
  std::printf("%s %s, a pixel: %.4f\n", kernels.name, kind.c_str(),
              double(higher - usual - (deeper - usual)) / (cells * kDown * kAcross));
}

}  // namespace

// Memory from one place, always in whole lines: what the library's allocator does depends on all that came before.
void* operator new(std::size_t size) {
  alignas(64) static unsigned char memory[16 << 20];
  static std::size_t used = 0;
  void* const place = memory + used;
  used += (size + 63) / 64 * 64;
  if (used > sizeof(memory)) std::abort();
  return place;
}
void operator delete(void*) noexcept {}
void operator delete(void*, std::size_t) noexcept {}

// The C library chooses its own by processor, and some of them are one instruction that is stepped byte by byte.
#pragma GCC push_options
#pragma GCC optimize("no-tree-loop-distribute-patterns")
using Line = unsigned char __attribute__((vector_size(16), aligned(1)));

extern "C" void* memset(void* to, int value, std::size_t size) {
  unsigned char* place = static_cast<unsigned char*>(to);
  const Line line = Line{} + static_cast<unsigned char>(value);
  std::size_t done = 0;
  for (; done + sizeof(Line) <= size; done += sizeof(Line)) *reinterpret_cast<Line*>(place + done) = line;
  for (; done < size; ++done) place[done] = static_cast<unsigned char>(value);
  return to;
}

extern "C" void* memmove(void* to, const void* from, std::size_t size) {
  unsigned char* place = static_cast<unsigned char*>(to);
  const unsigned char* source = static_cast<const unsigned char*>(from);
  if (place > source && place < source + size) std::abort();  // not needed here
  std::size_t done = 0;
  for (; done + sizeof(Line) <= size; done += sizeof(Line)) {
    *reinterpret_cast<Line*>(place + done) = *reinterpret_cast<const Line*>(source + done);
  }
  for (; done < size; ++done) place[done] = source[done];
  return to;
}

extern "C" void* memcpy(void* __restrict to, const void* __restrict from, std::size_t size) {
  return memmove(to, from, size);
}
#pragma GCC pop_options

int main(int argc, char** argv) {
  for (const Kernels* kernels : {&avx2_kernels, &avx512_kernels}) {
    if (argc < 2 || std::strcmp(argv[1], kernels->name) != 0) continue;
    const std::string only = argc > 2 ? argv[2] : "";
    for (const bool backward : {false, true}) {
      report(*kernels, only, "float32", DType::Float32, false, backward);
      report(*kernels, only, "float32 channels_last", DType::Float32, true, backward);
    }
    report(*kernels, only, "bfloat16", DType::BFloat16, false, false);
    return 0;
  }
  std::fprintf(stderr, "usage: count avx2|avx512 [KIND]\n");
  return 2;
}
