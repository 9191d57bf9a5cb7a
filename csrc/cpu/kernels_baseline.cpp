// The loops for every processor the compiler targets by default.
#include "loops.h"

namespace bitrate {
const Kernels baseline_kernels = make_kernels("baseline");
}  // namespace bitrate
