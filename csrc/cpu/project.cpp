// Two sweeps over a slab, a piece of the work whose cells fit in a small float64 buffer: latents to bits of each cell, then
// bits to pixels. Backward: pixels to the gradient of each cell, then cells to likelihoods. Within a sweep every
// output is computed by one task in a fixed order, so neither slabs nor threads change a byte.
#include "project.h"

#include <algorithm>
#include <memory>

namespace bitrate {
namespace {

// Cells of a slab (1 MiB of float64); an image row of cells is never split.
constexpr int64_t kSlabCells = int64_t(1) << 17;
// Cells that threads share out, a whole number of cache lines of float32 where rows are dense.
constexpr int64_t kSharedCells = 64;
// Smallest task worth a thread, in elements touched.
constexpr int64_t kGrain = 1 << 15;
// Outputs larger than this are written past the caches.
constexpr int64_t kStreamingBytes = int64_t(4) << 20;

// Under a guide, pixel rows whose blocks of columns are made one after the other: few enough for the addresses of their
// pages to be kept; and how many rows before it is read a row of the guide is asked for.
constexpr int64_t kStripRows = 256, kGuideAhead = 2;

// Pixels of an image row summed at a time: as many as let all float64 rows that are read stay in a first cache of 32 KiB.
int64_t pixel_block(int64_t taps) {
  constexpr int64_t kBytes = int64_t(32) << 10, kLeast = 256;
  const int64_t fitting = kBytes / int64_t(sizeof(double)) / std::max<int64_t>(1, taps) / kLeast * kLeast;
  return std::clamp(fitting, kLeast, kPixelBlock);
}

// Cells between the first and the last that some rows of a band read, in whatever order its starts are.
Range cells_read(const Band& band, Range rows) {
  if (rows.size() <= 0 || band.taps == 0) return {0, 0};
  const auto [low, high] = std::minmax_element(band.start + rows.begin, band.start + rows.end);
  return {*low, *high + band.taps};
}

// A run of cells adjacent at cell_stride: rows of a latent follow each other in memory where its grid is dense.
struct Run {
  int64_t image, first_cell, count;  // cells counted from the slab's first row
};

// Cuts rows x w cells of each image into runs of at most `longest` cells.
std::vector<Run> cut_runs(const Latent& latent, Range images, Range rows, int64_t longest) {
  std::vector<Run> runs;
  const int64_t cells = rows.size() * latent.w;
  const bool dense = latent.row_stride == latent.w * latent.cell_stride || rows.size() <= 1;
  const int64_t line = dense ? cells : latent.w;
  for (int64_t image = images.begin; image < images.end && cells > 0; ++image) {
    for (int64_t first = 0; first < cells; first += line) {
      for (int64_t part = 0; part < line; part += longest) {
        runs.push_back({image, first + part, std::min(longest, line - part)});
      }
    }
  }
  return runs;
}

// Element offset of a run's first cell.
template <typename Strides>
int64_t run_offset(const Strides& s, int64_t w, const Run& run, int64_t first_row) {
  return run.image * s.batch_stride + (first_row + run.first_cell / w) * s.row_stride + run.first_cell % w * s.cell_stride;
}

const char* at(const void* data, int64_t bytes) { return static_cast<const char*>(data) + bytes; }
char* at(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

int64_t task_grain(int64_t elements_per_task) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task));
}

// The bits of one slab: for each term a buffer [images, cell rows, w], or the latent's own memory where it holds them.
struct SlabTerm {
  const Term* term;
  Range cell_rows;
  const double* bits;
  int64_t image_stride, row_stride;
  double* buffer;  // null: there is nothing to sum
};

bool holds_bits(const Latent& latent) {
  return latent.source == Source::Bits && latent.dtype == DType::Float64 && (latent.cell_stride == 1 || latent.w <= 1);
}

