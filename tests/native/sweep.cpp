// Runs the CPU path on exactly sized buffers under the address and undefined-behaviour sanitizers, and compares every
// instruction set's bytes with the scalar definition. Prints the number of cases; built and run by test_sanitizers.py.
// With the argument "overrun", the band reads one cell past the end, which the sanitizer must report.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "../../csrc/core/bits.h"
#include "../../csrc/cpu/project.h"

using namespace bitrate;

namespace {

std::mt19937 random_bits(7);
int64_t pick(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint64_t(high - low + 1)); }

const ParallelFor in_parts = [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t cut = count / 3;
  if (cut > 0) body(0, cut);
  body(cut, count);
};

struct Matrix {
  std::vector<int32_t> start;
  std::vector<double> weight;
  Band band;
  Matrix(int64_t rows, int64_t columns, int64_t taps) : start(rows), weight(taps * rows) {
    for (auto& s : start) s = int32_t(pick(0, columns - taps));
    for (auto& w : weight) w = double(pick(0, 3)) / 4.0;
    band = {start.data(), weight.data(), rows, columns, taps};
  }
};

template <typename T>
T number(double value) {
  return Rounded<T>::from(value);
}

template <typename T>
int run_case(DType dtype, const Kernels& kernels, bool overrun) {
  const int64_t n = pick(1, 2), c = pick(1, 70), h = pick(1, 9), w = pick(1, 40), height = pick(1, 30), width = pick(1, 90);
  const bool last = pick(0, 1) == 1;
  std::vector<T> p(n * c * h * w);
  for (auto& value : p) value = number<T>(pick(0, 40) == 0 ? -0.5 : double(pick(1, 1000)) / 1000.0);
  Latent latent = last ? Latent{p.data(), dtype, n, c, h, w, c * h * w, 1, w * c, c}
                       : Latent{p.data(), dtype, n, c, h, w, c * h * w, h * w, w, 1};
  Matrix rows(height, h, pick(1, h)), columns(width, w, pick(1, w));
  if (overrun) columns.start.back() = int32_t(w - columns.band.taps + 1), columns.weight.back() = 1.0;

  std::vector<float> map(n * height * width), expected(map.size());
  project({{latent, rows.band, columns.band}}, {map.data(), false, n, height, width}, kernels, in_parts);
  std::vector<double> bits(h * w), spread(width);
  using A = Arithmetic<double>;
  for (int64_t image = 0; image < n; ++image) {
    for (int64_t i = 0; i < h; ++i) {
      for (int64_t j = 0; j < w; ++j) {
        bits[i * w + j] = cell_bits(p.data() + image * latent.batch_stride + i * latent.row_stride + j * latent.cell_stride,
                                    c, latent.channel_stride);
      }
    }
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        double sum = 0.0;
        for (int64_t t = 0; t < rows.band.taps; ++t) {
          double row = 0.0;
          for (int64_t u = 0; u < columns.band.taps; ++u) {
            const double bit = bits[(rows.start[y] + t) * w + columns.start[x] + u];
            row = tap<A>(row, columns.weight[u * width + x], bit);
          }
          sum = tap<A>(sum, rows.weight[t * height + y], row);
        }
        expected[(image * height + y) * width + x] = Rounded<float>::from(sum);
      }
    }
  }
  if (std::memcmp(map.data(), expected.data(), map.size() * sizeof(float)) != 0) {
    std::printf("%s: bytes differ\n", kernels.name);
    return 1;
  }

  std::vector<T> gradient(p.size());
  Matrix back_rows(h, height, pick(1, height)), back_columns(w, width, pick(1, width));
  GradientTerm term{
      latent,         gradient.data(),  latent.batch_stride, latent.channel_stride, latent.row_stride, latent.cell_stride,
      back_rows.band, back_columns.band};
  project_backward({map.data(), false, n, height, width}, term, kernels, in_parts);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool overrun = argc > 1 && std::string(argv[1]) == "overrun";
  std::vector<const Kernels*> sets{&baseline_kernels};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2_kernels);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) sets.push_back(&avx512_kernels);
#endif
  int cases = 0, wrong = 0;
  for (const Kernels* kernels : sets) {
    for (int i = 0; i < 150; ++i) {
      wrong += run_case<float>(DType::Float32, *kernels, overrun);
      wrong += run_case<double>(DType::Float64, *kernels, overrun);
      wrong += run_case<Half>(DType::Float16, *kernels, overrun);
      wrong += run_case<BFloat16>(DType::BFloat16, *kernels, overrun);
      cases += 4;
    }
  }
  std::printf("%d cases on %zu instruction sets, %d wrong\n", cases, sets.size(), wrong);
  return wrong == 0 ? 0 : 1;
}
