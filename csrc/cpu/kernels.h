// The vectorised inner loops, compiled once for each instruction set; every set gives the same bytes.
#pragma once

#include "../core/sources.h"

namespace bitrate {

// Cells a loop works on at once: their running products stay in the first-level cache.
constexpr int64_t kCellBlock = 1024;
// Pixels of a row a loop works on at once: a few rows of them in float64 stay near the core, and a run of stores is long.
constexpr int64_t kPixelBlock = 2048;

// Cells of a source that a loop works on at once: their mantissas stay in the first-level cache, too.
constexpr int64_t kSourceBlock = kLongestRun;

// Cells of a source that follow each other in each of its tensors.
struct SourceRun {
  int64_t image, row, column, count;
};

// The likelihoods of whole numbers, and of what lies between them as a channel's values do: of channel c and number k is
// entry c * kSymbols + k + kSymbols / 2.
constexpr int32_t kSymbols = 256;

struct SymbolTable {
  float *origin, *mantissa;
  int32_t* exponent;
};

// Elements between neighbouring cells and neighbouring channels.
struct CellStrides {
  int64_t cell, channel;
};

struct Kernels {
  const char* name;

  // bits[j] of `count` cells (any number); see core/bits.h.
  void (*cell_bits[kSources][kDTypes])(const void* data, int64_t count, int64_t channels, CellStrides strides, double* bits);

  // sums[x] = sum over taps t of weight[t * pitch + x] * values[start[x] + t], for x in [0, count). True if all sums are
  // regular: zero or more, and finite.
  bool (*apply_columns)(const int32_t* start, const double* weight, int64_t pitch, int64_t taps, const double* values,
                        int64_t count, double* sums);

  // sums[x] (+)= sum over k of weights[k] * rows[k][x]; no weight is zero.
  void (*add_rows)(const double* const* rows, const double* weights, int64_t taps, int64_t count, double* sums);
  void (*add_float_rows)(const float* const* rows, const double* weights, int64_t taps, int64_t count, double* sums);

  // The same from a sum of zero, times `guide` unless that is null, rounded to the map; `streaming` stores pass the caches
  // by. Where weights and rows are `regular`, no sum can be NaN or -0.
  void (*write_rows)(const double* const* rows, const double* weights, int64_t taps, int64_t count, bool regular,
                     bool streaming, const float* guide, float* map);

  // One bit pattern for NaN and none for -0, in place.
  void (*canonicalise)(double* values, int64_t count);

  // gradient[j, c] = shared[j] / likelihood[j, c], or shared[j] for bits, rounded to their type, for `count` cells.
  void (*gradient[kSources][kDTypes])(const double* shared, const void* data, int64_t count, int64_t channels,
                                      CellStrides strides, CellStrides gradient_strides, bool streaming, void* gradient);

  // bits[j] of a run's cells; see core/sources.h. A factorised prior may have a table of its symbols.
  void (*source_bits[kFamilies])(const SourceTerm& term, const SourceRun& run, const SymbolTable* table, double* bits);
  void (*fill_table)(const SourceTerm& term, int64_t channel, SymbolTable& table);

  // The gradients of all that a source holds; those of a factorised prior's parameters are summed over the run, float64
  // [channels, kWeights].
  void (*source_gradient[kFamilies])(const SourceTerm& term, const SourceRun& run, const double* shared, double* sums);

  // Orders streaming stores before what follows; call once after the last of a task.
  void (*fence)();
};

extern const Kernels baseline_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#endif

}  // namespace bitrate