void sweep_cells(const std::vector<SlabTerm>& slab, Range images, const Kernels& kernels, const ParallelFor& parallel) {
  for (const SlabTerm& part : slab) {
    if (part.buffer == nullptr) continue;
    const Latent& latent = part.term->latent;
    const int64_t cells = part.cell_rows.size() * latent.w;
    const std::vector<Run> runs = cut_runs(latent, images, part.cell_rows, kSharedCells);
    const auto offset_of = [&](int64_t i) { return run_offset(latent, latent.w, runs[i], part.cell_rows.begin); };
    parallel(int64_t(runs.size()), task_grain(kSharedCells * latent.channels), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        Run run = runs[i];
        const int64_t offset = offset_of(i);
        // What a thread has is read in long runs, for memory is fast where each channel's stream is long.
        while (++i < end && runs[i].image == run.image && run.count + runs[i].count <= kCellBlock &&
               offset_of(i) == offset + run.count * latent.cell_stride) {
          run.count += runs[i].count;
        }
        kernels.cell_bits[int(latent.source)][int(latent.dtype)](
            at(latent.data, offset * kElementSize[int(latent.dtype)]), run.count, latent.channels,
            {latent.cell_stride, latent.channel_stride}, part.buffer + (run.image - images.begin) * cells + run.first_cell);
      }
    });
  }
}

// Cell rows of one term spread over a block of pixel columns, kept while pixel rows still read them.
class SpreadRows {
 public:
  SpreadRows(const SlabTerm& part, int64_t width)
      : part_(part),
        pitch_(divide_up(width, kLine) * kLine),
        slots_(part.term->rows.taps),
        owner_(part.term->rows.taps, -1),
        regular_(part.term->rows.taps),
        memory_(part.term->rows.taps * pitch_ + kLine),
        rows_(memory_.data() + (kLine - address(memory_.data()) / sizeof(double) % kLine) % kLine) {}

  void select(const double* bits, int64_t first_column, int64_t count) {
    bits_ = bits;
    first_column_ = first_column;
    count_ = count;
    start_ = -1;
    std::fill(owner_.begin(), owner_.end(), -1);
  }

  // The non-zero taps of a pixel row, appended to `rows` and `weights`; false if one is not regular.
  bool collect(int64_t pixel_row, const Kernels& kernels, std::vector<const double*>& rows, std::vector<double>& weights) {
    const Band& band = part_.term->rows;
    if (band.start[pixel_row] != start_) {
      start_ = band.start[pixel_row];
      for (int64_t t = 0; t < band.taps; ++t) slots_[t] = spread_row(start_ + t, kernels);
    }
    bool regular = true;
    for (int64_t t = 0; t < band.taps; ++t) {
      const double weight = band.weight[t * band.rows + pixel_row];
      if (weight == 0.0) continue;
      regular = regular && regular_[slots_[t]] && weight > 0.0;
      rows.push_back(rows_ + slots_[t] * pitch_);
      weights.push_back(weight);
    }
    return regular;
  }

 private:
  int64_t spread_row(int64_t cell_row, const Kernels& kernels) {
    const int64_t slot = cell_row % part_.term->rows.taps;
    double* spread = rows_ + slot * pitch_;
    if (owner_[slot] != cell_row) {
      owner_[slot] = cell_row;
      const Band& band = part_.term->columns;
      regular_[slot] = kernels.apply_columns(band.start + first_column_, band.weight + first_column_, band.rows, band.taps,
                                             bits_ + (cell_row - part_.cell_rows.begin) * part_.row_stride, count_, spread);
    }
    return slot;
  }

  static constexpr int64_t kLine = 8;  // float64 of a cache line; rows begin with one
  static uintptr_t address(const void* data) { return reinterpret_cast<uintptr_t>(data); }

  const SlabTerm& part_;
  int64_t pitch_, first_column_ = 0, count_ = 0;
  int64_t start_ = -1;          // the first cell row that the last pixel row read
  std::vector<int64_t> slots_;  // of the cell rows from there on
  const double* bits_ = nullptr;
  std::vector<int64_t> owner_;  // the cell row in each slot
  std::vector<char> regular_;
  std::vector<double> memory_;
  double* rows_;  // in `memory_`
};

