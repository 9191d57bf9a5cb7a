"""Faults in coded bits: costs, listening, placement, books, traps, hostile checkpoints."""

from __future__ import annotations

from . import Fault

CODER, LISTENING, PLACEMENT = (
    "bitrate_ext/coding/rans.py",
    "bitrate_ext/coding/recorder.py",
    "bitrate_ext/coding/symbol_layout.py",
)
CODED, LEDGER, TRAPS = "bitrate_ext/mapping/coded.py", "bitrate_ext/coding/ledger.py", "bitrate_ext/coding/tables.py"
CHECKPOINT, CHECK = "bitrate_ext/models/checkpoint_safety.py", "bitrate_ext/cli/check.py"

FAULTS = [
    Fault(
        "escapes without their count",
        CODER,
        "nibbles += 1 + nibbles // MOST_STEPS",
        "nibbles += nibbles // MOST_STEPS",
        "test_coded.py::test_offsets_and_several_tables",
    ),
    Fault(
        "escapes below cost as those above",
        CODER,
        "np.where(value < 0, -2 * value - 1, 2 * (value - last))",
        "np.where(value < 0, -2 * value - 1, 2 * (value - last) + 2)",
        "test_coded.py::test_offsets_and_several_tables",
    ),
    Fault(
        "frequency of the next symbol",
        CODER,
        "place = self.first[table]\n",
        "place = self.first[table] + 1\n",
        "test_coded.py::test_costs_are_those_of_the_coder",
    ),
    Fault(
        "endless escapes let through",
        CODER,
        "if raw.max() >= ESCAPE_LIMIT:",
        "if raw.max() >= 2**40:",
        "test_coded.py::test_symbols_that_would_never_end_are_refused",
    ),
    Fault(
        "any overhead is possible",
        CODER,
        "return LEAST_OVERHEAD - slack < overhead <= MOST_OVERHEAD + slack",
        "return overhead <= MOST_OVERHEAD + slack",
        "test_check.py::test_books_that_do_not_close",
    ),
    Fault(
        "entropy of the whole in nats",
        CODER,
        "np.add.reduceat(weighed, self.first)",
        "np.add.reduceat(weighed, self.first) * 0.6931",
        "test_check.py::test_the_entropy_is_that_of_the_tables",
    ),
    Fault(
        "costs of old tables",
        LISTENING,
        "return own is module._quantized_cdf and version is not None and version == own._version",
        "return own is not None",
        "test_coded.py::test_the_map_adds_up_to_the_file[bmshj2018-hyperprior-vbr]",
    ),
    Fault(
        "modules left wrapped",
        LISTENING,
        "            del module.__dict__[name]\n",
        "            pass\n",
        "test_coded_models.py::test_nothing_stays_wrapped",
    ),
    Fault(
        "other threads heard",
        LISTENING,
        "_here = threading.local()",
        '_here = type("Here", (), {})()',
        "test_coded_models.py::test_other_threads_are_not_heard",
    ),
    Fault(
        "raster scan by columns",
        PLACEMENT,
        "one.reshape(h, w, channels).transpose(2, 0, 1)",
        "one.reshape(w, h, channels).transpose(2, 1, 0)",
        "test_coded.py::test_a_symbol_s_bits_are_where_it_is[mbt2018]",
    ),
    Fault(
        "anchors and the others exchanged",
        PLACEMENT,
        "_checkerboard(codec, grid)[call.number % 2]",
        "_checkerboard(codec, grid)[1 - call.number % 2]",
        "test_coded.py::test_a_symbol_s_bits_are_where_it_is[cheng2020-anchor-checkerboard]",
    ),
    Fault(
        "channel groups from the first channel",
        PLACEMENT,
        "channels: Any = slice(block.first, block.first + block.channels)",
        "channels: Any = slice(0, block.channels)",
        "test_coded.py::test_a_symbol_s_bits_are_where_it_is[elic2022-official]",
    ),
    Fault(
        "all strings of the first image",
        PLACEMENT,
        "                part.image,\n",
        "                0,\n",
        "test_coded.py::test_a_symbol_s_bits_are_where_it_is[bmshj2018-factorized]",
    ),
    Fault(
        "channels of a mixture in one row",
        PLACEMENT,
        "target[self.channels] += values",
        "target[: len(values)] += values",
        "test_coded_models.py::test_a_mixture_of_gaussians",
    ),
    Fault(
        "gap the other way round",
        CODED,
        "gap=result.map - estimate.map",
        "gap=estimate.map - result.map",
        "test_check.py::test_the_gap_is_the_difference_of_two_maps",
    ),
    Fault(
        "strings that are not returned counted in",
        CODED,
        "return [heard.strings[number] for number in sorted(found)]",
        "return list(heard.strings)",
        "test_coded_models.py::test_models_that_cannot_be_listened_to",
    ),
    Fault(
        "books closed too early",
        LEDGER,
        "TOLERANCE = 1e-6",
        "TOLERANCE = 1e-3",
        "test_check.py::test_books_that_do_not_close",
    ),
    Fault(
        "step of the variable bottleneck forgotten",
        TRAPS,
        "likelihoods = module._likelihood_variable(turned.reshape(channels, 1, -1), qs=step)[0]",
        "likelihoods = module._likelihood_variable(turned.reshape(channels, 1, -1))[0]",
        "test_traps.py::test_the_estimate_of_variable_rate_models_is_corrected",
    ),
    Fault(
        "stale tables taken for fresh ones",
        TRAPS,
        "SLACK = 2 ",
        "SLACK = 60000 ",
        "test_traps.py::test_update_leaves_stale_tables_and_says_nothing",
    ),
    Fault(
        "empty bins taken for sound ones",
        TRAPS,
        "rises = (cdf.diff(dim=1) > 0) | ~inside",
        "rises = (cdf.diff(dim=1) >= 0) | ~inside",
        "test_traps.py::test_damaged_tables_never_reach_the_coder",
    ),
    Fault(
        "exit code 0 of open books",
        CHECK,
        "OPEN = 1 ",
        "OPEN = 0 ",
        "test_check.py::test_books_that_do_not_close_are_exit_code_1",
    ),
    Fault(
        "tensors larger than their bytes",
        CHECKPOINT,
        "if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():",
        "if weight.numel() > 2**62:",
        "test_hostile_checkpoints.py::test_tensors_that_are_not_weights[one value for all]",
    ),
    Fault(
        "archives that grow",
        CHECKPOINT,
        "if size > held:",
        "if size > 2**50:",
        "test_hostile_checkpoints.py::test_archives_that_grow",
    ),
]
