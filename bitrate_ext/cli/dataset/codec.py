"""The codec that ``bitrate-ext dataset`` has in each worker."""

from __future__ import annotations

import argparse
import contextlib

from ...choices import CODED, ESTIMATED
from ...dataset.pictures import PictureCodec
from ...mapping.mapper import BitrateMapper
from ...models.accelerate import accelerate
from ..model_options import MAPPER, forward_options, mapper_options
from ..serving import checked_device, load_model, usage_errors


def make_codec(arguments: argparse.Namespace) -> PictureCodec:
    """Load the model that the arguments ask for; of estimated bits its convolutions are in ``channels_last``."""
    device, coded = checked_device(arguments.device), arguments.bits == CODED
    model, name = load_model(device, arguments, forward_only=arguments.bits == ESTIMATED, coded=coded)
    settings = {option: getattr(arguments, option) for option in ("bits", "mask", *MAPPER)}
    if not coded:
        with contextlib.suppress(ValueError):  # of a model that cannot be copied
            model, settings["channels_last"] = accelerate(model), True
    channels, options = bool(arguments.top_channels), mapper_options(arguments, BitrateMapper)
    mapper = BitrateMapper(model, bits=arguments.bits, channels=channels, **options)
    asked = {option: getattr(arguments, option) for option in ("write", "ms_ssim", "top_channels", "names", "threads")}
    with usage_errors("--model: ", "to run it", model):
        return PictureCodec(
            mapper, name=name, settings=settings, device=device, forward=forward_options(arguments), **asked
        )
