// The loops of the guide of a picture, included by loops.h: rows of a block of columns, each made once from those before it
// and kept in a ring while others need it, so that all stay near the core.
#pragma once

#include "guide.h"
#include "vector.h"

namespace bitrate {

template <>
struct Single<TwoFloats> : Arithmetic<TwoFloats> {
  static BITRATE_HD TwoFloats max(TwoFloats a, TwoFloats b) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(BITRATE_AVX2)
    return (TwoFloats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
  }
  static BITRATE_HD TwoFloats min(TwoFloats a, TwoFloats b) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(BITRATE_AVX2)
    return (TwoFloats)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
  }
  static BITRATE_HD TwoFloats from(TwoInts value) { return __builtin_convertvector(value, TwoFloats); }
  static BITRATE_HD TwoInts bits(TwoFloats value) { return bits_as<TwoInts>(value); }
  static BITRATE_HD TwoFloats scaled(TwoFloats value, TwoFloats whole) {
    return bits_as<TwoFloats>(bits_as<TwoWords>(value) + (bits_as<TwoWords>(whole) << 23));
  }
  static BITRATE_HD TwoFloats mantissa(TwoFloats value) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_getmant_ps((__m512)value, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
#else
    return bits_as<TwoFloats>((bits(value) & 0x7fffff) | 0x3f800000);
#endif
  }
  static BITRATE_HD TwoFloats exponent(TwoFloats value) {
#if defined(BITRATE_AVX512)
    return (TwoFloats)_mm512_getexp_ps((__m512)value);
#else
    return from((bits(value) >> 23) - 127);
#endif
  }
};

// Past the caches where `to` is aligned and the processor has it; see `stream`.
BITRATE_HD void stream(float* to, TwoFloats values) {
#if defined(BITRATE_AVX512)
  if (reinterpret_cast<uintptr_t>(to) % sizeof(TwoFloats) == 0) return _mm512_stream_ps(to, (__m512)values);
#elif defined(BITRATE_AVX2)
  if (reinterpret_cast<uintptr_t>(to) % sizeof(TwoFloats) == 0) return _mm256_stream_ps(to, (__m256)values);
#endif
  store(to, values);
}

namespace {

// Rows of floats, the last `Count` of them; a row's column x of the picture is at x.
template <int64_t Count>
class Ring {
 public:
  Ring(float*& memory, const Range& columns)
      : rows_(memory + kGuideMargin - columns.begin), pitch_(guide_pitch(columns.size())) {
    memory += Count * pitch_;
  }
  float* operator[](int64_t row) const { return rows_ + (row + 2 * Count) % Count * pitch_; }

 private:
  float* rows_;
  int64_t pitch_;
};

constexpr int64_t kStep = 2 * kWidth;
constexpr int64_t kRowsAhead = 2;  // of the picture, that are asked for

BITRATE_HD TwoFloats two(const float* from) { return load<TwoFloats>(from); }
BITRATE_HD TwoFloats sum_beside(const float* from) { return sum3(two(from - 1), two(from), two(from + 1)); }

// Calls body(x) for vectors of columns; the last may overrun the end.
template <typename Body>
BITRATE_HD void across(Range columns, const Body& body) {
  for (int64_t x = columns.begin; x < columns.end; x += kStep) body(x);
}

class GuideBlock {
 public:
  // Of columns of an image of the task.
  GuideBlock(const GuideTask& task, int64_t image, Range columns, float* memory)
      : task_(task),
        image_(image),
        width_(task.picture.width),
        height_(task.picture.height),
        columns_(columns),
        channels_(memory, columns),
        light_(memory, columns),
        energy_(memory, columns),
        texture_(memory, columns),
        near_(memory, columns),
        textures_(memory, columns),
        threes_(memory, columns),
        work_(memory, columns) {}

  void make(Range rows, bool streaming) {
    light_end_ = clamp_row(rows.begin - 5);
    energy_end_ = clamp_row(rows.begin - 4);
    sums_end_ = rows.begin - 3;
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      while (sums_end_ <= y + 3) make_sums(sums_end_++);
      streaming ? finish<true>(y) : finish<false>(y);
    }
  }

 private:
  int64_t clamp_row(int64_t row) const { return row < 0 ? 0 : row < height_ ? row : height_ - 1; }
  // Columns for loops over vectors, which are aligned: some more on the left, where all is memory.
  Range columns(int64_t beside) const { return {columns_.begin - 16, columns_.end + beside}; }
  Range inside(int64_t beside) const {
    return {max_of<int64_t>(columns_.begin - 16, 0), min_of(columns_.end + beside, width_)};
  }
  // Beyond the picture's borders, a row goes on as it ends.
  void go_on(float* row, int64_t beside) const {
    for (int64_t x = columns_.begin - beside; x < 0; ++x) row[x] = row[0];
    for (int64_t x = width_; x < columns_.end + beside; ++x) row[x] = row[width_ - 1];
  }

  // A row of a channel: where it is, or in float32 and adjacent.
  const float* channel_row(int64_t channel, int64_t row, Range columns) {
    const Picture& p = task_.picture;
    const int64_t first = image_ * p.batch_stride + channel * p.channel_stride + row * p.row_stride;
    if (p.dtype == DType::Float32 && p.column_stride == 1) return static_cast<const float*>(p.data) + first;
    float* to = channels_[channel % 3];
    visit(p.dtype, [&](auto type) {
      const auto* from = static_cast<const decltype(type)*>(p.data) + first;
      for (int64_t x = columns.begin; x < columns.end; ++x) to[x] = to_single(from[x * p.column_stride]);
    });
    return to;
  }

