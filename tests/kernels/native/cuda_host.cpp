// The host's side of the CUDA path, over a runtime that answers as it is told: csrc/cuda/host.h, and the plans that
// csrc/ops/kept_plans.h keeps. Prints each check that failed, by its name, and how many there were.
#include <cstdio>
#include <cstring>
#include <thread>

#include "cases.h"
#include "ops/kept_plans.h"

// The part of the CUDA runtime that is used, with its numbers.
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorJitCompilerNotFound = 221,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorJitCompilationDisabled = 223,
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
struct cudaFuncAttributes {};
using cudaStream_t = struct Stream*;
struct dim3 {
  explicit dim3(unsigned count) : x(count) {}
  unsigned x, y = 1, z = 1;
};

namespace {

struct {
  cudaError_t next = cudaSuccess, last = cudaSuccess;  // of the call to come, and the record of the last error
  int calls = 0;
  const void* kernel = nullptr;
  unsigned blocks = 0, threads = 0;
  size_t shared = 0;
  void* parameters = nullptr;
  cudaStream_t stream = nullptr;

  cudaError_t answer() {
    ++calls;
    const cudaError_t now = next;
    next = cudaSuccess;
    if (now != cudaSuccess) last = now;
    return now;
  }
} runtime;

cudaError_t cudaGetLastError() {
  const cudaError_t found = runtime.last;
  runtime.last = cudaSuccess;
  return found;
}
[[maybe_unused]] cudaError_t cudaPeekAtLastError() { return runtime.last; }
const char* cudaGetErrorString(cudaError_t error) {
  static char said[32];
  std::snprintf(said, sizeof said, "error %d", int(error));
  return said;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  *value = 100 + device;
  return runtime.answer();
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return runtime.answer(); }
cudaError_t cudaLaunchKernel(const void* kernel, dim3 blocks, dim3 threads, void** arguments, size_t shared,
                             cudaStream_t stream) {
  runtime.kernel = kernel;
  runtime.blocks = blocks.x;
  runtime.threads = threads.x;
  runtime.shared = shared;
  runtime.parameters = arguments[0];
  runtime.stream = stream;
  return runtime.answer();
}

}  // namespace

#include "cuda/host.h"

using namespace bitrate;

