"""Faults in what serves big pictures: strips, tiles, plans, windows of files, files of maps."""

from __future__ import annotations

from . import Fault

STRIPS, MAPPED, TILES, PLAN = (f"bitrate_ext/{name}.py" for name in ("strips", "mapped_files", "tiles", "plan"))
MEMORY, PICTURES, FILES = (f"bitrate_ext/{name}.py" for name in ("memory", "pictures", "map_files"))
BIG, IMAGES, COMMAND = (f"bitrate_ext/{name}.py" for name in ("big_picture", "images", "cli_tiles"))

FAULTS = [
    Fault(
        "strips read from the first row of cells",
        STRIPS,
        "likelihoods[:, :, low - base : low - base + band.cells]",
        "likelihoods[:, :, : band.cells]",
        "test_big_pictures.py::test_a_tiff_is_the_map_alone",
    ),
    Fault(
        "one row of cells too few",
        "bitrate_ext/ops/projection.py",
        "int(start.max()) + self.taps)",
        "int(start.max()) + self.taps - 1)",
        "test_strips.py::test_a_given_buffer_is_used_again",
    ),
    Fault(
        "private pages dropped",
        MAPPED,
        'access[3] == "s" and inode',
        "inode",
        "test_strips.py::test_pages_are_given_back_of_shared_mappings_alone",
    ),
    Fault(
        "pages kept",
        MAPPED,
        "        give_back(span)\n",
        "        pass\n",
        "test_strips.py::test_mapped_latents_larger_than_the_memory_in_use",
    ),
    Fault(
        "reach to one side",
        TILES,
        "max(middle - first, last - middle) * block",
        "(last - middle) * block",
        "test_tiles.py::test_halo_of_a_model_with_a_known_reach",
    ),
    Fault(
        "the border of the probe is inside",
        TILES,
        "if first > 0 and last < blocks - 1:",
        "if True:",
        "test_tiles.py::test_models_without_a_finite_reach_are_refused",
    ),
    Fault(
        "inside from the window's corner",
        TILES,
        "((first - begin) // step, (last - begin) // step)",
        "(0, (last - first) // step)",
        "test_big_pictures.py::test_a_tiff_is_the_map_alone",
    ),
    Fault(
        "picture not centred on its canvas",
        TILES,
        "spans.append((first, last, first + offset - at, at + length - offset - last))",
        "spans.append((first, last, 0, length - (last - first)))",
        "test_big_pictures.py::test_a_tiff_is_the_map_alone",
    ),
    Fault(
        "tiles without their halo",
        TILES,
        "begin = max(0, min(done - halo, length - window))",
        "begin = max(0, min(done, length - window))",
        "test_tiles.py::test_tiles_cover_the_canvas_once_and_see_their_halo",
    ),
    Fault(
        "limit overlooked",
        PLAN,
        "return all(limit is None or peak <= limit",
        "return all(limit is None or peak <= 2 * limit",
        "test_big_pictures.py::test_the_largest_tiles_that_fit_are_taken",
    ),
    Fault(
        "what is held already not counted",
        MEMORY,
        "return held(device) + int(SHARE * room)",
        "return int(SHARE * room)",
        "test_memory_limits.py::test_the_limit_of_the_address_space_counts",
    ),
    Fault(
        "the flatter line",
        MEMORY,
        "per_pixel = max((high - low)",
        "per_pixel = 0.5 * max((high - low)",
        "test_memory_limits.py::test_a_footprint_is_a_line_through_two_runs",
    ),
    Fault(
        "only the innermost control group",
        MEMORY,
        '*(root / f"{base}{group}".strip("/")).parents):',
        "):",
        "test_memory_limits.py::test_control_groups",
    ),
    Fault(
        "memory that runs out twice is asked for again",
        BIG,
        "if shrunk or smaller is None:",
        "if smaller is None:",
        "test_big_pictures.py::test_where_memory_runs_out_tiles_are_halved_once",
    ),
    Fault(
        "declared size not checked",
        IMAGES,
        "if needed > most_bytes:",
        "if False:",
        "test_pictures.py::test_bombs_are_refused_before_anything_is_decoded",
    ),
    Fault(
        "deflated bombs taken without a limit",
        PICTURES,
        "elif picture.compression not in RAW:",
        "elif False:",
        "test_pictures.py::test_a_deflated_tiff_is_a_bomb_without_a_limit",
    ),
    Fault(
        "parts inflated to their end",
        PICTURES,
        "min(count, 2 * needed + 1024)), needed)",
        "min(count, 2 * needed + 1024)))",
        "test_pictures.py::test_parts_that_inflate_to_more_than_they_should",
    ),
    Fault(
        "differences left as they are",
        PICTURES,
        "if self._predictor == _DIFFERENCES and",
        "if False and",
        "test_pictures.py::test_tiff_files_in_parts",
    ),
    Fault(
        "means over squares that are not full",
        FILES,
        "np.append(np.arange(0, self._width, self.factor), self._width)",
        "np.arange(0, self._width + self.factor, self.factor)",
        "test_big_pictures.py::test_reduced_pictures_are_means_of_squares",
    ),
    Fault(
        "estimate without maps and pictures",
        COMMAND,
        "+ footprint.bytes(canvas[0] * canvas[1]) + beside",
        "+ footprint.bytes(canvas[0] * canvas[1])",
        "test_big_pictures.py::test_an_estimate_of_the_whole_run_counts_maps_and_pictures",
    ),
]
