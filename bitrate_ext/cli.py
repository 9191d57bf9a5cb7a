"""The command ``bitrate-ext``: maps of photographs, receptive fields, a benchmark, and a look at the installation.

Exit codes: 0 everything done, 1 a video was damaged and is mapped in part, 2 something asked for could not be (each
with one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import torch

from .map_files import all_or_none as _all_or_none
from .mapper import RECEPTIVE_FIELD
from .memory import is_out_of_memory as _is_out_of_memory
from .projection import PROJECTIONS

if TYPE_CHECKING:
    from .mapper import AnyProjection, BitrateMapper, BitrateResult

OK, FAILED, INTERRUPTED = 0, 2, 130
JACOBIAN = "jacobian"  # no projection of the cells but of each symbol: see `attribute`
PASSES = 16
OUTPUTS = (".bitrate.png", ".overlay.png", ".bitrate.npz", ".json")  # the record comes last
MAP_NOTES = """\
For each IMAGE (PNG, JPEG, WebP, TIFF or BMP) DIR gets
  STEM.bitrate.png   the map with a colour bar in bits per pixel
  STEM.overlay.png   the map laid over the photograph
  STEM.bitrate.npz   float32 arrays [H, W], bits per pixel: "map", and "maps/y", "maps/z" ... for each latent;
                     "metadata" holds the JSON record as text
  STEM.json          sizes, bits, bits per pixel, bits of each latent, PSNR
and on request STEM.gap.png, STEM.entropy.png and STEM.channels.png; the gap and the entropy are in the arrays, too.
Files of these names are replaced once all are written. Of images with equal stems only the first is done.
Transparent parts of an image are laid on white. PSNR is that of the unrounded reconstruction, cut to [0, 1].
"""


class UsageError(Exception):
    """Arguments that cannot be served; the message is one line for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