namespace {

int checks = 0, wrong = 0;

void expect(bool holds, const char* name) {
  ++checks;
  if (holds) return;
  ++wrong;
  std::printf("wrong (%s)\n", name);
}

// What a call throws; empty where it throws nothing.
template <typename Call>
std::string thrown(const Call& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

const char kernel = 0;
const Launch<BackwardParams> some_launch{{}, 7, 96, 1234};
void* const some_stream = const_cast<char*>(&kernel) + 1;
void launch() { host::start(&kernel, some_launch, some_stream); }

void no_code() {
  for (int code = 1; code < 1000; ++code) {
    const bool means_it = code == 209 || code == 98 || (code >= 221 && code <= 223);
    runtime.next = cudaError_t(code);
    std::string reason, said = thrown([&] { reason = host::no_code_reason(&kernel); });
    const std::string words = "error " + std::to_string(code);
    expect(means_it ? reason == words && said.empty() : said == "the kernels cannot be loaded: " + words, "no code");
    expect(runtime.last == cudaSuccess, "no error is left");
  }
  expect(host::no_code_reason(&kernel).empty(), "no code");
}

void launches() {
  runtime.last = cudaErrorMemoryAllocation;  // of whoever called before
  expect(thrown(launch).empty(), "an error is its call's");
  expect(runtime.kernel == &kernel && runtime.blocks == 7 && runtime.threads == 96 && runtime.shared == 1234 &&
             runtime.parameters == &some_launch.params && static_cast<void*>(runtime.stream) == some_stream,
         "what is launched");
  runtime.next = cudaError_t(719);
  expect(thrown(launch) == "the launch failed: error 719", "an error is told");
  expect(runtime.last == cudaSuccess, "no error is left");
  expect(thrown(launch).empty(), "an error is its call's");
}

void limits() {
  runtime.next = cudaErrorMemoryAllocation;
  expect(!thrown([] { host::device_limits(3); }).empty(), "an error is told");
  expect(runtime.last == cudaSuccess, "no error is left");
  const int before = runtime.calls;
  for (int device : {3, 0, 3, 0}) expect(host::device_limits(device).multiprocessors == 100 + device, "limits");
  expect(runtime.calls == before + 2, "limits are asked for once");
  for (int device : {500, 500}) expect(host::device_limits(device).multiprocessors == 600, "limits");
}

// Tensors and bands of a few shapes, one of them without cells, and all that may change between two calls with them.
struct Calls {
  std::vector<cases::Sample> samples;
  std::vector<std::unique_ptr<cases::Matrix>> rows, columns;
  std::vector<double> room = std::vector<double>(1 << 14);
  Calls() {
    for (const cases::Grid grid : {cases::Grid{1, 9, 3, 8}, {1, 9, 0, 8}, {1, 24, 5, 4}}) {
      samples.push_back(cases::random_sample(DType::Float32, grid, cases::kContiguous, cases::kUniform, 0));
      for (auto* axis : {&rows, &columns}) {
        axis->push_back(std::make_unique<cases::Matrix>(axis == &rows ? 40 : 64, axis == &rows ? grid.h : grid.w, 3));
      }
    }
  }
};

bool same(const Launch<ProjectParams>& a, const Launch<ProjectParams>& b) {
  const ProjectParams &p = a.params, &q = b.params;
  bool equal = a.blocks == b.blocks && a.threads == b.threads && a.shared_bytes == b.shared_bytes && p.map == q.map &&
               p.count == q.count && p.map_is_double == q.map_is_double && p.wide_stores == q.wide_stores &&
               p.whole == q.whole && p.rows.size == q.rows.size && p.columns.size == q.columns.size &&
               p.height == q.height && p.width == q.width;
  for (int32_t k = 0; equal && k < p.count; ++k) {
    const ProjectTerm &s = p.terms[k], &t = q.terms[k];
    equal = s.latent.data == t.latent.data && s.latent.channels == t.latent.channels && s.latent.h == t.latent.h &&
            s.latent.dtype == t.latent.dtype && s.latent.channel_stride == t.latent.channel_stride &&
            s.latent.cell_stride == t.latent.cell_stride && s.rows.start == t.rows.start &&
            s.columns.weight == t.columns.weight && s.access.width == t.access.width &&
            s.access.across_lanes == t.access.across_lanes && s.stage_columns == t.stage_columns;
  }
  return equal;
}

struct Memory {
  std::vector<int64_t> words = std::vector<int64_t>(kKeptBytes / sizeof(int64_t));
  template <typename Plan>
  KeptPlans<Plan>* of() {
    return reinterpret_cast<KeptPlans<Plan>*>(words.data());
  }
};

// One of the calls, by number: its launch from memory must be that of a plan made for it. Returns whether it was kept.
bool called(const Calls& calls, Memory& memory, int64_t number, const char* name) {
  const auto digit = [&number](int64_t base) {
    const int64_t found = number % base;
    number /= base;
    return found;
  };
  const int64_t first = digit(3), offset = digit(2), shift = digit(2), is_double = digit(2), layout = digit(2),
                rows_moved = digit(2);
  LaunchOverrides overrides;
  overrides.threads = digit(2) ? 64 : 0;
  const int64_t fewer = digit(2), height = 39;
  auto* room = reinterpret_cast<unsigned char*>(const_cast<double*>(calls.room.data()));
  room += (64 - reinterpret_cast<uintptr_t>(room) % 64) % 64;
  const Image<void> map{room + 8 * offset + 4096 * shift, bool(is_double), 1, height, 64};
  std::vector<Latent> latents;
  std::vector<PlannedTerm> terms;
  PlanKey key(overrides);
  key.add(map);
  for (int64_t k = 0; k < 3; ++k) {
    const int64_t which = (first + k) % 3;
    Latent latent = calls.samples[which].latent;
    latent.channels -= fewer;
    latent.data = room + 16384 * (k + 1) + 4 * offset + 512 * shift;
    if (layout) {
      latent.channel_stride = 1;
      latent.cell_stride = latent.channels;
      latent.row_stride = latent.w * latent.channels;
    }
    Band rows = calls.rows[which]->band;
    rows.start += rows_moved;  // as with another window: other bands of the same sizes
    rows.rows = height;
    const Band& columns = calls.columns[which]->band;
    latents.push_back(latent);
    key.add(latent);
    for (const void* part : {static_cast<const void*>(rows.start), static_cast<const void*>(columns.weight)})
      key.add_band(part);
    terms.push_back({latent, rows, columns, rows.start, columns.start});
  }
  bool made = false;
  MapPlan plan = kept_plan(memory.of<MapPlan>(), key, [&] {
    made = true;
    return plan_map(terms, map, {132}, overrides);
  });
  const MapPlan fresh = plan_map(terms, map, {132}, overrides);
  expect(same(plan.over(latents, {}, map), fresh.launch), name);
  return !made;
}

void kept_plans() {
  const Calls calls;
  Memory memory;
  int kept = 0;
  for (int round = 0; round < 4000; ++round) called(calls, memory, cases::pick(0, 383), "kept plans");
  for (int round = 0; round < 400; ++round) {  // a few calls in turn; addresses change, alignment does not
    const int64_t turn = round % 3;
    kept += called(calls, memory, turn + 6 * (round / 3 % 2), "kept plans");
  }
  expect(kept == 397, "plans are kept");
  Memory none;
  kept = 0;
  for (int64_t turn : {0, 0, 1, 0, 12, 24, 48, 96, 192}) kept += called(calls, none, turn, "kept plans");
  expect(kept == 2, "plans are kept");
}

void gradient_plans() {
  const Calls calls;
  Memory memory;
  std::vector<char> room(1 << 12);
  for (int round = 0; round < 64; ++round) {
    Latent latent = calls.samples[2].latent;
    latent.data = room.data() + 64 * (round % 5);
    const Image<const void> grad{room.data() + 128 * (round % 3), round % 4 == 0, 1, 40, 64};
    const cases::Matrix &rows = *calls.rows[2], &columns = *calls.columns[2];
    GradientTerm term{latent,
                      room.data() + 64 * (round % 7) + 4 * (round % 2),
                      latent.batch_stride,
                      latent.channel_stride,
                      latent.row_stride,
                      latent.cell_stride,
                      rows.band,
                      columns.band};
    term.rows.rows = latent.h;
    term.columns.rows = latent.w;
    PlanKey key{LaunchOverrides()};
    key.add(grad);
    key.add(latent);
    key.add_layout(term.gradient, {term.batch_stride, term.channel_stride, term.row_stride, term.cell_stride});
    const auto make = [&] {
      return GradientPlan{plan_backward({term, rows.start.data(), columns.start.data()}, grad, {132})};
    };
    GradientPlan plan = kept_plan(memory.of<GradientPlan>(), key, make);
    const BackwardParams found = plan.over(latent, grad, term.gradient).params, fresh = make().launch.params;
    expect(found.term.latent.data == latent.data && found.term.gradient == term.gradient && found.grad.data == grad.data &&
               found.grad.is_double == grad.is_double && found.width == fresh.width && found.rows.size == fresh.rows.size &&
               found.chunk == fresh.chunk,
           "gradient plans");
  }
}

// From several threads, with more shapes than are kept.
void threads() {
  const Calls calls;
  Memory memory;
  std::vector<std::thread> workers;
  std::atomic<int> differing{0}, ready{0};
  for (int worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&, worker] {
      for (++ready; ready < 4;) std::this_thread::yield();
      for (int round = 0; round < 2000; ++round) {
        PlanKey key{LaunchOverrides()};
        const int64_t number = (round * 7 + worker) % 9;
        key.add({number});
        const MapPlan plan = kept_plan(memory.of<MapPlan>(), key, [&] {
          MapPlan made{};
          made.launch.blocks = made.launch.params.height = made.latent[kMaxTerms - 1] = int32_t(number);
          return made;
        });
        differing +=
            plan.launch.blocks != number || plan.launch.params.height != number || plan.latent[kMaxTerms - 1] != number;
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  expect(differing == 0, "threads");
}

}  // namespace

int main() {
  no_code();
  launches();
  limits();
  kept_plans();
  gradient_plans();
  threads();
  std::printf("%d checks, %d wrong\n", checks, wrong);
  return wrong == 0 ? 0 : 1;
}
