// The loops for x86-64 processors with AVX-512.
#if defined(__x86_64__)

// The standard headers come first: their functions must stay fit for every processor.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define BITRATE_AVX2
#define BITRATE_AVX512
// g++ 12 warns of its own header's deliberately undefined values.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,prefer-vector-width=512")

#include "loops.h"

namespace bitrate {
const Kernels avx512_kernels = make_kernels("avx512");
}  // namespace bitrate

#endif