@dataclass
class Record:
    """What ``STEM.json`` says of one image. Bits are null where they are infinite or not a number."""

    image: str
    width: int  # pixels
    height: int
    model: str
    projection: str
    device: str
    total_bits: float | None
    padding_bits: float | None  # the part of total_bits that falls outside the image
    bpp: float | None  # total_bits / (width * height)
    latent_bits: dict[str, float | None]  # of each latent; they add up to total_bits
    psnr_db: float | None  # null where the reconstruction is exact, or the model gives none
    version: str
    receptive_field: dict[str, dict[str, Any]] | None = None  # how each latent is laid out, for that projection
    jacobian: dict[str, Any] | None = (
        None  # for that one: passes, and the share of the bits expected in the wrong place
    )
    tiles: dict[str, Any] | None = None  # how a picture was cut that went in tiles, and what memory was planned
    bits: str = "estimated"  # or "coded"
    warnings: list[str] = field(default_factory=list)
    ledger: dict[str, Any] | None = None  # of coded bits
    channels: dict[str, dict[str, list[Any]]] | None = None  # on request: bits of each channel, most first
    files: dict[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about their own future
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = _show_warning
        try:
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments)
        except SystemExit as stop:  # argparse, after --help and --version
            return stop.code if isinstance(stop.code, int) else OK
        except KeyboardInterrupt:
            _say("bitrate-ext: interrupted", sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except (UsageError, ImportError) as error:
            _say(f"bitrate-ext: error: {_one_line(error)}", sys.stderr)
            return FAILED


def _parser() -> argparse.ArgumentParser:
    from . import __version__, cli_calibrate, cli_check, cli_tiles, cli_video

    parser = _Parser("bitrate-ext", description="Where a learned image codec spends its bits.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bitrate-ext {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")

    command = commands.add_parser(
        "map",
        help="maps of photographs",
        description="Bitrate maps of photographs, as pictures and as numbers.",
        epilog=MAP_NOTES + cli_tiles.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="photographs")
    command.add_argument("-o", "--output", default=".", metavar="DIR", help="folder for the results; made if absent")
    _add_model_arguments(command)
    command.add_argument(
        "--projection",
        choices=(*PROJECTIONS, RECEPTIVE_FIELD, JACOBIAN),
        default="bilinear",
        help="default bilinear; receptive-field is measured on the model's own decoder, see bitrate-ext calibrate; "
        "jacobian follows the bits of each image through the decoder, pixel by pixel",
    )
    command.add_argument(
        "--passes", type=int, metavar="N", help=f"of jacobian: more take longer and err less (default {PASSES})"
    )
    cli_tiles.add_arguments(command)
    cli_check.add_map_arguments(command)
    command.set_defaults(run=_run_map)
    cli_check.register(commands)

    command = commands.add_parser(
        "calibrate",
        help="where a decoder paints with the bits of one latent cell",
        description="Measures the receptive field of a latent: how a decoder spreads the bits of one cell over pixels.",
        epilog=cli_calibrate.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("-o", "--output", default=".", metavar="DIR", help="folder for the results; made if absent")
    _add_model_arguments(command)
    cli_calibrate.add_arguments(command)
    command.set_defaults(run=cli_calibrate.run)

    command = commands.add_parser(
        "video",
        help="maps of videos",
        description="Bitrate maps of videos, as videos and as numbers; or of a photograph over a codec's qualities.",
        epilog=cli_video.NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_model_arguments(command)
    cli_video.add_arguments(command)
    command.set_defaults(run=cli_video.run)

    command = commands.add_parser("bench", help="a short comparison on this machine", allow_abbrev=False)
    command.add_argument("--device", default="cpu", metavar="D", help="such as cpu or cuda:0 (default cpu)")
    command.set_defaults(run=_run_bench)

    command = commands.add_parser("doctor", help="what is installed, and how to mend what is not", allow_abbrev=False)
    command.set_defaults(run=_run_doctor)
    return parser


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", metavar="NAME", help="CompressAI model, such as mbt2018-mean; default: the demo codec"
    )
    command.add_argument("--quality", type=int, metavar="Q", help="quality of the published weights, from 1 on")
    command.add_argument("--metric", choices=("mse", "ms-ssim"), help="what they were trained for (default mse)")
    command.add_argument("--checkpoint", metavar="FILE", help="your own weights; --model then names the architecture")
    command.add_argument("--device", default="cpu", metavar="D", help="such as cpu or cuda:0 (default cpu)")
    command.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")


def _run_bench(arguments: argparse.Namespace) -> int:
    from . import bench

    bench.run(_checked_device(arguments.device), lambda line: _say(line, sys.stdout))
    return OK


def _run_doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    findings = doctor.examine()
    _say(doctor.report(findings), sys.stdout)
    return OK if doctor.core_works(findings) else FAILED


def _run_map(arguments: argparse.Namespace) -> int:
    from . import __version__, cli_calibrate, cli_check, cli_tiles
    from .mapper import BitrateMapper

    device = _checked_device(arguments.device)
    _check_model_arguments(arguments)
    cli_check.check_map_arguments(arguments)
    if arguments.passes is not None and arguments.projection != JACOBIAN:
        raise UsageError(f"--passes {arguments.passes} goes with --projection {JACOBIAN}")
    cli_tiles.check_arguments(arguments)
    folder = _made_folder(arguments.output)
    model, name = _model_on(device, arguments)
    projection: AnyProjection = arguments.projection
    if projection == RECEPTIVE_FIELD:
        projection = cli_calibrate.measured_projections(model, device)
    projection = "nearest" if projection == JACOBIAN else projection
    mapper = BitrateMapper(model, projection=projection, bits=arguments.bits, gap=arguments.gap)
    endings = (*cli_check.map_outputs(arguments).values(), *cli_tiles.endings(arguments))

    records: list[Record] = []
    failures: list[dict[str, str]] = []
    owners: dict[str, str] = {}  # stem, as file systems that ignore case see it, to the image that has it
    for image in _with_progress(arguments.images):
        try:
            targets = _targets(folder, image, owners, arguments.images, endings)
            one = cli_tiles.map_one if cli_tiles.needed(mapper, image, arguments, device) else _map_one
            record = one(mapper, image, device, name, arguments, targets)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error, image)
            if reason is None:
                raise
            failures.append({"image": image, "error": reason})
            _say(f"bitrate-ext: error: {reason}", sys.stderr)
            continue
        records.append(record)
        if not arguments.json:
            _say(_summary(record), sys.stdout)
    if arguments.json:
        document = {"version": __version__, "images": [asdict(r) for r in records], "failures": failures}
        _say(json.dumps(document, indent=2, allow_nan=False), sys.stdout)
    else:
        _say_outcome(folder, records, failures)
    return FAILED if failures else OK


def _check_model_arguments(arguments: argparse.Namespace) -> None:
    for option in ("quality", "metric"):
        if getattr(arguments, option) is None:
            continue
        if arguments.checkpoint is not None:
            raise UsageError(f"--{option} is for published weights and cannot go with --checkpoint")
        if arguments.model is None:
            raise UsageError(f"--{option} {getattr(arguments, option)} needs --model NAME")


def _checked_device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"--device: unknown device {text!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {text}: PyTorch finds no CUDA device here; bitrate-ext doctor says more")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {text}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return device
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError):
        raise UsageError(f"--device {text}: PyTorch cannot compute there on this machine") from None
    return device


