"""The codec that ``bitrate-ext dataset`` has in each worker."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from functools import lru_cache, partial

from ...choices import CODED, ESTIMATED, GROUP
from ...dataset.pictures import PictureCodec
from ...mapping.coded_video import CodedFrameMapper
from ...mapping.frames import FrameMapper
from ...mapping.mapper import BitrateMapper
from ...mapping.sequential import is_sequential
from ...models.accelerate import accelerate
from ..console import UsageError
from ..model_options import MAPPER, forward_options, mapper_options
from ..serving import checked_device, load_model, usage_errors

CPU = "cpu"


def make_codec(arguments: argparse.Namespace) -> PictureCodec:
    """Load the model that the arguments ask for; of estimated bits its convolutions are in ``channels_last``.

    With ``--fallback cpu`` it is one of the CPU where the device cannot be used, and says so of each picture.
    """
    if not arguments.fallback:
        return _make(arguments, arguments.device)
    on_cpu = lru_cache(maxsize=1)(partial(_make, arguments, CPU))
    try:
        return _make(arguments, arguments.device, on_cpu)
    except (UsageError, RuntimeError):  # what else is wrong is wrong there, too
        codec = on_cpu()
        codec.remarks = (f"measured on the CPU: {arguments.device} cannot be used",)
        return codec


def _make(
    arguments: argparse.Namespace, where: str, fallback: Callable[[], PictureCodec] | None = None
) -> PictureCodec:
    device, coded = checked_device(where), arguments.bits == CODED
    model, name = load_model(device, arguments, video=True, forward_only=arguments.bits == ESTIMATED, coded=coded)
    settings = {option: getattr(arguments, option) for option in ("bits", "mask", *MAPPER)}
    if arguments.fallback:  # rows are of one run, whichever of the two they come from
        settings |= {"device": arguments.device.partition(":")[0], "fallback": arguments.fallback}
    asked = {option: getattr(arguments, option) for option in ("write", "ms_ssim", "top_channels", "names", "threads")}
    if is_sequential(model):
        group, kind = arguments.group or GROUP, CodedFrameMapper if coded else FrameMapper
        options = mapper_options(arguments, kind) | ({} if coded else {"reconstruction": True})
        with usage_errors("--model: ", "to run it", model):
            frames = kind(model, group=group, **options)
            return PictureCodec(frames, name=name, settings=settings, device=device, fallback=fallback, **asked)
    if arguments.group is not None:
        raise UsageError(f"--group {arguments.group} is for codecs of video; this model codes each frame by itself")
    if not coded:
        with contextlib.suppress(ValueError):  # of a model that cannot be copied
            model, settings["channels_last"] = accelerate(model), True
    channels, options = bool(arguments.top_channels), mapper_options(arguments, BitrateMapper)
    mapper = BitrateMapper(model, bits=arguments.bits, channels=channels, **options)
    forward = forward_options(arguments)
    with usage_errors("--model: ", "to run it", model):
        return PictureCodec(
            mapper, name=name, settings=settings, device=device, forward=forward, fallback=fallback, **asked
        )
