"""The blocks of code in README and docs/, and the files and names that stand in for a reader's own."""

from __future__ import annotations

import ast
import glob
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitrate_ext
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.arguments import make_parser
from bitrate_ext.estimator.estimator import DEMO
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"]  # but for those that the site makes of others
PAGES += [str(path.relative_to(ROOT)) for path in sorted((*ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")))]
LANGUAGES = {  # of fences, and whether their blocks are run
    "python": True,
    "sh": True,  # commands
    "console": True,  # commands behind "$ ", and what they print
    "text": False,  # what something prints, and drawings
    "bibtex": False,
    "{toctree}": False,
    "{eval-rst}": False,
}
_FENCE = re.compile(r"^(?:<!-- not run: ([^>]+) -->\n)?^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?|\bnan\b")


@dataclass(frozen=True)
class Block:
    """A block of code of a page; ``reason`` says why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str | None = None) -> list[Block]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text() if text is None else text
    return [
        Block(page, text.count("\n", 0, found.start(3)), found[2], found[3], found[1])
        for found in _FENCE.finditer(text)
    ]


@dataclass(frozen=True)
class Unit:
    """What is run at once: a block of Python, or one command, with what the page says that it prints."""

    block: Block
    code: str
    printed: str = ""

    @property
    def language(self) -> str:
        return self.block.language

    def __str__(self) -> str:
        return f"{self.block}: {self.code.strip().splitlines()[0]}"


def units(block: Block) -> list[Unit]:
    """What of a block is run."""
    if block.reason or not LANGUAGES[block.language]:
        return []
    text = block.text.replace("\\\n", " ")
    if block.language == "python":
        return [Unit(block, block.text)]
    if block.language == "console":
        parts = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
        return [Unit(block, command, output) for command, _, output in parts]
    return [Unit(block, line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def same_but_for_numbers(expected: str, printed: str) -> bool:
    """Whether texts have the same words; ``...`` at the end of a line stands for the rest of it."""
    patterns = [re.escape(re.sub(r"\s+", " ", _NUMBER.sub("#", line)).strip()) for line in expected.splitlines()]
    patterns = [one.replace(re.escape("..."), ".*") for one in patterns]
    lines = re.sub(r"[^\S\n]+", " ", _NUMBER.sub("#", printed))
    return all(re.search(rf"^ ?{one} ?$", lines, re.MULTILINE) for one in patterns)


def photograph(height: int = 256, width: int = 256) -> Tensor:
    """The bundled photograph's left upper part, [1, 3, H, W]."""
    return load_image(demo_photograph())[..., :height, :width].contiguous()


def _save_image(path: Path, shift: int = 0, size: int = 256) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True, parents=True)
    with Image.open(demo_photograph()) as image:
        image.convert("RGB").crop((shift, 0, shift + size, size)).save(path)


def _save_labels(path: Path, size: tuple[int, int] = (256, 256)) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    labels = Image.new("L", size, 0)
    labels.paste(1, (40, 40, 120, 120))
    labels.paste(2, (0, 160, 256, 256))
    labels.save(path)


def _save_folder(path: Path) -> None:
    for number in range(2):
        _save_image(path / f"{number}.png", 64 * number, 96)


def _save_pictures(path: Path) -> None:  # for *.png and the like
    for number in range(2):
        _save_image(path.with_name(f"{'ab'[number]}{path.suffix}"), 64 * number)


def _save_tar(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    _save_image(path.with_name("of-the-tar.png"), 32, 96)
    with tarfile.open(path, "w") as file:
        file.add(path.with_name("of-the-tar.png"), "0.png")


def _save_names(path: Path) -> None:
    _save_image(path.with_name("named.png"), 0, 96)
    path.write_text("named.png\n")


def _save_clip(path: Path) -> None:
    from video_clips import clip

    path.write_bytes(clip("mp4", frames=3))


def _save_clips(path: Path) -> None:
    path.mkdir(exist_ok=True)
    _save_clip(path / "a.mp4")


def _save_clip_labels(path: Path) -> None:
    from video_clips import SIZE

    _save_labels(path / "a.png", SIZE)


def _save_raw(path: Path) -> None:  # a frame of 1920 x 1080, 4:2:0, 10 bits
    path.write_bytes(b"\x00\x02" * (1920 * 1080 * 3 // 2))


def _save_frames(path: Path) -> None:
    for number in range(3):
        _save_image(path.with_name(path.name % number), 16 * number, 64)


def _save_zoo(path: Path, name: str = "mbt2018-mean") -> None:
    from zoo import small_model

    torch.save(small_model(name).state_dict(), path)


def _save_own(path: Path) -> None:
    names: dict[str, Any] = {"__name__": "mycodec"}
    exec(OWN_CODEC, names)
    torch.save(names["Codec"](N=64).state_dict(), path)


def _copy(source: Path) -> Callable[[Path], None]:
    def copy(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(source, path)

    return copy


def _save_run(path: Path) -> None:
    _save_folder(path.with_name("pictures"))
    quality = path.name[1:] if path.name[0] in "qr" and path.name[1:].isdigit() else "5"
    made = cli.main(
        ["dataset", "pictures", "-o", path.name, "--quality", quality, "--jobs", "1", "--write", "rows,cells"]
    )
    assert made == 0


OWN_CODEC = """
from compressai.models import MeanScaleHyperprior


class Codec(MeanScaleHyperprior):
    def __init__(self, N=8, M=12):
        super().__init__(N, M)


def small():
    return Codec(8, 12)
"""
FILES: dict[str, Callable[[Path], None]] = {
    **dict.fromkeys(("photo.jpg", "photo.png", "picture.png", "scan.tif"), _save_image),
    "chelsea.png": _copy(demo_photograph()),
    **dict.fromkeys(("*.png", "*.jpg"), _save_pictures),
    **dict.fromkeys(("photos", "photos/", "more/**/*.png", "photos/*.png"), lambda path: _save_folder(_folder(path))),
    "labels.png": _save_labels,
    "masks/": lambda path: [_save_labels(path / f"{stem}.png") for stem in ("a", "b")] and None,
    "shards/000.tar": _save_tar,
    "names.txt": _save_names,
    "clip.mp4": _save_clip,
    "clips/": _save_clips,
    "labels/": _save_clip_labels,
    "BasketballDrive_1920x1080_50fps_10bit_420.yuv": _save_raw,
    "frame_%04d.png": _save_frames,
    **dict.fromkeys(("mine.pth", "old.pth", "new.pth"), _save_zoo),
    **dict.fromkeys(("low.pth", "high.pth"), partial(_save_zoo, name="mbt2018")),
    "mycodec": lambda path: path.with_suffix(".py").write_text(OWN_CODEC) and None,
    "mycodec.pth": _save_own,
    **dict.fromkeys(("jpeg.py", "examples/jpeg.py"), _copy(ROOT / "examples/jpeg.py")),
    "all.safetensors": _copy(DEMO),
    "photo.bitrate.npz": lambda path: _bits(5).save(path),
    **dict.fromkeys(("out", "q2", "q4", "q6", "q8", "r2", "r4", "r6", "r8"), _save_run),  # of `summary` alone
}


def _folder(path: Path) -> Path:
    return Path(str(path).partition("/*")[0].rstrip("/"))


def make_files(words: Sequence[str], folder: Path) -> None:
    """Write what stands in for the files that a command or a block names."""
    parts = {part for word in words for part in re.split(r"[,=:]", word)} | set(words)
    for name in parts & set(FILES):
        if name[0] not in "oqr" or name.endswith((".pth", ".png")) or "summary" in words:
            FILES[name](folder / name)


def _coded(image: Tensor, quality: float | None) -> tuple[bytes, Tensor]:
    cells = torch.full((-(-image.shape[2] // 8), -(-image.shape[3] // 8)), 100.0, dtype=torch.float64)
    return bytes(int(cells.sum()) // 8 + 10), cells


def _latents() -> dict[str, Tensor]:
    """What a small codec makes of the photograph: its latents and their distributions."""
    from zoo import small_model

    model = small_model("mbt2018-mean")
    with torch.no_grad():
        z_hat = model.entropy_bottleneck(model.h_a(y := model.g_a(photograph())))[0]
        scales, means = model.h_s(z_hat).chunk(2, 1)
        return {"y_hat": (y - means).round() + means, "scales": scales, "means": means, "z_hat": z_hat}


def _bits(quality: int) -> Any:
    mapper = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(quality), channels=True)
    return mapper(photograph()).image(0, name=f"quality {quality}", picture=photograph())


def _likelihoods() -> Tensor:
    with torch.no_grad():
        return bitrate_ext.load_demo_codec()(photograph())["likelihoods"]["y"]


def _labels() -> Tensor:
    labels = torch.zeros(256, 256, dtype=torch.int64)
    labels[40:120, 40:120], labels[160:] = 1, 2
    return labels


def _video() -> nn.Module:
    from zoo import video_model

    return video_model()


NAMES: dict[str, Callable[[], Any]] = {  # that a page's blocks use and do not make
    "x": photograph,
    "model": bitrate_ext.load_demo_codec,
    "lmbda": lambda: 0.01,
    "distortion": lambda: torch.tensor(1.0),
    "importance": lambda: torch.ones(256, 256),
    "loader": lambda: [photograph(64, 64).requires_grad_() for _ in range(2)],
    "likelihoods": _likelihoods,
    "log_likelihoods": lambda: _likelihoods().log(),
    **{name: lambda name=name: _latents()[name] for name in ("y_hat", "scales", "means", "z_hat")},
    "labels": _labels,
    "mask": lambda: _labels() == 1,
    "other": lambda: _bits(6),
    **{name: lambda name=name: _bits(int(name[1])) for name in ("a4", "a5", "b4", "b5")},
    "result": lambda: bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec())(photograph()),
    "results": lambda: [bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec())(photograph()) for _ in range(2)],
    "field": lambda: bitrate_ext.calibrate(bitrate_ext.load_demo_codec()),
    "decoder": lambda: [(255 * photograph(96, 128)[0]).byte().permute(1, 2, 0).numpy() for _ in range(3)],
    "frames": lambda: [photograph(128, 128) for _ in range(2)],
    "ssf2020": _video,
    "my_codec": lambda: _coded,
}


def free_names(codes: Sequence[str]) -> set[str]:
    """Names that blocks read before any of them has made it."""
    made: dict[str, int] = {}  # by the line, over all blocks
    nodes = list(ast.walk(ast.parse("\n".join(codes))))
    for node in nodes:
        name = getattr(node, "arg", None) or getattr(node, "name", None) or getattr(node, "id", None)
        if isinstance(node, ast.alias):
            name = node.asname or node.name.partition(".")[0]
        if name and not isinstance(node, ast.keyword) and not isinstance(getattr(node, "ctx", None), ast.Load):
            made[name] = min(node.lineno, made.get(name, node.lineno))
    loads = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return {node.id for node in loads if node.lineno < made.get(node.id, node.lineno + 1)}


def run(unit: Unit, names: dict[str, Any]) -> None:
    """Run a block where the page's blocks before it have left their names, or a command, in the current folder."""
    if unit.language == "python":
        strings = [node.value for node in ast.walk(ast.parse(unit.code)) if isinstance(node, ast.Constant)]
        make_files([text for text in strings if isinstance(text, str)], Path.cwd())
        exec(compile("\n" * unit.block.line + unit.code, unit.block.page, "exec"), names)
    else:
        _run_command(unit.code, unit.printed)


def parse(unit: Unit) -> None:
    """Read a command's arguments, and look at what can be said of them before anything is read.

    Raises:
        UsageError: they are wrong.
    """
    words = shlex.split(unit.code, comments=True)
    if words[0] == "bitrate-ext":
        make_files([word for word in words if re.search(r"\.pth|\.safetensors|mycodec|labels|masks", word)], Path.cwd())
        arguments = make_parser().parse_args([word for word in words[1:] if word != "<"])
        arguments.check(arguments)


LESS = {"train-estimator": ("--minutes", "0.05", "--projection", "bilinear")}  # so that it takes seconds, not minutes


def _run_command(command: str, expected: str) -> None:
    """Run a command as a shell would, and compare what it prints, numbers aside, with what the page says."""
    words = shlex.split(command, comments=True)
    assert words, command
    make_files([word for word, before in zip(words, ["", *words], strict=False) if before != "-o"], Path.cwd())
    if words[0] != "bitrate-ext":
        words = [sys.executable if word in ("python", "pytest") else word for word in words]
        subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        return
    stdin = sys.stdin
    if "<" in words:
        at = words.index("<")
        sys.stdin = io.TextIOWrapper(open(words[at + 1], "rb"))  # noqa: SIM115, closed by whoever reads it
        words[at : at + 2] = []
    arguments = [found for word in words[1:] for found in (sorted(glob.glob(word)) or [word])]
    arguments += LESS.get(words[1], ())
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(arguments)
    finally:
        sys.stdin = stdin
    assert code == 0, f"{command}\n{err.getvalue()}"
    assert same_but_for_numbers(expected, out.getvalue() + err.getvalue()), out.getvalue() + err.getvalue()