void sweep_pixels(const std::vector<SlabTerm>& slab, Range images, Range pixel_rows, const Guide& guide,
                  const Image<void>& map, const Kernels& kernels, const ParallelFor& parallel) {
  const bool streaming = map.batch * map.height * map.width * int64_t(sizeof(float)) > kStreamingBytes;
  parallel(images.size() * pixel_rows.size(), task_grain(map.width), [&](int64_t begin, int64_t end) {
    int64_t taps = 0;
    for (const SlabTerm& part : slab) taps += part.term->rows.taps;
    const int64_t block = std::min(pixel_block(taps), map.width);
    const int64_t strip = guide.data != nullptr ? kStripRows : pixel_rows.size();
    std::vector<SpreadRows> spread;
    spread.reserve(slab.size());
    for (const SlabTerm& part : slab) spread.emplace_back(part, block);
    std::vector<const double*> rows;
    std::vector<double> weights;
    while (begin < end) {
      const int64_t image = begin / pixel_rows.size();
      const int64_t top = begin - image * pixel_rows.size();
      const Range part{top, std::min({top + end - begin, top + strip, pixel_rows.size()})};
      for (int64_t column = 0; column < map.width; column += block) {
        const int64_t count = std::min(block, map.width - column);
        for (size_t k = 0; k < slab.size(); ++k) {
          spread[k].select(slab[k].bits + image * slab[k].image_stride, column, count);
        }
        for (int64_t y = pixel_rows.begin + part.begin; y < pixel_rows.begin + part.end; ++y) {
          rows.clear();
          weights.clear();
          bool regular = true;
          for (SpreadRows& term : spread) regular = term.collect(y, kernels, rows, weights) && regular;
          const int64_t offset = ((images.begin + image) * map.height + y) * map.width + column;
          if (map.is_double) {
            double* out = static_cast<double*>(map.data) + offset;
            std::fill(out, out + count, 0.0);
            kernels.add_rows(rows.data(), weights.data(), int64_t(rows.size()), count, out);
            kernels.canonicalise(out, count);
          } else {
            const float* guides = guide.data;
            if (guides != nullptr) guides += (images.begin + image) * guide.batch_stride + y * guide.row_stride + column;
            if (guides != nullptr && y + kGuideAhead < map.height) {
              for (int64_t x = 0; x < count; x += 16) {  // of a cache line
                __builtin_prefetch(guides + kGuideAhead * guide.row_stride + x, 0, 2);
              }
            }
            kernels.write_rows(rows.data(), weights.data(), int64_t(rows.size()), count, regular, streaming, guides,
                               static_cast<float*>(map.data) + offset);
          }
        }
      }
      begin += part.size();
    }
    if (streaming) kernels.fence();
  });
}

}  // namespace

void project(const std::vector<Term>& terms, const Guide& guide, const Image<void>& map, const Kernels& kernels,
             const ParallelFor& parallel) {
  if (map.batch == 0 || map.height == 0 || map.width == 0) return;
  int64_t cells = 0;  // of one image, in the buffer
  for (const Term& term : terms) cells += holds_bits(term.latent) ? 0 : term.latent.h * term.latent.w;
  const int64_t images_at_once = std::max<int64_t>(1, kSlabCells / std::max<int64_t>(1, cells));
  const int64_t strips = std::min(map.height, divide_up(std::max<int64_t>(1, cells), kSlabCells));
  const int64_t strip_rows = divide_up(map.height, strips);
  std::unique_ptr<double[]> buffer;
  int64_t buffer_size = 0;
  for (int64_t first = 0; first < map.batch; first += images_at_once) {
    const Range images{first, std::min(first + images_at_once, map.batch)};
    for (int64_t top = 0; top < map.height; top += strip_rows) {
      const Range pixel_rows{top, std::min(top + strip_rows, map.height)};
      std::vector<SlabTerm> slab;
      int64_t size = 0;
      for (const Term& term : terms) {
        const Latent& latent = term.latent;
        const Range rows = cells_read(term.rows, pixel_rows);
        if (holds_bits(latent)) {
          const double* own = static_cast<const double*>(latent.data);
          slab.push_back({&term, rows, own + images.begin * latent.batch_stride + rows.begin * latent.row_stride,
                          latent.batch_stride, latent.row_stride, nullptr});
        } else {
          slab.push_back({&term, rows, nullptr, rows.size() * latent.w, latent.w, nullptr});
          size += images.size() * slab.back().image_stride;
        }
      }
      if (size > buffer_size) {
        buffer.reset(new double[size]);
        buffer_size = size;
      }
      double* bits = buffer.get();
      for (SlabTerm& part : slab) {
        if (holds_bits(part.term->latent)) continue;
        part.bits = part.buffer = bits;
        bits += images.size() * part.image_stride;
      }
      sweep_cells(slab, images, kernels, parallel);
      sweep_pixels(slab, images, pixel_rows, guide, map, kernels, parallel);
    }
  }
}

