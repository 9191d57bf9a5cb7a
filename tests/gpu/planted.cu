// Faults on purpose, one a tool of compute-sanitizer: what a tool does not find here it cannot be trusted to find elsewhere.
// Usage: planted memcheck | racecheck | initcheck | synccheck | none
#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 64;

// Writes one element past the end.
__global__ void out_of_bounds(int* out, int count) {
  if (int(threadIdx.x) <= count) out[threadIdx.x] = int(threadIdx.x);
}

// Reads what a thread of the other warp writes, with no barrier in between.
__global__ void shared_memory_race(int* out) {
  __shared__ int box[kThreads];
  box[threadIdx.x] = int(threadIdx.x);
  out[threadIdx.x] = box[(threadIdx.x + kThreads / 2) % kThreads];
}

// Reads memory that nobody wrote.
__global__ void uninitialised_read(int* out, const int* nothing) { out[threadIdx.x] = nothing[threadIdx.x] + 1; }

// In the last round half of a warp meets the barrier, the others pass it by.
__global__ void divergent_barrier(int* out, int count) {
  __shared__ int box[kThreads];
  box[threadIdx.x] = 0;
  __syncthreads();
  for (int first = 0; first < count; first += kThreads) {
    if (first + int(threadIdx.x) < count) {
      box[threadIdx.x] += first;
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) {
    for (int thread = 0; thread < kThreads; ++thread) out[0] = box[thread];
  }
}

// Nothing is wrong with this one.
__global__ void no_fault(int* out) {
  __shared__ int box[kThreads];
  box[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = box[(threadIdx.x + kThreads / 2) % kThreads];
}

}  // namespace

int main(int argc, char** argv) {
  const char* fault = argc == 2 ? argv[1] : "";
  int *out = nullptr, *nothing = nullptr;
  if (cudaMalloc(&out, kThreads * sizeof(int)) != cudaSuccess ||
      cudaMalloc(&nothing, kThreads * sizeof(int)) != cudaSuccess) {
    std::fprintf(stderr, "no memory on the GPU: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 3;
  }
  if (std::strcmp(fault, "memcheck") == 0) {
    out_of_bounds<<<1, 2 * kThreads>>>(out, kThreads);
  } else if (std::strcmp(fault, "racecheck") == 0) {
    shared_memory_race<<<1, kThreads>>>(out);
  } else if (std::strcmp(fault, "initcheck") == 0) {
    uninitialised_read<<<1, kThreads>>>(out, nothing);
  } else if (std::strcmp(fault, "synccheck") == 0) {
    divergent_barrier<<<1, kThreads>>>(out, 4 * kThreads - 16);
  } else if (std::strcmp(fault, "none") == 0) {
    no_fault<<<1, kThreads>>>(out);
  } else {
    std::fprintf(stderr, "no fault of the name \"%s\"\n", fault);
    return 2;
  }
  if (cudaGetLastError() != cudaSuccess) return 4;
  cudaDeviceSynchronize();  // an error is the tool's to report
  std::printf("planted: %s\n", fault);
  return 0;
}
