#include "executor.h"

#include "checked.h"
#include "core/plan.h"
#include "core/project.h"
#include "core/project_backward.h"
#include "core/rate_plan.h"

#ifdef BITRATE_EXT_PTX  // the kernels as nvcc compiles them: see ptx.py
#include "ptx.h"
#endif

namespace bitrate {

#ifdef BITRATE_EXT_PTX
#include BITRATE_EXT_PTX
#else
const auto project_kernel = [](auto& ctx, const ProjectParams& p) { project_tile(ctx, p); };
const auto project_backward_kernel = [](auto& ctx, const BackwardParams& p) { project_tile_backward(ctx, p); };
const auto rate_kernel = [](auto& ctx, const RateParams& p) { sum_run(ctx, p); };
const auto rate_backward_kernel = [](auto& ctx, const RateParams& p) { write_run_slopes(ctx, p); };
const auto network_backward_kernel = [](auto& ctx, const NetworkParams& p) { write_network_slopes(ctx, p); };
const auto add_runs_kernel = [](auto& ctx, const NetworkParams& p) { add_runs(ctx, p); };
#endif

namespace {

Latent latent_of(const TensorView& view) {
  std::vector<int64_t> s = view.sizes, t = view.strides;
  const bool bits = s.size() == 3;  // see csrc/ops/checks.h
  if (bits) {
    s.insert(s.begin() + 1, 1);
    t.insert(t.begin() + 1, 0);
  }
  return {view.data, view.dtype, bits ? Source::Bits : Source::Likelihoods, s[0], s[1], s[2], s[3], t[0], t[1], t[2], t[3]};
}

Image<const void> image_of(const TensorView& view) {
  return {view.data, view.dtype == DType::Float64, view.sizes[0], view.sizes[2], view.sizes[3]};
}

LaunchOverrides overrides_of(const Setting& s) { return {s.threads, s.tile_rows, s.tile_columns, s.width}; }

Launch<ProjectParams> plan(const std::vector<TermView>& terms, const TensorView& map, const Setting& setting) {
  std::vector<PlannedTerm> planned;
  for (const TermView& term : terms) {
    planned.push_back({latent_of(term.values), term.rows, term.columns, term.rows.start, term.columns.start});
  }
  const Image<const void> image = image_of(map);
  return plan_project(planned, {const_cast<void*>(image.data), image.is_double, image.batch, image.height, image.width},
                      {setting.multiprocessors, setting.shared_bytes}, overrides_of(setting));
}

Launch<BackwardParams> plan(const TensorView& grad, const TermView& term, const TensorView& gradient,
                            const Setting& setting) {
  const Latent to = latent_of(gradient);
  const GradientTerm whole{latent_of(term.values),
                           const_cast<void*>(to.data),
                           to.batch_stride,
                           to.channel_stride,
                           to.row_stride,
                           to.cell_stride,
                           term.rows,
                           term.columns};
  return plan_backward({whole, term.rows.start, term.columns.start}, image_of(grad),
                       {setting.multiprocessors, setting.shared_bytes}, overrides_of(setting));
}

Strided strided_of(const TensorView& view) {
  const std::vector<int64_t>& t = view.strides;
  if (t.size() == 2) return {const_cast<void*>(view.data), 0, t[0], 0, 0};  // a factorised prior's parameters
  return {const_cast<void*>(view.data), t[0], t[1], t[2], t[3]};
}

SourceTerm term_of(const SourceView& source) {
  const TensorView& values = source.inputs[0];
  const std::vector<int64_t>& s = values.sizes;
  SourceTerm term{source.family, values.dtype, s[0], s[1], s[2], s[3], 1, source.bound, source.floor, {}, {}};
  if (source.family == Family::Mixture) term.components = source.inputs[1].sizes[1] / s[1];
  for (size_t i = 0; i < source.inputs.size(); ++i) term.inputs[i] = strided_of(source.inputs[i]);
  for (size_t i = 0; i < source.gradients.size(); ++i) {
    if (source.gradients[i].data != nullptr) term.gradients[i] = strided_of(source.gradients[i]);
  }
  return term;
}

double* cells_of(const SourceView& source) { return static_cast<double*>(const_cast<void*>(source.cells.data)); }

std::vector<Launch<RateParams>> plan(const std::vector<SourceView>& sources, bool backward, const Setting& setting) {
  std::vector<SourceTerm> terms;
  std::vector<double*> cells;
  for (const SourceView& source : sources) {
    terms.push_back(term_of(source));
    cells.push_back(cells_of(source));
  }
  return plan_rate(terms, cells, backward, setting.threads);
}

template <typename Params>
Summary summary_of(const Launch<Params>& launch, int32_t width, bool whole) {
  const Params& p = launch.params;
  return {launch.blocks,   launch.shared_bytes, launch.threads,  p.rows.size, p.columns.size, p.rows.shift,
          p.columns.shift, p.rows.count,        p.columns.count, width,       whole};
}

Summary summary_of(const Launch<ProjectParams>& launch) {
  const ProjectParams& p = launch.params;
  return summary_of(launch, p.count > 0 ? p.terms[0].access.width : 0, p.whole);
}

Summary summary_of(const Launch<BackwardParams>& launch) { return summary_of(launch, launch.params.width, true); }

void watch(GlobalMemory& global, const TensorView& view, bool output) {
  global.add(view.name, view.allocation, view.allocation_bytes, view.data, view.sizes, view.strides,
             kElementSize[int(view.dtype)], output);
}

void watch(GlobalMemory& global, const Band& band) {
  global.add("band start", band.start, band.rows * 4, band.start, {band.rows}, {1}, 4, false);
  global.add("band weight", band.weight, band.taps * band.rows * 8, band.weight, {band.taps * band.rows}, {1}, 8, false);
}

template <typename Params, typename Body>
void run(const Launch<Params>& launch, GlobalMemory& global, const Setting& setting, Body body) {
  check_limits(launch.blocks, launch.threads, launch.shared_bytes);
  CheckedRun<Params> checked(launch.params, launch.threads, launch.shared_bytes, global, body, Order(setting.order),
                             setting.seed);
  checked.run(launch.blocks);
}

void add_real(std::vector<Real>& real, const Band& band) {
  real.push_back({band.start, band.rows * 4});
  real.push_back({band.weight, band.taps * band.rows * 8});
}

template <typename Params, typename Body>
void run_index(const Launch<Params>& launch, const std::vector<Real>& real, const std::vector<int64_t>& blocks,
               std::vector<Touched>& touched, Body body) {
  for (const int64_t block : blocks) {
    for (int thread = 0; thread < launch.threads; ++thread) {
      IndexContext context(int32_t(block), thread, launch.threads, real, touched);
      body(context, launch.params);
    }
  }
}

}  // namespace

Summary summary_of(const std::vector<Launch<RateParams>>& launches) {
  Summary summary;
  for (const Launch<RateParams>& launch : launches) {
    summary.blocks += launch.blocks;
    summary.shared_bytes = launch.shared_bytes;
    summary.threads = launch.threads;
  }
  return summary;
}

std::vector<PtxBlock> ptx_blocks(int planted) {
  std::vector<PtxBlock> found;
#ifdef BITRATE_EXT_PTX
  ptx::planted = planted;
  for (const ptx::Block& block : ptx::blocks) found.push_back({block.kernel, block.line, block.reached});
#else
  static_cast<void>(planted);
#endif
  return found;
}

Summary run_project(const std::vector<TermView>& terms, const TensorView* guide, const TensorView& map,
                    const Setting& setting) {
  Launch<ProjectParams> launch = plan(terms, map, setting);
  GlobalMemory global;
  if (guide != nullptr) {
    launch.params.set_guide({static_cast<const float*>(guide->data), guide->strides[0], guide->strides[2]});
    watch(global, *guide, false);
  }
  for (const TermView& term : terms) {
    watch(global, term.values, false);
    watch(global, term.rows);
    watch(global, term.columns);
  }
  watch(global, map, true);
  run(launch, global, setting, project_kernel);
  return summary_of(launch);
}

Summary run_backward(const TensorView& grad, const TermView& term, const TensorView& gradient, const Setting& setting) {
  const Launch<BackwardParams> launch = plan(grad, term, gradient, setting);
  GlobalMemory global;
  watch(global, grad, false);
  watch(global, term.values, false);
  watch(global, term.rows);
  watch(global, term.columns);
  watch(global, gradient, true);
  run(launch, global, setting, project_backward_kernel);
  return summary_of(launch);
}

namespace {

void watch(GlobalMemory& global, const SourceView& source, bool backward) {
  for (const TensorView& one : source.inputs) watch(global, one, false);
  for (const TensorView& one : source.gradients) {
    if (one.data != nullptr && one.sizes.size() == 4) watch(global, one, true);
  }
  watch(global, source.cells, !backward);
}

void run_network(const SourceView& source, const Setting& setting) {
  Launch<NetworkParams> launch = plan_network(term_of(source), cells_of(source), setting.threads);
  const bool summed = source.gradients[1].data != nullptr;
  const int64_t count = sum_count(launch);
  std::vector<double> sums(summed ? count : 0);
  const auto watch_sums = [&](GlobalMemory& global, bool output) {
    if (summed) global.add("sums", sums.data(), 8 * count, sums.data(), {count}, {1}, 8, output);
  };
  launch.params.sums = summed ? sums.data() : nullptr;
  GlobalMemory global;
  watch(global, source, true);
  watch_sums(global, true);
  run(launch, global, setting, network_backward_kernel);
  if (!summed) return;
  launch.blocks = adding_blocks(launch);
  launch.shared_bytes = 0;
  GlobalMemory after;
  watch_sums(after, false);
  watch(after, source.gradients[1], true);
  run(launch, after, setting, add_runs_kernel);
}

}  // namespace

Summary run_rate(const std::vector<SourceView>& sources, bool backward, const Setting& setting) {
  const std::vector<Launch<RateParams>> launches = plan(sources, backward, setting);
  for (const Launch<RateParams>& launch : launches) {  // a source belongs to one
    GlobalMemory global;
    for (const SourceView& source : sources) {
      const PlannedSource* planned = launch.params.sources;
      const bool mine = std::any_of(planned, planned + launch.params.count,
                                    [&](const PlannedSource& s) { return s.cells == source.cells.data; });
      if (mine) watch(global, source, backward);
    }
    if (backward) {
      run(launch, global, setting, rate_backward_kernel);
    } else {
      run(launch, global, setting, rate_kernel);
    }
  }
  for (const SourceView& source : sources) {
    if (backward && source.family == Family::Factorized) run_network(source, setting);
  }
  return summary_of(launches);
}

Summary index_rate(const std::vector<SourceView>& sources, bool backward, const Setting& setting,
                   const std::vector<int64_t>& blocks, std::vector<Touched>& touched) {
  const std::vector<Launch<RateParams>> launches = plan(sources, backward, setting);
  for (const Launch<RateParams>& launch : launches) {
    if (backward) {
      run_index(launch, {}, blocks, touched, rate_backward_kernel);
    } else {
      run_index(launch, {}, blocks, touched, rate_kernel);
    }
  }
  return summary_of(launches);
}

Summary index_project(const std::vector<TermView>& terms, const TensorView& map, const Setting& setting,
                      const std::vector<int64_t>& blocks, std::vector<Touched>& touched) {
  const Launch<ProjectParams> launch = plan(terms, map, setting);
  std::vector<Real> real;
  for (const TermView& term : terms) {
    add_real(real, term.rows);
    add_real(real, term.columns);
  }
  run_index(launch, real, blocks, touched, project_kernel);
  return summary_of(launch);
}

Summary index_backward(const TensorView& grad, const TermView& term, const TensorView& gradient, const Setting& setting,
                       const std::vector<int64_t>& blocks, std::vector<Touched>& touched) {
  const Launch<BackwardParams> launch = plan(grad, term, gradient, setting);
  std::vector<Real> real;
  add_real(real, term.rows);
  add_real(real, term.columns);
  run_index(launch, real, blocks, touched, project_backward_kernel);
  return summary_of(launch);
}

}  // namespace bitrate
