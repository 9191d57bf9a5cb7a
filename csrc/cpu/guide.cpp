#include "guide.h"

#include <algorithm>

namespace bitrate {
namespace {

constexpr int64_t kColumns = 4096;                     // of a block: a few rows of it stay near the core
constexpr int64_t kRows = 64;                          // smallest task worth a thread, which makes ten more
constexpr int64_t kStreamingBytes = int64_t(4) << 20;  // larger guides are written past the caches
constexpr uintptr_t kLine = 64;                        // bytes of a cache line

}  // namespace

void make_guide(const Picture& picture, const GuideWeights& weights, const float* phases, int64_t phase_rows,
                int64_t phase_columns, float* guide, const Kernels& kernels, const ParallelFor& parallel) {
  const int64_t width = picture.width, height = picture.height, pitch = phase_columns + kMostStep;
  if (picture.batch == 0 || height == 0 || width == 0) return;
  std::vector<float> places(phase_rows * pitch);
  for (int64_t i = 0; i < phase_rows * pitch; ++i) {
    places[i] = place_exponent(weights, phases[i / pitch * phase_columns + i % pitch % phase_columns]);
  }
  const GuideTask task{picture, weights, phase_rows, phase_columns, places.data(), guide};
  const bool streaming = picture.batch * height * width * int64_t(sizeof(float)) > kStreamingBytes;
  const int64_t block = std::min(width, kColumns);
  parallel(picture.batch * height, kRows, [&](int64_t begin, int64_t end) {
    std::vector<float> rows(kGuideRows * guide_pitch(block) + int64_t(kLine / sizeof(float)));
    const uintptr_t past = reinterpret_cast<uintptr_t>(rows.data()) % kLine;
    float* memory = rows.data() + (kLine - past) % kLine / sizeof(float);
    for (int64_t next; begin < end; begin = next) {
      const int64_t image = begin / height;
      next = std::min(end, (image + 1) * height);
      for (int64_t column = 0; column < width; column += block) {
        kernels.make_guide(task, image, {begin - image * height, next - image * height},
                           {column, std::min(column + block, width)}, streaming, memory);
      }
    }
    if (streaming) kernels.fence();
  });
}

}  // namespace bitrate
