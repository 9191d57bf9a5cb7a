// The executor for Python, on NumPy arrays. Functions only: copies of this module, each with another fault planted in the
// kernels, live side by side in one process.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <optional>

#include "executor.h"

namespace py = pybind11;

namespace bitrate {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Starts = py::array_t<int32_t, py::array::c_style>;
using Weights = py::array_t<double, py::array::c_style>;

// {"storage": bytes of the allocation, or its address as a number; "offset": bytes; "dtype": as DType; "sizes"; "strides"}
TensorView tensor_view(const char* name, const py::dict& tensor) {
  TensorView view{name, nullptr, 0, nullptr, DType(tensor["dtype"].cast<int>()), {}, {}};
  view.sizes = tensor["sizes"].cast<std::vector<int64_t>>();
  view.strides = tensor["strides"].cast<std::vector<int64_t>>();
  if (py::isinstance<py::int_>(tensor["storage"])) {
    view.data = reinterpret_cast<const void*>(tensor["storage"].cast<uint64_t>());
  } else {
    const auto storage = tensor["storage"].cast<Bytes>();
    view.allocation = storage.data();
    view.allocation_bytes = storage.size();
    view.data = storage.data() + tensor["offset"].cast<int64_t>();
  }
  return view;
}

Band band_view(const py::tuple& band) {  // (start, weight, columns)
  const auto start = band[0].cast<Starts>();
  const auto weight = band[1].cast<Weights>();
  return {start.data(), weight.data(), start.size(), band[2].cast<int64_t>(), weight.shape(0)};
}

TermView term_view(const py::dict& term) {
  return {tensor_view("latent", term["values"]), band_view(term["rows"]), band_view(term["columns"])};
}

std::vector<TermView> term_views(const py::list& terms) {
  std::vector<TermView> views;
  for (const auto& term : terms) views.push_back(term_view(term.cast<py::dict>()));
  return views;
}

// {"family", "bound", "floor", "inputs": tensors, "gradients": tensors or None, "cells": tensor}
std::vector<SourceView> source_views(const py::list& sources) {
  std::vector<SourceView> views;
  for (const auto& one : sources) {
    const auto source = one.cast<py::dict>();
    SourceView view{
        Family(source["family"].cast<int>()), source["bound"].cast<float>(), source["floor"].cast<float>(), {}, {},
        tensor_view("cells", source["cells"])};
    for (const auto& tensor : source["inputs"].cast<py::list>()) {
      view.inputs.push_back(tensor_view("input", tensor.cast<py::dict>()));
    }
    for (const auto& tensor : source["gradients"].cast<py::list>()) {
      view.gradients.push_back(tensor.is_none() ? TensorView{} : tensor_view("gradient", tensor.cast<py::dict>()));
    }
    views.push_back(view);
  }
  return views;
}

Setting setting_of(const py::dict& given) {
  Setting s;
  for (const auto& [key, value] : given) {
    const auto name = key.cast<std::string>();
    const auto number = value.cast<int64_t>();
    if (name == "multiprocessors") {
      s.multiprocessors = number;
    } else if (name == "shared_bytes") {
      s.shared_bytes = number;
    } else if (name == "threads") {
      s.threads = int(number);
    } else if (name == "tile_rows") {
      s.tile_rows = int32_t(number);
    } else if (name == "tile_columns") {
      s.tile_columns = int32_t(number);
    } else if (name == "width") {
      s.width = int32_t(number);
    } else if (name == "order") {
      s.order = int(number);
    } else if (name == "seed") {
      s.seed = uint32_t(number);
    } else {
      throw std::invalid_argument("unknown setting " + name);
    }
  }
  return s;
}

py::dict dict_of(const Summary& s) {
  using namespace py::literals;
  return py::dict("blocks"_a = s.blocks, "threads"_a = s.threads, "shared_bytes"_a = s.shared_bytes,
                  "tile_rows"_a = s.tile_rows, "tile_columns"_a = s.tile_columns, "row_shift"_a = s.row_shift,
                  "column_shift"_a = s.column_shift, "row_tiles"_a = s.row_tiles, "column_tiles"_a = s.column_tiles,
                  "width"_a = s.width, "whole"_a = s.whole);
}

// The summary, and [accesses, 3]: address, bytes, store or not.
py::tuple with_touched(const Summary& summary, const std::vector<Touched>& touched) {
  py::array_t<uint64_t> accesses({py::ssize_t(touched.size()), py::ssize_t(3)});
  uint64_t* to = accesses.mutable_data();
  for (const Touched& t : touched) {
    *to++ = t.address;
    *to++ = uint64_t(t.bytes);
    *to++ = t.store;
  }
  return py::make_tuple(dict_of(summary), accesses);
}

}  // namespace

PYBIND11_MODULE(_executor, m) {
  m.doc() = "Runs the GPU kernels on the CPU under watch; see executor.h.";
  m.def("project",
        [](const py::list& terms, const std::optional<py::dict>& guide, const py::dict& map, const py::dict& setting) {
          const TensorView view = guide ? tensor_view("guide", *guide) : TensorView{};
          const TensorView target = tensor_view("map", map);
          return dict_of(run_project(term_views(terms), guide ? &view : nullptr, target, setting_of(setting)));
        });
  m.def("backward", [](const py::dict& grad, const py::dict& term, const py::dict& gradient, const py::dict& setting) {
    return dict_of(
        run_backward(tensor_view("grad", grad), term_view(term), tensor_view("gradient", gradient), setting_of(setting)));
  });
  m.def("rate", [](const py::list& sources, bool backward, const py::dict& setting) {
    return dict_of(run_rate(source_views(sources), backward, setting_of(setting)));
  });
  m.def("index_rate",
        [](const py::list& sources, bool backward, const py::dict& setting, const std::vector<int64_t>& blocks) {
          std::vector<Touched> touched;
          const Summary summary = index_rate(source_views(sources), backward, setting_of(setting), blocks, touched);
          return with_touched(summary, touched);
        });
  m.def("index_project", [](const py::list& terms, const py::dict& map, const py::dict& setting,
                            const std::vector<int64_t>& blocks) {
    std::vector<Touched> touched;
    const Summary summary = index_project(term_views(terms), tensor_view("map", map), setting_of(setting), blocks, touched);
    return with_touched(summary, touched);
  });
  m.def("index_backward", [](const py::dict& grad, const py::dict& term, const py::dict& gradient, const py::dict& setting,
                             const std::vector<int64_t>& blocks) {
    std::vector<Touched> touched;
    const Summary summary = index_backward(tensor_view("grad", grad), term_view(term), tensor_view("gradient", gradient),
                                           setting_of(setting), blocks, touched);
    return with_touched(summary, touched);
  });
  m.def("ptx_blocks", [](int planted) {
    py::list found;
    for (const PtxBlock& block : ptx_blocks(planted)) found.append(py::make_tuple(block.kernel, block.line, block.reached));
    return found;
  });
}

}  // namespace bitrate
