#include "../core/project.h"
#include "../core/project_backward.h"
#include "context.h"

namespace bitrate {
__global__ void __launch_bounds__(256, 2) project_kernel(const __grid_constant__ ProjectParams params) {
  CudaContext ctx;
  project(ctx, params);
}
__global__ void __launch_bounds__(256, 3) project_backward_kernel(const __grid_constant__ BackwardParams params) {
  CudaContext ctx;
  project_backward(ctx, params);
}
}  // namespace bitrate
