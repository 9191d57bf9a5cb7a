// The loops for x86-64 processors with AVX2 and FMA.
#if defined(__x86_64__)

// The standard headers come first: their functions must stay fit for every processor.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define BITRATE_AVX2
#pragma GCC target("avx2,fma,f16c")

#include "loops.h"

namespace bitrate {
const Kernels avx2_kernels = make_kernels("avx2");
}  // namespace bitrate

#endif
