// The CPU path on real threads, for the thread sanitizer: every instruction set of this processor, forward, backward and
// guides, sizes of one slab and of several. Bytes must be those of a single thread. Built and run by test_sanitizers.py.
// With the argument "race", neighbouring tasks share their first and last output, which the sanitizer must report.
#include <thread>

#include "cases.h"
#include "cpu/guide.h"

using namespace bitrate;
using namespace cases;

namespace {

constexpr int64_t kThreads = 4;
bool racing = false;

// Each thread one part, whatever the grain, with nothing between them but their end: what they share shows as a race.
const ParallelFor on_threads = [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t k = 0; k < kThreads; ++k) {
    const int64_t begin = count * k / kThreads, end = count * (k + 1) / kThreads;
    if (begin == end) continue;
    threads.emplace_back([&body, begin, end] { body(racing && begin > 0 ? begin - 1 : begin, end); });
  }
  for (std::thread& thread : threads) thread.join();
};

const ParallelFor on_one = [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  if (count > 0) body(0, count);
};

bool same_bytes(const Kernels& kernels, DType dtype, const Grid& grid, int64_t height, int64_t width, bool is_double) {
  const int layout = int(pick(0, kLayouts - 1));
  const Sample first = random_sample(dtype, grid, int(pick(0, kReadLayouts - 1)), int(pick(0, kKinds - 1)), pick(0, 2));
  const Sample second = random_sample(DType::Float32, {grid.n, 1, 5, 6}, kContiguous, kUniform, 0, Source::Bits);
  const Matrix rows(height, grid.h, 5), columns(width, grid.w, 5), second_rows(height, 5, 3), second_columns(width, 6, 3);
  const Matrix back_rows(grid.h, height, 5), back_columns(grid.w, width, 5);
  const std::vector<Term> terms{{first.latent, rows.band, columns.band},
                                {second.latent, second_rows.band, second_columns.band}};
  const int64_t pixels = grid.n * height * width, element = is_double ? 8 : 4;
  const Buffer grad(pixels, element, 0x3f);  // some number, the same everywhere
  const Strides s = strides_of(layout, grid);
  std::vector<std::string> results;
  for (const ParallelFor& parallel : {on_one, on_threads}) {
    const Buffer map(pixels, element, kGap), gradient(span_of(grid, s), kElementSize[int(dtype)], kGap);
    project(terms, {}, {map.data(), is_double, grid.n, height, width}, kernels, parallel);
    project_backward({grad.data(), is_double, grid.n, height, width},
                     {first.latent, gradient.data(), s.batch, s.channel, s.row, s.cell, back_rows.band, back_columns.band},
                     kernels, parallel);
    const Latent& l = first.latent;  // as a picture
    const float phases[] = {0.0f, 0.5f, -0.5f};
    const Buffer guide(grid.n * grid.h * grid.w, 4, kGap);
    make_guide(
        {l.data, dtype, grid.n, grid.c, grid.h, grid.w, l.batch_stride, l.channel_stride, l.row_stride, l.cell_stride},
        guide_weights({0.5, -0.5, 1.0, 1.0}, grid.c), phases, 1, 3, reinterpret_cast<float*>(guide.data()), kernels,
        parallel);
    results.emplace_back(reinterpret_cast<const char*>(map.data()), map.size());
    results.back().append(reinterpret_cast<const char*>(guide.data()), guide.size());
    results.back().append(reinterpret_cast<const char*>(gradient.data()), gradient.size());
  }
  return results[0] == results[1];
}

}  // namespace

int main(int argc, char** argv) {
  racing = argc > 1 && std::string(argv[1]) == "race";
  int cases = 0, wrong = 0;
  for (const Kernels* kernels : instruction_sets()) {
    for (int i = 0; i < 24; ++i) {
      const Grid grid{pick(1, 3), pick(1, 40), pick(1, 20), pick(1, 60)};
      wrong += !same_bytes(*kernels, DType(i % kDTypes), grid, pick(1, 60), pick(1, 90), i % 3 == 0);
      ++cases;
    }
    wrong += !same_bytes(*kernels, DType::Float32, {1, 1, 280, 501}, 300, 260, false);  // two slabs of one image
    wrong += !same_bytes(*kernels, DType::Float16, {3, 2, 150, 400}, 70, 80, false);    // images two at a time
    wrong += !same_bytes(*kernels, DType::Float32, {1, 2, 9, 12}, 1031, 1031, false);   // a streamed map
    cases += 3;
  }
  std::printf("%d cases on %zu instruction sets, %d wrong\n", cases, instruction_sets().size(), wrong);
  return wrong == 0 ? 0 : 1;
}
