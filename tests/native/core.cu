// The torch-free headers as a device compiler sees them: each formula, for each likelihood type. Compiled, not run.
#include "../../csrc/core/bands.h"
#include "../../csrc/core/bits.h"

using namespace bitrate;

template <typename T>
__global__ void core(const T* likelihoods, int64_t channels, int64_t stride, const double* weight, double* bits, float* map,
                     T* gradient) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  bits[i] = cell_bits(likelihoods + i, channels, stride);
  map[i] = Rounded<float>::from(tap<Arithmetic<double>>(0.0, weight[i], bits[i]));
  gradient[i] = Rounded<T>::from(shared_gradient(weight[i]) / to_double(likelihoods[i]));
}

#define BITRATE_CORE(T) template __global__ void core<T>(const T*, int64_t, int64_t, const double*, double*, float*, T*)
BITRATE_CORE(double);
BITRATE_CORE(float);
BITRATE_CORE(Half);
BITRATE_CORE(BFloat16);
