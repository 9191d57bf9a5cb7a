// Compares the CPU path with tests/kernels/native/oracle.h, byte by byte, on every instruction set of this processor: number
// formats, bits of cells, maps, gradients and sources. Built and run by test_sanitizers.py, under the address and
// undefined-behaviour sanitizers and on buffers of exact size, and by test_faults.py, for each planted fault. Ends at the
// first wrong result with a line "wrong (CHECK, SET): ...". Arguments, all optional: the only instruction set to look at
// (exit code 77 where this processor lacks it) and the only check that may report. With the argument "overrun", a band
// reads one cell past the end, which the sanitizer must report.
#include "cases.h"
#include "source_cases.h"

using namespace bitrate;
using namespace cases;

namespace {

std::string looked_at;  // the only check that may report; empty: all

void wrong(const char* check, const char* set, const std::string& what) {
  if (!looked_at.empty() && looked_at != check) return;
  std::printf("wrong (%s, %s): %s\n", check, set, what.c_str());
  std::fflush(stdout);
  std::_Exit(1);  // a fault may have damaged the heap
}

// In up to four parts, the last one first.
const ParallelFor in_parts = [](int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t part = std::max<int64_t>(1, count / pick(1, 3));
  for (int64_t end = count; end > 0;) {
    const int64_t begin = (end - 1) / part * part;
    body(begin, end);
    end = begin;
  }
};

template <typename T>
bool same(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <typename T>
void check_rounding(double value) {
  if (!same(Rounded<T>::from(value), oracle::Nearest<T>::of(value))) wrong("formats", "scalar", std::to_string(value));
}

// Every number of a 16-bit format, and what lies right between two of them or next to that.
template <typename T>
std::vector<double> hard_numbers() {
  const float top = std::numeric_limits<float>::infinity();
  std::vector<double> numbers;
  for (int bits = 0; bits < 0x10000; ++bits) {
    const double value = oracle::value_of(T{uint16_t(bits)});
    numbers.push_back(value);
    if (!std::isfinite(value) || bits >= 0x8000) continue;
    const double next = std::min(oracle::value_of(T{uint16_t(bits + 1)}), oracle::past_the_largest<T>());
    const float middle = float(value + (next - value) / 2);
    for (float near : {std::nextafterf(middle, -top), middle, std::nextafterf(middle, top)}) {
      numbers.insert(numbers.end(), {near, -near});
    }
  }
  return numbers;
}

template <typename T>
void check_format() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const T number{uint16_t(bits)};
    const double read = to_double(number), value = oracle::value_of(number);
    if (!(read == value || (std::isnan(read) && std::isnan(value)))) {
      wrong("formats", "scalar", "read " + std::to_string(bits));
    }
  }
  for (double value : hard_numbers<T>()) check_rounding<T>(value);
}

// The same over likelihoods of one, by the loops.
template <typename T>
void check_quotients(const Kernels& kernels, DType dtype) {
  const std::vector<double> numbers = hard_numbers<T>();
  const int64_t count = int64_t(numbers.size());
  const std::vector<T> ones(count, Rounded<T>::from(1.0));
  std::vector<T> found(count);
  kernels.gradient[0][int(dtype)](numbers.data(), ones.data(), count, 1, {1, count}, {1, count}, false, found.data());
  for (int64_t i = 0; i < count; ++i) {
    if (!same(found[i], oracle::Nearest<T>::of(numbers[i]))) wrong("backward", kernels.name, std::to_string(numbers[i]));
  }
}

void check_formats() {
  check_format<Half>();
  check_format<BFloat16>();
  const double payload = bits_as<double>(uint64_t(0xfff8000000012345));
  for (double value :
       {0.0, -0.0, 1e-60, -1e-60, 1.0 + 1e-8, 3.5e38, -3.5e38, double(INFINITY), -double(INFINITY), payload}) {
    check_rounding<double>(value);
    check_rounding<float>(value);
  }
}

// The loop over cells itself, in float64, for counts about its blocks: a map's float32 would hide a last place.
void check_cells(const Kernels& kernels, DType dtype) {
  const bool wide = pick(0, 3) == 0;
  const int64_t counts[] = {kCellBlock - 1, kCellBlock + 1, 2 * kCellBlock + 7, 2 * kCellBlock, kCellBlock + 9};
  const Source source = pick(0, 4) == 0 ? Source::Bits : Source::Likelihoods;
  const int64_t channels = source == Source::Bits ? 1 : wide ? pick(1, 9) : pick(0, 9) == 0 ? 640 : pick(1, 200);
  const Grid grid{1, channels, 1, wide ? counts[pick(0, 4)] : pick(1, 70)};
  const Sample sample =
      random_sample(dtype, grid, int(pick(0, 3)), int(pick(0, kKinds - 1)), pick(0, 2) * pick(0, 6), source);
  std::vector<double> expected, found(grid.w);
  const std::string what = std::to_string(grid.w) + " cells of " + std::to_string(grid.c) + " channels, type " +
                           std::to_string(int(dtype)) + ", stride " + std::to_string(sample.latent.cell_stride);
  if (!scalar_bits(sample, 0, expected)) wrong("logarithms", "scalar", what);
  kernels.cell_bits[int(source)][int(dtype)](sample.latent.data, grid.w, grid.c,
                                             {sample.latent.cell_stride, sample.latent.channel_stride}, found.data());
  for (int64_t j = 0; j < grid.w; ++j) {
    if (!same(expected[j], found[j]) && !(std::isnan(expected[j]) && std::isnan(found[j])))
      wrong("cells", kernels.name, what);
  }
}

