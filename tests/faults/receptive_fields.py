"""Faults in the measuring of receptive fields and in the projection made of them."""

from __future__ import annotations

from . import Fault

FIELD, CALIBRATION, SYNTHESIS = (
    "bitrate_ext/receptive_field.py",
    "bitrate_ext/calibration.py",
    "bitrate_ext/synthesis.py",
)

FAULTS = [
    Fault(
        "kernel a pixel off",
        FIELD,
        "offset = pixel - stride * (lowest + step) - first",
        "offset = pixel - stride * (lowest + step) - first + 1",
        "test_receptive_field.py::test_away_from_the_border_it_is_the_kernel",
    ),
    Fault(
        "bits lost at the border",
        FIELD,
        "inside = (offset >= 0) & (offset < len(kernel))",
        "inside = (offset >= 0) & (offset < len(kernel)) & (lowest + step >= 0) & (lowest + step < cells)",
        "test_receptive_field.py::test_rows_worked_by_hand",
    ),
    Fault(
        "share on both axes",
        FIELD,
        "term.horizontal, 1.0)",
        "term.horizontal, term.share)",
        "test_receptive_field.py::test_every_column_sums_to_its_share",
    ),
    Fault(
        "any scale taken",
        FIELD,
        "if pixels != cells * stride:",
        "if pixels < cells * stride // 2:",
        "test_receptive_field.py::test_another_scale_is_refused",
    ),
    Fault(
        "written in place",
        FIELD,
        "partial.replace(path)",
        "path.write_bytes(partial.read_bytes())",
        "test_receptive_field.py::test_a_file_is_replaced_in_one_step",
    ),
    Fault(
        "pickles loaded",
        FIELD,
        "allow_pickle=False",
        "allow_pickle=True",
        "test_receptive_field.py::test_files_that_are_refused",
    ),
    Fault(
        "only the first term",
        "bitrate_ext/ops.py",
        "for term in one.terms]",
        "for term in one.terms[:1]]",
        "test_receptive_field.py::test_conservation_and_implementations",
    ),
    Fault(
        "one projection for all latents",
        "bitrate_ext/ops.py",
        "chosen = [get_projection(projection[name]) for name in names]",
        "chosen = [get_projection(projection[next(iter(names))])] * len(names)",
        "test_receptive_field.py::test_each_latent_has_a_projection_of_its_own",
    ),
    Fault(
        "axes exchanged",
        "bitrate_ext/autograd.py",
        "one = projection.along(axis)",
        "one = projection.along(1 - axis)",
        "test_receptive_field.py::test_away_from_the_border_it_is_the_kernel",
    ),
    Fault(
        "strength counted instead of bits",
        CALIBRATION,
        "torch.where(energy > 0, bits / energy, 0).sqrt()",
        "torch.where(energy > 0, bits, 0).sqrt()",
        "test_calibration.py::test_channels_count_with_their_bits_and_not_with_their_strength",
    ),
    Fault(
        "all symbols alike",
        CALIBRATION,
        "    if not bits.any():",
        "    if True:",
        "test_calibration.py::test_channels_count_with_their_bits_and_not_with_their_strength",
    ),
    Fault(
        "neighbours in the window",
        CALIBRATION,
        "apart = -(-(last - first + 1) // step)",
        "apart = max(1, (last - first + 1) // step - 1)",
        "test_calibration.py::test_the_kernel_of_a_linear_decoder",
    ),
    Fault(
        "cells at the border counted",
        CALIBRATION,
        "if step * i + first >= 0 and step * i + last < step * cells",
        "if step * i + last < step * cells",
        "test_calibration.py::test_the_kernel_of_a_linear_decoder",
    ),
    Fault(
        "weights left out of the cache's key",
        CALIBRATION,
        "[*model.state_dict().items(), *enumerate(images)",
        "[*enumerate(images)",
        "test_calibration.py::TestCache::test_another_question_is_measured",
    ),
    Fault(
        "damaged cache believed",
        CALIBRATION,
        "        except (OSError, ValueError):\n            pass",
        "        except OSError:\n            pass",
        "test_calibration.py::TestCache::test_a_damaged_file_is_replaced",
    ),
    Fault(
        "latents behind latents not followed",
        CALIBRATION,
        "spaced[::step] =",
        "spaced[: len(getattr(cells, name))] =",
        "test_calibration.py::test_a_latent_behind_another_is_followed_to_the_pixels",
    ),
    Fault(
        "terms spent on noise",
        CALIBRATION,
        "max(distance**2 - noise**2, 0.0) ** 0.5",
        "distance",
        "test_calibration.py::test_no_term_is_spent_on_noise",
    ),
    Fault(
        "support from values instead of dependence",
        SYNTHESIS,
        "touched = self.transform(inputs).isnan().any(dim=1)",
        "touched = (self.transform(inputs.nan_to_num(1.0)) - self.transform(0 * inputs.nan_to_num())).any(dim=1)",
        "test_reach.py::test_the_reach_does_not_depend_on_dead_units",
    ),
    Fault(
        "global reach unnoticed",
        SYNTHESIS,
        "inside = inside and first > 0 and last < touched.shape[axis] - 1",
        "inside = inside or last < 0",
        "test_reach.py::test_a_global_decoder_is_refused",
    ),
    Fault(
        "inputs read after the module has changed them",
        SYNTHESIS,
        "entered[module] = (args[0], args[0].detach().clone())",
        "entered[module] = (args[0], args[0].detach())",
        "test_reach.py::test_a_decoder_that_works_in_place_is_seen_as_it_was_called",
    ),
    Fault(
        "scales alone taken for means",
        SYNTHESIS,
        'return kwargs.get("means") is not None or',
        "return True or",
        "test_reach.py::test_reach_of_every_image_model[bmshj2018-hyperprior]",
    ),
    Fault(
        "other arguments of the decoder forgotten",
        SYNTHESIS,
        "module(t, *rest, **kwargs)",
        "module(t, *[1.0 for _ in rest], **kwargs)",
        "test_reach.py::test_a_decoder_with_other_inputs_beside",
    ),
]
