// The GPU kernels' bodies on real threads, a std::thread for each of a block, under the thread sanitizer: what the fibers of
// the executor order by hand, memory orders here. Every launch runs with few and with many threads and must give the same
// bytes. Prints the number of launches; built and run by test_sanitizers.py. With the argument "race" one thread passes
// barriers without waiting for the work before them, which the sanitizer must report.
#include <pthread.h>

#include <thread>

#include "cases.h"
#include "core/guide_tile.h"
#include "core/project.h"
#include "core/project_backward.h"

using namespace bitrate;

namespace {

struct Block {
  int32_t index, threads;
  char* shared;
  pthread_barrier_t barrier;
  bool race;
};

class ThreadContext {
 public:
  ThreadContext(Block& block, int32_t thread) : block_(block), thread_(thread) {}
  int32_t block() const { return block_.index; }
  int32_t thread() const { return thread_; }
  int32_t threads() const { return block_.threads; }
  void barrier() {
    if (!block_.race) pthread_barrier_wait(&block_.barrier);
  }

  template <int kWidth, typename T>
  Pack<T, kWidth> load(const T* base, int64_t index) {
    return *reinterpret_cast<const Pack<T, kWidth>*>(base + index);
  }
  template <typename T, int kWidth>
  void store(T* base, int64_t index, const Pack<T, kWidth>& pack) {
    *reinterpret_cast<Pack<T, kWidth>*>(base + index) = pack;
  }
  template <int kWidth, typename T>
  Pack<T, kWidth> get(Shared<T> array, int32_t index) {
    return *reinterpret_cast<Pack<T, kWidth>*>(block_.shared + array.first + index * int32_t(sizeof(T)));
  }
  template <typename T, int kWidth>
  void put(Shared<T> array, int32_t index, const Pack<T, kWidth>& pack) {
    *reinterpret_cast<Pack<T, kWidth>*>(block_.shared + array.first + index * int32_t(sizeof(T))) = pack;
  }

 private:
  Block& block_;
  int32_t thread_;
};

template <typename Params, typename Body>
void run(const Launch<Params>& launch, bool race, const Body& body) {
  struct alignas(16) Line {
    char bytes[16];
  };
  std::vector<Line> shared(launch.shared_bytes / 16 + 1);
  for (int64_t index = 0; index < launch.blocks; ++index) {
    Block block{int32_t(index), launch.threads, shared[0].bytes, {}, race};
    pthread_barrier_init(&block.barrier, nullptr, unsigned(launch.threads));
    std::vector<std::thread> threads;
    for (int32_t thread = 0; thread < launch.threads; ++thread) {
      threads.emplace_back([&block, &launch, &body, thread] {
        ThreadContext context(block, thread);
        body(context, launch.params);
      });
    }
    for (std::thread& thread : threads) thread.join();
    pthread_barrier_destroy(&block.barrier);
  }
}

cases::Sample small_sample(DType dtype) {
  const Source source = cases::pick(0, 3) == 0 ? Source::Bits : Source::Likelihoods;
  const int64_t channels = source == Source::Bits ? 1 : cases::pick(1, 40);
  const cases::Grid grid{cases::pick(1, 2), channels, cases::pick(1, 5), cases::pick(1, 9)};
  return cases::random_sample(dtype, grid, int(cases::pick(0, 3)), int(cases::pick(0, cases::kKinds - 1)), 1, source);
}

bool forward(DType dtype, bool race) {
  const cases::Sample sample = small_sample(dtype);
  const int64_t height = cases::pick(1, 20), width = cases::pick(1, 70);
  const cases::Matrix rows(height, sample.latent.h, 4), columns(width, sample.latent.w, 4);
  std::vector<float> maps[2];
  for (int many = 0; many < 2; ++many) {
    maps[many].resize(sample.latent.batch * height * width, -1.0f);
    const Image<void> map{maps[many].data(), false, sample.latent.batch, height, width};
    LaunchOverrides overrides;
    overrides.threads = many ? 24 : 5;
    run(plan_project({{sample.latent, rows.band, columns.band, rows.band.start, columns.band.start}}, map, {4}, overrides),
        race, [](auto& context, const ProjectParams& params) { project_tile(context, params); });
  }
  return std::memcmp(maps[0].data(), maps[1].data(), maps[0].size() * sizeof(float)) == 0;
}

bool backward(DType dtype, bool race) {
  const cases::Sample sample = small_sample(dtype);
  const Latent& latent = sample.latent;
  const int64_t height = cases::pick(1, 20), width = cases::pick(1, 70);
  const cases::Matrix rows(latent.h, height, 6), columns(latent.w, width, 6);
  std::vector<float> grad(latent.batch * height * width);
  for (float& value : grad) value = float(cases::unit()) - 0.5f;
  std::vector<double> gradients[2];  // of the likelihoods' type; room for the widest
  for (int many = 0; many < 2; ++many) {
    gradients[many].assign(latent.batch * latent.channels * latent.h * latent.w, 0.0);
    const int64_t cells = latent.h * latent.w;
    const GradientTerm term{latent,      gradients[many].data(), latent.channels * cells, cells, latent.w, 1, rows.band,
                            columns.band};
    LaunchOverrides overrides;
    overrides.threads = many ? 24 : 5;
    run(plan_backward({term, rows.band.start, columns.band.start}, {grad.data(), false, latent.batch, height, width}, {4},
                      overrides),
        race, [](auto& context, const BackwardParams& params) { project_tile_backward(context, params); });
  }
  return std::memcmp(gradients[0].data(), gradients[1].data(), gradients[0].size() * sizeof(double)) == 0;
}

bool guide(DType dtype, bool race) {
  const cases::Grid grid{1, 3, cases::pick(1, 20), cases::pick(1, 70)};
  const cases::Sample sample = cases::random_sample(dtype, grid, int(cases::pick(0, 3)), cases::kUniform, 1);
  const Latent& l = sample.latent;
  const float phases[] = {0.0f, 0.5f, -0.5f};
  std::vector<float> guides[2];
  for (int many = 0; many < 2; ++many) {
    guides[many].resize(grid.h * grid.w, -1.0f);
    const Picture picture{l.data,       dtype,        1, 3, grid.h, grid.w, l.batch_stride, l.channel_stride,
                          l.row_stride, l.cell_stride};
    run(plan_guide(picture, guide_weights({0.5, -0.5, 1.0, 1.0}, 3), phases, 1, 3, guides[many].data(), many ? 24 : 5), race,
        [](auto& context, const GuideParams& params) { make_guide_tile(context, params); });
  }
  return std::memcmp(guides[0].data(), guides[1].data(), guides[0].size() * sizeof(float)) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool race = argc > 1 && std::string(argv[1]) == "race";
  int launches = 0, wrong = 0;
  for (int i = 0; i < 60; ++i) {
    wrong += !forward(DType(i % kDTypes), race);
    wrong += !backward(DType(i % kDTypes), race);
    wrong += !guide(DType(i % kDTypes), race);
    launches += 6;
  }
  std::printf("%d launches, %d wrong\n", launches, wrong);
  return wrong == 0 ? 0 : 1;
}
