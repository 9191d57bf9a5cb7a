// Plans of earlier calls: a call like one of them is not planned again, which would cost more than all the rest of it.
//
// They lie in a CPU tensor that Python keeps beside the bands and that lasts as long as those. Free of torch.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <mutex>

#include "../core/plan.h"

namespace bitrate {

// What a plan depends on, in numbers. Bands count by their addresses, as they stay where they are; tensors, which do not,
// by how they are aligned.
class PlanKey {
 public:
  explicit PlanKey(const LaunchOverrides& o) { add({o.threads, o.tile_rows, o.tile_columns, o.width}); }

  void add(std::initializer_list<int64_t> words) {
    for (const int64_t word : words) {
      if (count_ < kMost) words_[count_] = word;
      ++count_;
    }
  }

  void add(const Latent& l) {
    add({int64_t(l.dtype), int64_t(l.source), l.batch, l.channels, l.h, l.w});
    add_layout(l.data, {l.batch_stride, l.channel_stride, l.row_stride, l.cell_stride});
  }

  template <typename Data>
  void add(const Image<Data>& i) {
    add({i.is_double, i.batch, i.height, i.width});
    add_layout(i.data, {});
  }

  void add_layout(const void* data, std::initializer_list<int64_t> strides) {
    add({int64_t(reinterpret_cast<uintptr_t>(data) % kWidestAccess)});
    add(strides);
  }

  void add_band(const void* data) { add({int64_t(reinterpret_cast<uintptr_t>(data))}); }

  bool fits() const { return count_ <= kMost; }

  bool operator==(const PlanKey& other) const {
    return count_ == other.count_ && std::memcmp(words_, other.words_, size_t(count_) * sizeof(int64_t)) == 0;
  }

 private:
  static constexpr int64_t kMost = 16 + 17 * kMaxTerms;
  static constexpr uintptr_t kWidestAccess = 16;  // bytes
  int64_t count_ = 0, words_[kMost];
};

// The last few plans of some bands. Zeros, as which it begins, hold none: no key is without words.
template <typename Plan>
struct KeptPlans {
  static constexpr int64_t kSlots = 4;
  struct Slot {
    PlanKey key;
    Plan plan;
  } slots[kSlots];
  int64_t next;
};

inline std::mutex kept_plans_mutex;  // for all bands: it is held while keys are compared and one plan is copied

// Returns the plan of that key, made now if `kept`, which may be null, does not hold it. From any thread.
template <typename Plan, typename Make>
Plan kept_plan(KeptPlans<Plan>* kept, const PlanKey& key, const Make& make) {
  if (kept == nullptr || !key.fits()) return make();
  {
    const std::lock_guard<std::mutex> lock(kept_plans_mutex);
    const auto* slot = std::find_if(kept->slots, kept->slots + kept->kSlots, [&](const auto& s) { return s.key == key; });
    if (slot != kept->slots + kept->kSlots) return slot->plan;
  }
  const Plan plan = make();
  const std::lock_guard<std::mutex> lock(kept_plans_mutex);
  auto& slot = kept->slots[kept->next++ % kept->kSlots];
  slot.key = key;
  slot.plan = plan;
  return plan;
}

// A launch for a map, and which latent each of its terms is: those without cells are none.
struct MapPlan {
  Launch<ProjectParams> launch;
  int32_t latent[kMaxTerms];

  // Returns the launch for tensors like those that it was planned for.
  const Launch<ProjectParams>& over(const std::vector<Latent>& latents, const Guide& guide, const Image<void>& map) {
    launch.params.map = map.data;
    launch.params.set_guide(guide);
    for (int32_t k = 0; k < launch.params.count; ++k) launch.params.terms[k].latent.data = latents[latent[k]].data;
    return launch;
  }
};

inline MapPlan plan_map(const std::vector<PlannedTerm>& terms, const Image<void>& map, DeviceLimits device,
                        LaunchOverrides overrides) {
  MapPlan plan{plan_project(terms, map, device, overrides), {}};
  int32_t planned = 0;
  for (size_t k = 0; k < terms.size(); ++k) {
    if (terms[k].has_cells()) plan.latent[planned++] = int32_t(k);
  }
  return plan;
}

// The same for a gradient.
struct GradientPlan {
  Launch<BackwardParams> launch;

  const Launch<BackwardParams>& over(const Latent& latent, const Image<const void>& grad, void* gradient) {
    launch.params.grad.data = grad.data;
    launch.params.term.latent.data = latent.data;
    launch.params.term.gradient = gradient;
    return launch;
  }
};

constexpr int64_t kKeptBytes = std::max(sizeof(KeptPlans<MapPlan>), sizeof(KeptPlans<GradientPlan>));

}  // namespace bitrate