// One map of one to three latents, and the gradient of each.
struct Sizes {
  std::vector<Grid> grids;
  int64_t height, width;
};

template <typename T>
void compare_map(const Buffer& found, const std::vector<double>& sums, const Kernels& kernels, const std::string& what) {
  for (size_t i = 0; i < sums.size(); ++i) {
    const T expected = oracle::Nearest<T>::of(sums[i]);
    if (std::memcmp(found.data() + i * sizeof(T), &expected, sizeof(T)) != 0) wrong("forward", kernels.name, what);
  }
}

void check_gradient(const Kernels& kernels, const Sample& sample, const Image<const void>& grad, int layout,
                    const std::string& what) {
  const Grid& g = sample.grid;
  const Strides s = strides_of(layout, g);
  const Matrix rows(g.h, grad.height, 9), columns(g.w, grad.width, 9);
  const int64_t element = kElementSize[int(sample.latent.dtype)];
  const bool bits = sample.latent.source == Source::Bits;
  const Buffer found(span_of(g, s), element, kGap), expected(span_of(g, s), element, kGap);
  project_backward(grad, {sample.latent, found.data(), s.batch, s.channel, s.row, s.cell, rows.band, columns.band}, kernels,
                   in_parts);
  visit(sample.latent.dtype, [&](auto type) {
    using T = decltype(type);
    const T* likelihoods = static_cast<const T*>(sample.latent.data);
    for (int64_t n = 0; n < g.n; ++n) {
      std::vector<double> pixels(grad.height * grad.width);
      for (size_t i = 0; i < pixels.size(); ++i) {
        const int64_t at = n * int64_t(pixels.size()) + int64_t(i);
        pixels[i] = grad.is_double ? static_cast<const double*>(grad.data)[at] : static_cast<const float*>(grad.data)[at];
      }
      const std::vector<double> shared =
          oracle::shared(rows.band, columns.band, pixels, bits ? 1.0 : -1.44269504088896340736);
      for (int64_t c = 0; c < g.c; ++c) {
        for (int64_t i = 0; i < g.h * g.w; ++i) {
          const int64_t from = n * sample.latent.batch_stride + c * sample.latent.channel_stride +
                               i / g.w * sample.latent.row_stride + i % g.w * sample.latent.cell_stride;
          const int64_t to = n * s.batch + c * s.channel + i / g.w * s.row + i % g.w * s.cell;
          const T quotient = oracle::Nearest<T>::of(bits ? shared[i] : shared[i] / oracle::value_of(likelihoods[from]));
          std::memcpy(expected.data() + to * sizeof(T), &quotient, sizeof(T));
        }
      }
    }
  });
  if (std::memcmp(found.data(), expected.data(), found.size()) != 0) wrong("backward", kernels.name, what);
  if (!found.surroundings_untouched()) wrong("backward", kernels.name, what + ", outside the gradient");
}

void check_map(const Kernels& kernels, const Sizes& sizes, DType dtype, bool is_double, bool irregular, int layout = -1,
               bool overrun = false) {
  const int64_t n = sizes.grids[0].n, height = sizes.height, width = sizes.width, pixels = height * width;
  std::vector<Sample> samples;
  std::vector<std::unique_ptr<Matrix>> matrices;
  std::vector<Term> terms;
  std::string what = std::to_string(n) + " maps of " + std::to_string(height) + " x " + std::to_string(width);
  for (const Grid& grid : sizes.grids) {
    const DType own = samples.empty() ? dtype : DType(pick(0, kDTypes - 1));
    const int chosen = layout >= 0 ? layout : int(pick(0, kReadLayouts - 1));
    const Source source = grid.c == 1 && pick(0, 1) == 0 ? Source::Bits : Source::Likelihoods;
    samples.push_back(random_sample(own, grid, chosen, int(pick(0, kKinds - 1)), irregular ? pick(0, 3) : 0, source));
    matrices.push_back(std::make_unique<Matrix>(height, grid.h, 7));
    matrices.push_back(std::make_unique<Matrix>(width, grid.w, 7, overrun));
    if (overrun) ++matrices.back()->start.back();
    terms.push_back({samples.back().latent, matrices[matrices.size() - 2]->band, matrices.back()->band});
    what += ", " + std::to_string(grid.c) + " x " + std::to_string(grid.h) + " x " + std::to_string(grid.w) + " type " +
            std::to_string(int(own)) + " layout " + std::to_string(chosen);
  }
  const Buffer map(n * pixels, is_double ? 8 : 4, kGap);
  project(terms, {}, {map.data(), is_double, n, height, width}, kernels, in_parts);

  std::vector<double> sums, bits;
  for (int64_t image = 0; image < n; ++image) {
    std::vector<double> one(pixels);
    for (size_t k = 0; k < terms.size(); ++k) {
      if (!scalar_bits(samples[k], image, bits)) wrong("logarithms", "scalar", what);
      oracle::spread(terms[k].rows, terms[k].columns, bits, one);
    }
    sums.insert(sums.end(), one.begin(), one.end());
  }
  is_double ? compare_map<double>(map, sums, kernels, what) : compare_map<float>(map, sums, kernels, what);
  if (!map.surroundings_untouched()) wrong("forward", kernels.name, what + ", outside the map");

  const Buffer grad(n * pixels, is_double ? 8 : 4, kGap);
  const double tiny = pick(0, 4) == 0 ? 1e-30 : 1.0;
  for (int64_t i = 0; i < n * pixels; ++i) {
    const double value = (unit() - 0.3) * tiny;
    const float narrow = float(value);
    std::memcpy(grad.data() + i * (is_double ? 8 : 4), is_double ? (const void*)&value : &narrow, is_double ? 8 : 4);
  }
  for (const Sample& sample : samples) {
    const int own = layout >= 0 && pick(0, 1) == 0 ? layout : int(pick(0, kLayouts - 1));
    check_gradient(kernels, sample, {grad.data(), is_double, n, height, width}, own, what + " to " + std::to_string(own));
  }
}

