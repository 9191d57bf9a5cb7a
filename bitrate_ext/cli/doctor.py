"""A look at the installation: what is there, which kernels are active, and how to mend what is not."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from .._version import __version__
from ..ops import library
from ..ops.functional import bitrate_map
from ..optional import (
    PACKAGE,
    build_again,
    distribution_of,
    folder_of,
    install_command,
    installed_version,
    missing_names,
    shadowed,
    take_off,
)
from .console import FAILED, OK, echo, one_line

CPU = torch.device("cpu")
INSTRUCTION_SETS = ("baseline", "AVX2 with FMA", "AVX-512")
CORE = ("torch", "numpy")
OPTIONAL = {  # module to what needs it
    "compressai": "the demo codec and other models",
    "safetensors": "the demo codec's weights",
    "PIL": "reading images",
    "matplotlib": "drawing maps",
    "tqdm": "progress bars",
    "captum": "integrated gradients and Grad-CAM",
    "av": "videos",
    "tifffile": "TIFF files in parts",
    "pillow_heif": "HEIC pictures",
    "pillow_jxl": "JPEG XL pictures",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and how to mend it where it is not well."""

    name: str
    state: str
    well: bool = True
    core: bool = False  # the operator itself cannot do without it
    remedy: str = ""


def run(_: argparse.Namespace) -> int:
    """Look at everything and print what was found."""
    findings = examine()
    echo(report(findings), sys.stdout)
    return OK if core_works(findings) else FAILED


def instruction_set() -> str:
    """Name the instruction set that the CPU kernels use on this processor."""
    if not library.available(CPU):
        return "none: PyTorch reference"
    return INSTRUCTION_SETS[torch.ops.bitrate_ext._choose_instruction_set(-1) - 1]


def examine() -> list[Finding]:
    """Look at everything; takes a few seconds, because optional packages are imported to see whether they work."""
    return [
        _package(),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", core=True),
        *(Finding(name, importlib.import_module(name).__version__, core=True) for name in CORE),
        *(_optional(module, purpose) for module, purpose in OPTIONAL.items()),
        _cpu_kernels(),
        _cuda_kernels(),
        _answer("reference"),
        *([_answer("native")] if library.available(CPU) else []),
    ]


def core_works(findings: Sequence[Finding]) -> bool:
    """Return whether all is well that the operator itself needs."""
    return all(finding.well for finding in findings if finding.core)


def report(findings: Sequence[Finding]) -> str:
    """Format a line for each finding, and one with a remedy below those that need it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = "ok  " if finding.well else "BAD " if finding.core else "--  "
        lines.append(f"{mark}{finding.name:<{width}}  {finding.state}")
        if finding.remedy:
            lines.append(f"{'':<{width + 6}}to mend: {finding.remedy}")
    works = core_works(findings)
    lines.append("bitrate_map works" if works else "bitrate_map does not work: mend the lines marked BAD")
    return "\n".join(lines)


def _package() -> Finding:
    installed = shadowed()
    if installed is None:
        return Finding("bitrate_ext", __version__, core=True)
    return Finding(
        "bitrate_ext", f"{__version__}, from {PACKAGE} and not the installed", well=False, remedy=build_again("")
    )


def _optional(module: str, purpose: str) -> Finding:
    """Look at what Python would import, which may be something else than what is installed under that name."""
    distribution, folder, install = distribution_of(module), folder_of(module), install_command(module)
    installed = installed_version(distribution)
    if folder is None and installed is None:
        return Finding(distribution, f"not installed; needed for {purpose}", well=False, remedy=install)
    foreign = folder is not None and not _belongs(folder, module, distribution)
    where = f", from {folder}" if folder is not None else ""
    where += f" and not the installed {installed}" if foreign and installed else ""
    version, trouble = "of unknown version" if foreign else installed, ""
    try:
        found = importlib.import_module(module)
        version = getattr(found, "__version__", version)
        missing = missing_names(module)
        trouble = f", without {', '.join(missing)}" if missing else ""
    except Exception as error:  # a broken package may raise anything while it is imported
        trouble = f", but it does not import: {one_line(error)}"
    if trouble:
        remedy = f"{take_off(folder)}; {install}" if folder is not None else install
        return Finding(distribution, f"{version}{where}{trouble}", well=False, remedy=remedy)
    return Finding(distribution, f"{version}{where if foreign else ''}")


def _belongs(folder: str, module: str, distribution: str) -> bool:
    """Return whether a module's folder is where the distribution of that name has installed it."""
    try:
        files = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    own = Path(str(files.locate_file(module)))
    return Path(folder).resolve() in (own.resolve(), own.with_suffix(".py").resolve())


def _cpu_kernels() -> Finding:
    if not library.available(CPU):
        remedy = build_again("install a C++17 compiler")
        return Finding("CPU kernels", f"absent: {library.why_absent(CPU)}", well=False, remedy=remedy)
    return Finding("CPU kernels", f"active, {instruction_set()}, {torch.get_num_threads()} threads")


def _cuda_kernels() -> Finding:
    if torch.cuda.is_available():
        device = f"PyTorch sees {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    elif torch.version.cuda:
        device = f"PyTorch is built for CUDA {torch.version.cuda} and finds no device"
    else:
        device = "this PyTorch is built without CUDA"
    absent = library.why_absent(torch.device("cuda"))
    if not absent:
        return Finding("CUDA kernels", f"{'active' if torch.cuda.is_available() else 'built'}; {device}")
    remedy = ""
    if torch.cuda.is_available():
        remedy = f"{absent}. Until then tensors on the GPU are served by the slower PyTorch reference"
    return Finding("CUDA kernels", f"absent; {device}", well=False, remedy=remedy)


def _answer(impl: str) -> Finding:
    """Map a latent whose map is known: four cells of 8, 16, 24 and 32 bits, each spread over 2 x 2 pixels."""
    name = f"self-check, {impl}"
    likelihoods = torch.tensor([[4.0, 8.0], [12.0, 16.0]]).neg().exp2().expand(1, 2, 2, 2)
    expected = torch.tensor([[2.0, 4.0], [6.0, 8.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    try:
        found = bitrate_map(likelihoods, (4, 4), projection="nearest", impl=impl)
    except Exception as error:  # whatever is broken, the report has to come out
        return Finding(name, f"fails: {' '.join(str(error).split())}", well=False, core=True, remedy=build_again(""))
    if not torch.equal(found[0, 0], expected):
        return Finding(name, f"wrong map {found[0, 0].tolist()}", well=False, core=True, remedy=build_again(""))
    return Finding(name, "right", core=True)