namespace {

// shared[image, cell row, cell]: see `shared_gradient`; of rows * grad * columns^T, for a slab of cell rows.
void sweep_gradient(const GradientTerm& term, const Image<const void>& grad, Range images, Range cell_rows, double* shared,
                    const Kernels& kernels, const ParallelFor& parallel) {
  const Band& band = term.rows;
  const auto sum_pixel_rows = [&](auto typed, auto add, int64_t image, int64_t cell_row, double* sums) {
    using T = decltype(typed);
    std::vector<const T*> rows;
    std::vector<double> weights;
    for (int64_t t = 0; t < band.taps; ++t) {
      const double weight = band.weight[t * band.rows + cell_row];
      if (weight == 0.0) continue;
      rows.push_back(static_cast<const T*>(grad.data) + (image * grad.height + band.start[cell_row] + t) * grad.width);
      weights.push_back(weight);
    }
    std::fill(sums, sums + grad.width, 0.0);
    for (int64_t column = 0; column < grad.width; column += kPixelBlock) {
      std::vector<const T*> block = rows;
      for (const T*& row : block) row += column;
      add(block.data(), weights.data(), int64_t(block.size()), std::min(kPixelBlock, grad.width - column), sums + column);
    }
  };
  parallel(images.size() * cell_rows.size(), task_grain(band.taps * grad.width), [&](int64_t begin, int64_t end) {
    std::vector<double> sums(grad.width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = images.begin + i / cell_rows.size(), cell_row = cell_rows.begin + i % cell_rows.size();
      if (grad.is_double) {
        sum_pixel_rows(double{}, kernels.add_rows, image, cell_row, sums.data());
      } else {
        sum_pixel_rows(float{}, kernels.add_float_rows, image, cell_row, sums.data());
      }
      double* out = shared + i * term.latent.w;
      kernels.apply_columns(term.columns.start, term.columns.weight, term.columns.rows, term.columns.taps, sums.data(),
                            term.latent.w, out);
      for (int64_t j = 0; j < term.latent.w; ++j) out[j] = shared_gradient(term.latent.source, out[j]);
    }
  });
}

void sweep_quotients(const GradientTerm& term, Range images, Range cell_rows, const double* shared, const Kernels& kernels,
                     const ParallelFor& parallel) {
  const Latent& latent = term.latent;
  const int64_t element = kElementSize[int(latent.dtype)];
  const bool streaming = latent.batch * latent.channels * latent.h * latent.w * element > kStreamingBytes;
  // Rows of the gradient follow each other exactly where those of the likelihoods do, or else every run is one row.
  const bool same_rows = term.row_stride == latent.w * term.cell_stride;
  Latent cut = latent;
  if (!same_rows) cut.row_stride = -1;
  const std::vector<Run> runs = cut_runs(cut, images, cell_rows, kCellBlock);
  const int64_t cells = cell_rows.size() * latent.w;
  parallel(int64_t(runs.size()), task_grain(kCellBlock * latent.channels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Run& run = runs[i];
      kernels.gradient[int(latent.source)][int(latent.dtype)](
          shared + (run.image - images.begin) * cells + run.first_cell,
          at(latent.data, element * run_offset(latent, latent.w, run, cell_rows.begin)), run.count, latent.channels,
          {latent.cell_stride, latent.channel_stride}, {term.cell_stride, term.channel_stride}, streaming,
          at(term.gradient, element * run_offset(term, latent.w, run, cell_rows.begin)));
    }
    if (streaming) kernels.fence();
  });
}

}  // namespace

void project_backward(const Image<const void>& grad, const GradientTerm& term, const Kernels& kernels,
                      const ParallelFor& parallel) {
  const Latent& latent = term.latent;
  if (latent.batch == 0 || latent.channels == 0 || latent.h == 0 || latent.w == 0) return;
  const int64_t images_at_once = std::min(latent.batch, std::max<int64_t>(1, kSlabCells / (latent.h * latent.w)));
  const int64_t slab_rows = std::min(latent.h, std::max<int64_t>(1, kSlabCells / latent.w));
  const std::unique_ptr<double[]> shared(new double[images_at_once * slab_rows * latent.w]);
  for (int64_t first = 0; first < latent.batch; first += images_at_once) {
    const Range images{first, std::min(first + images_at_once, latent.batch)};
    for (int64_t top = 0; top < latent.h; top += slab_rows) {
      const Range cell_rows{top, std::min(top + slab_rows, latent.h)};
      sweep_gradient(term, grad, images, cell_rows, shared.get(), kernels, parallel);
      sweep_quotients(term, images, cell_rows, shared.get(), kernels, parallel);
    }
  }
}

}  // namespace bitrate