def _made_folder(text: str) -> Path:
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--output {text}: the folder cannot be made ({reason})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--output {text}: no permission to write there")
    return folder


def _model_on(device: torch.device, arguments: argparse.Namespace, video: bool = False) -> tuple[torch.nn.Module, str]:
    """The model that the arguments ask for, on its device, and what to call it; one of video only where it may be."""
    from .frames import is_sequential

    if sys.stderr.isatty():  # importing CompressAI takes many seconds
        _say("Loading the model ...", sys.stderr)
    model, name = _loaded_model(arguments)
    if is_sequential(model) and not video:
        raise UsageError(f"{name} is a video codec; bitrate-ext video takes it")
    try:
        return model.to(device), name
    except RuntimeError as error:
        raise UsageError(f"--device {device}: the model cannot be moved there ({_one_line(error)})") from error


def _loaded_model(arguments: argparse.Namespace) -> tuple[torch.nn.Module, str]:
    from . import demo_codec, models

    try:
        if arguments.checkpoint is not None:
            model = models.load_checkpoint(arguments.checkpoint, arguments.model)
            return model, f"{Path(arguments.checkpoint).name} ({arguments.model or type(model).__name__})"
        if arguments.model is not None:
            metric = arguments.metric or "mse"
            model = models.load_zoo_model(arguments.model, arguments.quality, metric)
            quality = "" if arguments.quality is None else f", quality {arguments.quality}"
            return model, f"{arguments.model}{quality}, {metric}"
        return demo_codec.load_demo_codec(), "demo codec"
    except (ValueError, OSError, RuntimeError) as error:
        option = "--checkpoint" if arguments.checkpoint is not None else "--model"
        raise UsageError(f"{option}: {_one_line(error)}") from error


def _targets(
    folder: Path, image: str, owners: dict[str, str], images: Sequence[str], endings: Sequence[str]
) -> list[Path]:
    """Where the results of an image go; refuses to write over those of another one, or over an input."""
    stem = Path(image).stem
    if not stem:
        raise ValueError(f"{image!r}: not the name of an image file")
    owner = owners.get(stem.casefold())
    if owner is not None:
        raise ValueError(f"{image}: its results would be named as those of {owner}; map it into another folder with -o")
    owners[stem.casefold()] = image
    targets = [folder / f"{stem}{ending}" for ending in endings]
    inputs = {os.path.realpath(other): other for other in images}
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise ValueError(f"{image}: its results would replace the input {target}; choose another folder with -o")
    return targets


def _map_one(
    mapper: BitrateMapper,
    image: str,
    device: torch.device,
    model: str,
    arguments: argparse.Namespace,
    targets: Sequence[Path],
) -> Record:
    """Map one image and write its files, all or none."""
    import numpy as np

    from . import cli_check
    from .attribution import attribute
    from .cli_calibrate import described
    from .images import load_image
    from .render import map_figure, overlay

    photograph = load_image(image)
    result = mapper(photograph.to(device))
    jacobian = None
    if arguments.projection == JACOBIAN:
        assert isinstance(mapper.model, torch.nn.Module)
        passes = PASSES if arguments.passes is None else arguments.passes
        followed = attribute(mapper.model, photograph.to(device), passes=passes)
        result = replace(result, map=followed.map, maps=followed.maps, padding_bits=followed.padding)
        jacobian = {"passes": passes, "error": None if followed.error is None else _finite(followed.error.item())}
    record = _record(result, photograph, image, str(device), model, arguments.projection)
    record.receptive_field = described(mapper) if arguments.projection == RECEPTIVE_FIELD else None
    record.jacobian = jacobian
    cli_check.complete_record(record, result, arguments.channels)
    cli_check.warn(result, image)
    others = list(cli_check.map_outputs(arguments))
    record.files = dict(zip((*others, "map", "overlay", "arrays", "record"), map(str, targets), strict=True))
    text = json.dumps(asdict(record), indent=2, allow_nan=False)
    arrays = {"map": result.map, **{f"maps/{name}": one for name, one in result.maps.items()}}
    arrays |= cli_check.array_names(result)
    numbers = {key: one[0, 0].float().cpu().numpy() for key, one in arrays.items()}

    with _all_or_none(targets) as (*other_files, map_file, overlay_file, array_file, record_file):
        cli_check.write_pictures(other_files, others, result, Path(image).name, model)
        map_figure(result.map, title=Path(image).name, subtitle=_subtitle(record)).save(map_file, format="PNG")
        overlay(photograph, result.map).save(overlay_file, format="PNG")
        np.savez(array_file, metadata=np.array(text), **numbers)
        record_file.write(f"{text}\n".encode())
    return record


