// Schemas of the library and the CPU entry points (CUDA's are in ops_cuda.cpp), on PyTorch's stable ABI.
//
// `bitrate_map` and `bitrate_map_backward` are what programs call and what compilers see: they carry sizes and names, and
// Python gives them their implementations (bitrate_ext/ops/autograd.py) because bands are built and cached there. The
// underscored ops are the kernels: they apply given bands and write into given tensors.
#include <torch/csrc/stable/library.h>

#include <pthread.h>

#include <atomic>
#include <optional>
#include <vector>

#include "../cpu/rate.h"
#include "checks.h"

namespace bitrate {
namespace {

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> sets{&baseline_kernels};
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2) sets.push_back(&avx2_kernels);
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      sets.push_back(&avx512_kernels);
    }
#endif
    return sets;
  }();
  return available;
}

std::atomic<const Kernels*> chosen_kernels{nullptr};

const Kernels& kernels() {
  const Kernels* chosen = chosen_kernels.load(std::memory_order_relaxed);
  return chosen != nullptr ? *chosen : *available_kernels().back();
}

// How many instruction sets this processor has, from the baseline up; `index` chooses one (negative: the best). For tests.
int64_t choose_instruction_set(int64_t index) {
  const auto& sets = available_kernels();
  STD_TORCH_CHECK(index < int64_t(sets.size()), "instruction set must be below ", sets.size(), ", got ", index);
  chosen_kernels = index < 0 ? nullptr : sets[index];
  return int64_t(sets.size());
}

// Threads of an OpenMP pool do not live on in a forked child, where waiting for them would hang: children run alone.
std::atomic<bool> in_forked_child{false};
[[maybe_unused]] const int fork_watch = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });

void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= grain || in_forked_child.load(std::memory_order_relaxed)) {
    if (count > 0) body(0, count);
    return;
  }
  torch::stable::parallel_for(0, count, grain, body);
}

Band cpu_band(const Tensor& start, const Tensor& weight, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(weight.is_cpu(), "a band's weight must be on the CPU");
  return checked_band(start, weight, rows, columns);
}

// Nothing is planned on a CPU.
void project_cpu(std::vector<Tensor> values, std::vector<Tensor> bands, Tensor out, std::optional<Tensor>,
                 std::optional<Tensor> guide) {
  const Image<void> map = checked_map<void>("out", out);
  STD_TORCH_CHECK(bands.size() == 4 * values.size(), "bands must be four tensors a latent, got ", bands.size(), " for ",
                  values.size());
  std::vector<Term> terms;
  for (size_t k = 0; k < values.size(); ++k) {
    const Latent latent = checked_latent(values[k], map.batch);
    terms.push_back({latent, cpu_band(bands[4 * k], bands[4 * k + 1], map.height, latent.h),
                     cpu_band(bands[4 * k + 2], bands[4 * k + 3], map.width, latent.w)});
  }
  project(terms, checked_guide(guide, map), map, kernels(), run_parallel);
}

void project_backward_cpu(Tensor grad, Tensor values, std::vector<Tensor> bands, Tensor gradient, std::optional<Tensor>) {
  const Image<const void> image = checked_map<const void>("grad", grad);
  STD_TORCH_CHECK(bands.size() == 4, "bands must be four tensors, got ", bands.size());
  const Latent latent = checked_latent(values, image.batch);
  const GradientTerm term = checked_gradient(latent, gradient, cpu_band(bands[0], bands[1], latent.h, image.height),
                                             cpu_band(bands[2], bands[3], latent.w, image.width));
  project_backward(image, term, kernels(), run_parallel);
}

void cell_bits_cpu(std::vector<Tensor> tensors, std::vector<int64_t> families, std::vector<double> bounds,
                   std::vector<double> floors, std::vector<Tensor> out) {
  const std::vector<SourceTerm> sources = checked_sources(tensors, families, bounds, floors);
  STD_TORCH_CHECK(out.size() == sources.size(), "out must be a tensor for each source");
  std::vector<double*> bits;
  for (size_t k = 0; k < sources.size(); ++k) bits.push_back(checked_cells(out[k], sources[k]));
  sum_sources(sources, bits, kernels(), run_parallel);
}

void cell_bits_backward_cpu(std::vector<Tensor> grads, std::vector<Tensor> tensors, std::vector<int64_t> families,
                            std::vector<double> bounds, std::vector<double> floors, std::vector<Tensor> gradients) {
  std::vector<SourceTerm> sources = checked_sources(tensors, families, bounds, floors);
  aim_gradients(sources, tensors, gradients);
  STD_TORCH_CHECK(grads.size() == sources.size(), "grads must be a tensor for each source");
  std::vector<const double*> cells;
  for (size_t k = 0; k < sources.size(); ++k) cells.push_back(checked_cells(grads[k], sources[k]));
  sum_sources_backward(sources, cells, kernels(), run_parallel);
}

}  // namespace
}  // namespace bitrate

STABLE_TORCH_LIBRARY(bitrate_ext, m) {
  m.def(
      "bitrate_map(Tensor[] values, SymInt[] canvas, SymInt[] window, str[] projections, bool conserve, "
      "float[] scales, ScalarType? dtype=None) -> Tensor");
  m.def(
      "bitrate_map_backward(Tensor grad, Tensor values, SymInt[] canvas, SymInt[] window, str projection, "
      "bool conserve, float[] scales) -> Tensor");
  m.def("_project(Tensor[] values, Tensor[] bands, Tensor(a!) out, Tensor(b!)? plans=None, Tensor? guide=None) -> ()");
  m.def(
      "_project_backward(Tensor grad, Tensor values, Tensor[] bands, Tensor(a!) gradient, Tensor(b!)? plans=None) "
      "-> ()");
  m.def("cell_bits(Tensor[] tensors, int[] families, float[] bounds, float[] floors) -> Tensor[]");
  m.def(
      "cell_bits_backward(Tensor[] grads, Tensor[] tensors, int[] families, float[] bounds, float[] floors, "
      "bool[] wanted) -> Tensor[]");
  m.def("_cell_bits(Tensor[] tensors, int[] families, float[] bounds, float[] floors, Tensor(a!)[] out) -> ()");
  m.def(
      "_cell_bits_backward(Tensor[] grads, Tensor[] tensors, int[] families, float[] bounds, float[] floors, "
      "Tensor(a!)[] gradients) -> ()");
  m.def("_choose_instruction_set(int index) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CPU, m) {
  m.impl("_project", TORCH_BOX(&bitrate::project_cpu));
  m.impl("_project_backward", TORCH_BOX(&bitrate::project_backward_cpu));
  m.impl("_cell_bits", TORCH_BOX(&bitrate::cell_bits_cpu));
  m.impl("_cell_bits_backward", TORCH_BOX(&bitrate::cell_bits_backward_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(bitrate_ext, CompositeExplicitAutograd, m) {
  m.impl("_choose_instruction_set", TORCH_BOX(&bitrate::choose_instruction_set));
}