  void make_light(int64_t row) {
    const int64_t channels = task_.picture.channels;
    const Range columns = inside(kGuideReach);
    float* light = light_[row];
    const auto each = [&](const auto& body) {  // nothing is read past the picture's end
      int64_t x = columns.begin;
      for (; x + kStep <= columns.end; x += kStep) body(x, TwoFloats{});
      for (; x < columns.end; ++x) body(x, float{});
    };
    const int64_t ahead = kRowsAhead * task_.picture.row_stride;
    if (channels == 3) {
      const float *r = channel_row(0, row, columns), *g = channel_row(1, row, columns), *b = channel_row(2, row, columns);
      each([&](int64_t x, auto kind) {
        using Float = decltype(kind);
        for (const float* from : {r, g, b}) prefetch(from + ahead + x);
        store(light + x, luminance(load<Float>(r + x), load<Float>(g + x), load<Float>(b + x)));
      });
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const float* from = channel_row(c, row, columns);
        each([&](int64_t x, auto kind) {
          const auto own = clamped(load<decltype(kind)>(from + x));
          const auto sum = c == 0 ? own : load<decltype(kind)>(light + x) + own;
          store(light + x, c + 1 == channels ? sum * task_.weights.channel : sum);
        });
      }
    }
    go_on(light, 1);
  }

  // Energy and texture of a row of the picture, and their sums over three rows about the one above it.
  void make_energy(int64_t row) {
    while (light_end_ <= clamp_row(row + 1)) make_light(light_end_++);
    const int64_t before = clamp_row(row - 2), above = clamp_row(row - 1);
    const float *up = light_[above], *own = light_[row], *down = light_[clamp_row(row + 1)];
    const float *energy0 = energy_[before], *energy1 = energy_[above], *texture0 = texture_[before],
                *texture1 = texture_[above];
    float *energies = energy_[row], *textures = texture_[row], *threes = threes_[0], *sums = work_[0],
          *texture_sums = textures_[row - 1];
    across(inside(4), [&](int64_t x) {
      const TwoFloats top = two(up + x), bottom = two(down + x);
      const TwoFloats made = energy(two(own + x - 1), two(own + x + 1), top, bottom);
      store(energies + x, made);
      store(threes + x, sum3(two(energy0 + x), two(energy1 + x), made));
      store(sums + x, sum3(top, two(own + x), bottom));
    });
    go_on(energies, 4);
    go_on(threes, 4);
    go_on(sums, 1);
    across(inside(1), [&](int64_t x) {
      const TwoFloats made = texture(two(own + x), sum_beside(sums + x));
      store(textures + x, made);
      store(texture_sums + x, sum3(two(texture0 + x), two(texture1 + x), made));
    });
    go_on(textures, 1);
    go_on(texture_sums, 1);
  }

  // Sums about a row, which may lie beyond the picture; and those of nine rows about the one three above it.
  void make_sums(int64_t row) {
    const int64_t above = clamp_row(row - 1), own = clamp_row(row), below = clamp_row(row + 1);
    while (energy_end_ <= below) make_energy(energy_end_++);
    float* threes = threes_[0];
    if (below == own) {  // at the last row, or beyond the first or the last
      const auto sum = [&](const auto& of, float* to) {
        const float *a = of[above], *b = of[own], *c = of[below];
        across(columns(4), [&](int64_t x) { store(to + x, sum3(two(a + x), two(b + x), two(c + x))); });
      };
      sum(energy_, threes);
      if (own == row) sum(texture_, textures_[row]);
    }
    const float *near0 = near_[row - 6], *near1 = near_[row - 3];
    float *near = near_[row], *nines = work_[0];
    across(columns(3), [&](int64_t x) {
      const TwoFloats made = sum_beside(threes + x);
      store(near + x, made);
      store(nines + x, sum3(two(near0 + x), two(near1 + x), made));
    });
  }

  template <bool Streaming>
  void finish(int64_t row) {
    const float *near = near_[row], *nines = work_[0], *textures = textures_[row], *light = light_[row];
    const int64_t period = task_.phase_columns, step = kStep % period, begin = columns_.begin, end = columns_.end;
    const float* places = task_.places + row % task_.phase_rows * (period + kMostStep);
    float* to = task_.guide + (image_ * height_ + row) * width_;
    const GuideWeights weights = task_.weights;
    int64_t place = begin % period;
    const auto make = [&](int64_t x) {
      return guide_of(weights, two(near + x), sum3(two(nines + x - 3), two(nines + x), two(nines + x + 3)),
                      sum_beside(textures + x), two(light + x), two(places + place));
    };
    int64_t x = begin;
    for (; x + kStep <= end; x += kStep) {
      const TwoFloats made = make(x);
      if (Streaming) {
        stream(to + x, made);
      } else {
        store(to + x, made);
      }
      place += step;
      if (place >= period) place -= period;
    }
    if (x < end) {
      const TwoFloats made = make(x);
      __builtin_memcpy(to + x, &made, size_t(end - x) * sizeof(float));
    }
  }
  const GuideTask& task_;
  const int64_t image_, width_, height_;
  const Range columns_;
  const Ring<3> channels_;
  const Ring<6> light_;
  const Ring<3> energy_, texture_;
  const Ring<7> near_;
  const Ring<4> textures_;
  const Ring<1> threes_, work_;
  int64_t light_end_ = 0, energy_end_ = 0, sums_end_ = 0;  // rows made so far
};

void make_guide_block(const GuideTask& task, int64_t image, Range rows, Range columns, bool streaming, float* memory) {
  GuideBlock(task, image, columns, memory).make(rows, streaming);
}

}  // namespace
}  // namespace bitrate
