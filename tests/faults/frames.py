"""Faults of frames and videos. ``caught_by`` is a test's node id below ``tests/``."""

from __future__ import annotations

from . import Fault

FRAMES, NETWORK, PIPELINE = (
    "bitrate_ext/mapping/frames.py",
    "bitrate_ext/models/accelerate.py",
    "bitrate_ext/threads.py",
)
COLOURS, STRIP, VIDEO = (
    "bitrate_ext/viz/colormap.py",
    "bitrate_ext/viz/frame_chart.py",
    "bitrate_ext/video/map_video.py",
)
CLI_VIDEO, OPS = "bitrate_ext/cli/video.py", "bitrate_ext/ops/functional.py"

FAULTS = [
    Fault(
        "reference not cut to what pixels can have",
        FRAMES,
        'output["x_hat"].to(self._dtype).clamp(0, 1)',
        'output["x_hat"].to(self._dtype)',
        "test_frames.py::test_video_is_coded_in_a_closed_loop",
    ),
    Fault(
        "reference of the last clip",
        FRAMES,
        "kind = KEYFRAME if index == 0 or",
        "kind = KEYFRAME if self._inter.reference is None or",
        "test_frames.py::test_without_groups_only_the_first_frame_is_a_keyframe",
    ),
    Fault(
        "groups one frame too long",
        FRAMES,
        "index % self.group == 0",
        "index % (self.group + 1) == 0",
        "test_frames.py::test_video_is_coded_in_a_closed_loop",
    ),
    Fault(
        "one buffer for all frames",
        FRAMES,
        "self._turn = (self._turn + 1) % len(self._ring)",
        "self._turn = 0",
        "test_frames.py::test_buffers_take_turns",
    ),
    Fault(
        "frames laid at the canvas's corner",
        FRAMES,
        "self._padded[..., top : top + height, left : left + width]",
        "self._padded[..., :height, :width]",
        "test_frames.py::test_each_frame_is_mapped_as_by_itself[bmshj2018-factorized-0]",
    ),
    Fault(
        "frames of another size let through",
        FRAMES,
        "if frame.shape != first.shape or frame.dtype != first.dtype:",
        "if frame.dtype != first.dtype:",
        "test_frames.py::test_bad_frames_are_named",
    ),
    Fault(
        "a reconstruction that the next frame overwrites",
        FRAMES,
        "x_hat = x_hat.clone()",
        "pass",
        "test_video.py::test_video_codecs_have_kinds_of_frames",
    ),
    Fault(
        "decoder left out without a look",
        NETWORK,
        "return shorn if all(torch.equal(likelihoods[name], p) for name, p in run.likelihoods.items()) else model",
        "return shorn",
        "test_frames.py::test_a_decoder_that_bits_depend_on_stays",
    ),
    Fault(
        "the user's own model changed",
        NETWORK,
        "network = copy.deepcopy(model)",
        "network = model",
        "test_frames.py::test_the_model_is_left_as_it_is",
    ),
    Fault(
        "entropy models under autocast",
        NETWORK,
        "with torch.autocast(device, enabled=False):",
        "if True:",
        "test_frames.py::test_likelihoods_are_those_of_float32_entropy_models",
    ),
    Fault(
        "entropy models given coarse numbers",
        NETWORK,
        "return value.float() if isinstance(value, Tensor) and value.dtype in REDUCED else value",
        "return value",
        "test_frames.py::test_a_coarser_network_leaves_likelihoods_in_float32",
    ),
    Fault(
        "entropy models compiled, too",
        NETWORK,
        "if not any(_is_entropy_model(part) for part in network.modules()):",
        "if not list(network.children()):",
        "test_frames.py::test_compiled_networks_give_the_same_bits",
    ),
    Fault(
        "the source's error lost",
        PIPELINE,
        "put(end, error)",
        "put(end)",
        "test_pipeline.py::test_errors_of_the_source_come_in_their_place",
    ),
    Fault(
        "the sink's error lost at the exit",
        PIPELINE,
        "if kind is None and self._error is not None:",
        "if False:",
        "test_pipeline.py::test_errors_of_the_sink_reach_the_caller",
    ),
    Fault(
        "what waits is written after an error",
        PIPELINE,
        "self._drop = kind is not None",
        "self._drop = False",
        "test_pipeline.py::test_an_error_of_the_caller_drops_what_waits",
    ),
    Fault(
        "clip's scale by its largest pixel",
        COLOURS,
        "limit = min(float(BINS[min(index, len(BINS) - 1)]), self._largest) if index else self._largest",
        "limit = self._largest",
        "test_video.py::test_one_scale_serves_the_whole_clip",
    ),
    Fault(
        "clip's scale with infinite values",
        COLOURS,
        "finite = sample[np.isfinite(sample)]",
        "finite = sample[~np.isnan(sample)]",
        "test_video.py::test_the_limit_of_odd_clips",
    ),
    Fault(
        "bars of an outgrown axis left as they were",
        STRIP,
        "self._top, again = total * (HEADROOM if self._top else 1.0), True",
        "self._top = total * (HEADROOM if self._top else 1.0)",
        "test_strip.py::test_bars_come_one_by_one_as_all_at_once",
    ),
    Fault(
        "a pixel of many frames shows the last",
        STRIP,
        "if total >= tallest[at].max(initial=0.0):",
        "if True:",
        "test_strip.py::test_a_pixel_of_many_frames_shows_the_costliest",
    ),
    Fault(
        "the cursor one frame late",
        STRIP,
        "left, right = self._column(index), max(self._column(index) + 1, self._column(index + 1))",
        "left, right = self._column(index + 1), self._column(index + 2)",
        "test_strip.py::test_the_cursor_marks_its_frame_and_leaves_no_trace",
    ),
    Fault(
        "cells below float64's smallest number",
        OPS,
        "symbols = 2 ** max(0, math.ceil(math.log2(max(largest, 1.0) / MOST_BITS)))",
        "symbols = 1",
        "test_video.py::test_cells_go_back_to_likelihoods",
    ),
    Fault(
        "maps of kept cells from the next frame's",
        VIDEO,
        "            spool.seek(0)",
        "            spool.seek(4)",
        "test_video.py::test_panels_show_picture_and_map",
    ),
    Fault(
        "a damaged video's map under the whole one's name",
        VIDEO,
        "path = self.target if record.partial is None else partial_name(self.target)",
        "path = self.target",
        "test_video.py::test_a_video_that_is_cut_short_is_mapped_as_far_as_it_goes",
    ),
    Fault(
        "a damaged video is no news",
        CLI_VIDEO,
        "return PARTIAL if any(",
        "return cli.OK if any(",
        "test_cli_video.py::test_a_video_that_is_cut_short",
    ),
    Fault(
        "two videos to one name",
        CLI_VIDEO,
        "if str(target).casefold() in seen:",
        "if False:",
        "test_cli_video.py::test_what_cannot_be_served",
    ),
]