def _record(
    result: BitrateResult, photograph: torch.Tensor, image: str, device: str, model: str, projection: str
) -> Record:
    from . import __version__

    height, width = photograph.shape[-2:]
    psnr = None
    if result.x_hat is not None:
        error = (result.x_hat.cpu().double().clamp(0, 1) - photograph.double()).square().mean().item()
        psnr = -10 * math.log10(error) if error > 0 else None
    return Record(
        image=image,
        width=width,
        height=height,
        model=model,
        projection=projection,
        device=device,
        total_bits=_finite(result.total_bits.item()),
        padding_bits=_finite(result.padding_bits.item()),
        bpp=_finite(result.bpp.item()),
        latent_bits={name: _finite(bits.double().sum().item()) for name, bits in result.latent_bits.items()},
        psnr_db=_finite(psnr),
        version=__version__,
    )


def _with_progress(images: Sequence[str]) -> Iterator[str]:
    if len(images) < 2 or not sys.stderr.isatty():
        yield from images
        return
    from tqdm import tqdm

    with tqdm(images, unit="image", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        yield from bar


def _subtitle(record: Record) -> str:
    psnr = "" if record.psnr_db is None else f"   PSNR {record.psnr_db:.2f} dB"
    return f"{_number(record.bpp, '.3f')} bits per pixel{psnr}   {record.model}"


def _summary(record: Record) -> str:
    split = ", ".join(f"{name} {_number(bits, ',.0f')}" for name, bits in record.latent_bits.items())
    psnr = "" if record.psnr_db is None else f", {record.psnr_db:.2f} dB"
    padding = _number(record.padding_bits, ",.0f")
    return (
        f"{record.image}: {record.width} x {record.height}, {_number(record.bpp, '.3f')} bits per pixel{psnr}, "
        f"{_number(record.total_bits, ',.0f')} bits ({split}), {padding} of them in padding"
    )


def _say_outcome(folder: Path, records: Sequence[Record], failures: Sequence[dict[str, str]]) -> None:
    if records:
        names = Path(records[0].files["map"]).name if len(records) == 1 else "*.bitrate.png"
        others = names.replace(".bitrate.png", ".overlay.png")
        _say(f"Pictures: {folder / names} and {folder / others}", sys.stdout)
    if failures and len(records) + len(failures) > 1:
        failed = ", ".join(failure["image"] for failure in failures)
        _say(f"Failed: {len(failures)} of {len(records) + len(failures)} images: {failed}", sys.stderr)


def _reason(error: Exception, image: str) -> str | None:
    """One line that names the image; None for what is trouble of neither the image nor the machine."""
    if _is_out_of_memory(error):
        return f"{image}: not enough memory to map it on this device"
    if isinstance(error, OSError):
        return f"{image}: its results cannot be written ({error.strerror or _one_line(error)})"
    return _one_line(error) if isinstance(error, ValueError) else None


@contextlib.contextmanager
def _trouble_in_one_line(option: str) -> Iterator[None]:
    """Trouble with the model or the arguments, or too little memory for them, as an error for the user."""
    try:
        yield
    except (ValueError, MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise UsageError(f"{option}not enough memory to measure the receptive field on this device") from error
        if not isinstance(error, ValueError):
            raise
        raise UsageError(f"{option}{_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None, form: str) -> str:
    return "infinitely many" if value is None else format(value, form)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"bitrate-ext: warning: {' '.join(str(message).split())}", sys.stderr)


def _say(text: str, stream: IO[str]) -> None:
    """Print past a progress bar; characters that the stream cannot show are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    tqdm = sys.modules.get("tqdm")  # there where a bar may be
    if tqdm is not None:
        tqdm.tqdm.write(shown, file=stream)
    else:
        print(shown, file=stream)
    stream.flush()