Sizes small() {
  Sizes sizes{{}, pick(1, 30), pick(1, 90)};
  const int64_t n = pick(1, 3), count = pick(0, 2) == 0 ? pick(2, 3) : 1;
  for (int64_t k = 0; k < count; ++k) {
    Grid grid{n, pick(1, 70), pick(1, 9), pick(1, 40)};
    const int64_t chance = pick(0, 60);
    if (chance < 20) grid.c = chance == 0 ? 0 : 1;
    sizes.grids.push_back(grid);
  }
  return sizes;
}

// Sizes past a block of cells, a block of pixels, the cells of a slab in one image and in three, and what is streamed.
int check_large(const Kernels& kernels) {
  const DType f32 = DType::Float32;
  check_map(kernels, {{{1, 3, 7, 1501}}, 9, 120}, f32, false, true, kContiguous);
  check_map(kernels, {{{2, 2, 4, 50}}, 5, 5003}, f32, false, false);
  check_map(kernels, {{{1, 1, 300, 501}}, 310, 520}, f32, false, false, kContiguous);
  check_map(kernels, {{{3, 2, 201, 301}, {3, 1, 20, 30}}, 120, 131}, DType::Float16, true, true);
  check_map(kernels, {{{1, 1, 10, 12}}, 1043, 1027}, f32, false, true);
  check_map(kernels, {{{1, 121, 100, 97}}, 40, 50}, f32, false, false, kContiguous);
  check_map(kernels, {{{1, 121, 100, 97}}, 40, 50}, f32, false, false, kChannelsLast);
  return 7;
}

void report_sources(const char* set, const std::string& what) {
  if (!what.empty()) wrong("sources", set, what);
}

// Formulas of a symbol, of each family.
void check_symbols() {
  for (int i = 0; i < 20000; ++i) {
    report_sources("scalar", source_cases::wrong_symbol<Family::Gaussian>());
    report_sources("scalar", source_cases::wrong_symbol<Family::Laplace>());
    report_sources("scalar", source_cases::wrong_symbol<Family::Logistic>());
    if (i % 20 == 0) report_sources("scalar", source_cases::wrong_network());
  }
}

void check_sources(const Kernels& kernels, int i) {
  const Family family = Family(i % kFamilies);
  switch (i / kFamilies % 3) {
    case 0: return report_sources(kernels.name, source_cases::wrong_run<float>(kernels, DType::Float32, family));
    case 1: return report_sources(kernels.name, source_cases::wrong_run<Half>(kernels, DType::Float16, family));
    default: return report_sources(kernels.name, source_cases::wrong_run<BFloat16>(kernels, DType::BFloat16, family));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "";
  const bool overrun = argument == "overrun";
  if (argc > 2) looked_at = argv[2];
  const std::vector<const Kernels*> sets = instruction_sets(overrun ? "" : argument);
  if (sets.empty()) return 77;
  check_formats();
  check_symbols();
  int cases = 1;
  for (const Kernels* kernels : sets) {
    check_quotients<Half>(*kernels, DType::Float16);
    check_quotients<BFloat16>(*kernels, DType::BFloat16);
    for (int i = 0; i < 400; ++i) {
      const DType dtype = DType(i % kDTypes);
      check_cells(*kernels, dtype);
      check_map(*kernels, small(), dtype, i % 3 == 0, i % 5 == 0, -1, overrun);
      cases += 2;
    }
    for (int i = 0; i < 150; ++i, ++cases) check_sources(*kernels, i);
    cases += check_large(*kernels);
  }
  std::printf("%d cases on %zu instruction sets, 0 wrong\n", cases, sets.size());
  return 0;
}
