"""Frames per second of whole videos, and where the time goes: read, run the demo codec, map, colour, write.

    python benchmarks/frames.py [--sizes 1080p 4k] [--device cpu] [--memory 300 --memory-size 8k] [--record FILE]

Each contender maps the same synthetic clip, decoded and encoded alike; they take turns. The naive loop is what people
write today: ``model(x)`` frame by frame, the recipe of CompressAI issue 265, matplotlib's colours, then the next frame.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from record import Record

import bitrate_ext
from bitrate_ext.cli.bench import recipe
from bitrate_ext.mapping.frames import FrameMapper
from bitrate_ext.models.demo_codec import demo_photograph
from bitrate_ext.threads import Stopwatch
from bitrate_ext.video.map_video import map_video
from bitrate_ext.video.reader import VideoReader
from bitrate_ext.video.writer import VideoWriter
from bitrate_ext.viz.colormap import apply_colormap, overlay_bits

SIZES = {"480p": (480, 854), "1080p": (1080, 1920), "4k": (2160, 3840), "8k": (4320, 7680)}  # (H, W), pixels
LIMIT = 1.0  # bits per pixel, upper end of the colours
RATE = Fraction(25)
Contender = Callable[[Path, Path], list[float]]
PROJECTIONS = ("bilinear", "guided")
STAGES = ("decode", "network", "map", "colour", "overlay", "encode")
CLOSE = 0.1  # share by which bits of a frame may differ: the naive loop pads at the right and below alone
STEADY = 20  # frames after which memory may no longer grow


def make_clip(path: Path, size: tuple[int, int], frames: int) -> None:
    """A walk over the bundled photograph, enlarged."""
    height, width = size
    with Image.open(demo_photograph()) as photograph:
        large = np.asarray(photograph.convert("RGB").resize((width + 4 * frames, height + 2 * frames), Image.LANCZOS))
    with VideoWriter(path, width, height, RATE) as video:
        for k in range(frames):
            video.write(np.ascontiguousarray(large[2 * k : 2 * k + height, 4 * k : 4 * k + width]), k / RATE)


def naive(source: Path, target: Path, model: torch.nn.Module, device: torch.device) -> list[float]:
    """Frame by frame, as the recipe's readers do it; returns the bits of each."""
    totals = []
    with av.open(str(source)) as video, av.open(str(target), "w") as result, torch.no_grad():
        stream = result.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryfast"})
        shape = video.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = 2 * shape.width, shape.height, "yuv420p"
        for frame in video.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24")
            height, width = pixels.shape[:2]
            x = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255
            bottom, right = -height % 64, -width % 64
            likelihoods = model(F.pad(x, (0, right, 0, bottom)))["likelihoods"]
            bits = recipe(likelihoods["y"], 16) + recipe(likelihoods["z"], 64)
            totals.append(bits.sum().item())
            shown = matplotlib.colormaps["inferno"](bits[0, 0, :height, :width].cpu().numpy() / LIMIT)[:, :, :3]
            canvas = np.concatenate([pixels, (255 * shown).astype(np.uint8)], axis=1)
            result.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        result.mux(stream.encode(None))
    return totals


def contenders(model: torch.nn.Module, device: torch.device) -> dict[str, Contender]:
    """Each maps a video and returns the bits of its frames."""

    def pipeline(scale: str | float = LIMIT, **options: Any) -> Contender:
        mapper = FrameMapper(model, **options)
        return lambda source, target: [row.total_bits for row in map_video(source, target, mapper, scale=scale).frames]

    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    return {
        "naive loop": lambda source, target: naive(source, target, model, device),
        "bitrate_ext": pipeline(),
        "with reconstruction": pipeline(reconstruction=True),
        "one scale for the clip": pipeline(scale="clip"),
        f"network in {str(half).removeprefix('torch.')}": pipeline(dtype=half),
    }


def stages(
    source: Path, target: Path, model: torch.nn.Module, device: torch.device, projection: str
) -> dict[str, float]:
    """Seconds a frame of each stage, one after the other: nothing overlaps."""
    watch = Stopwatch(synchronise=device)
    mapper = FrameMapper(model, projection=projection, prefetch=0, watch=watch)
    count = 0
    with VideoReader(source) as reader:
        size = (reader.height, 2 * reader.width)
        with VideoWriter(target, size[1], size[0], RATE) as writer:

            def decoded() -> Iterator[np.ndarray]:
                frames = iter(reader)
                while True:
                    with watch("decode"):
                        frame = next(frames, None)
                    if frame is None:
                        return
                    yield frame.pixels

            for result in mapper(decoded()):
                if result.index == 0:
                    watch.seconds.clear()  # what is found out at the first frame is no frame's
                    continue
                count += 1
                canvas = torch.empty((*size, 3), dtype=torch.uint8)
                with watch("colour"):
                    canvas[:, : size[1] // 2] = result.frame
                    canvas[:, size[1] // 2 :] = apply_colormap(result.map[0, 0], LIMIT)
                with watch("overlay"):
                    overlay_bits(result.frame, result.map[0, 0], LIMIT)
                with watch("encode"):
                    writer.write(canvas.numpy(), result.index / RATE)
    return {stage: watch.seconds[stage] / count for stage in STAGES}


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


class Blocks(torch.nn.Module):
    """A codec that costs next to nothing, so that a long clip of large frames takes minutes."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y, z = (F.avg_pool2d(x, stride).mul(0.9).add(0.05) for stride in (16, 64))
        return {"likelihoods": {"y": y.repeat(1, 32, 1, 1), "z": z}, "x_hat": x}


def memory(folder: Path, size: str, frames: int, codec: str) -> dict[str, Any]:
    """Resident bytes while a clip is mapped in two passes: of each, the largest after frame 20 over that at 20."""
    make_clip(folder / "long.mp4", SIZES[size], frames)
    seen: list[int] = []

    def progress(what: str, total: int | None) -> Callable[[], None]:
        return lambda: seen.append(resident())

    model = Blocks().eval() if codec == "blocks" else bitrate_ext.load_demo_codec()
    mapper = FrameMapper(model, dtype=None if codec == "blocks" else torch.bfloat16)
    record = map_video(folder / "long.mp4", folder / "out.mp4", mapper, progress=progress)
    assert len(record.frames) == frames
    grids = [mapper.placed("image").strides[name] for name in record.latent_bits]
    height, width = mapper.placed("image").adapter.canvas(*SIZES[size])[0]
    spooled = sum(4 * (height // rows) * (width // columns) for rows, columns in grids) * frames
    passes = [seen[:frames], seen[frames:]]
    return {
        "size": size,
        "codec": codec,
        "frames": frames,
        "at_20": [one[STEADY] for one in passes],
        "largest_after": [max(one[STEADY:]) for one in passes],
        "growth": [max(one[STEADY:]) / one[STEADY] - 1 for one in passes],
        "temporary_bytes": spooled,
        "frame_bytes": 3 * SIZES[size][0] * SIZES[size][1],
    }


def measured(size: str, folder: Path, frames: int, rounds: int, device: torch.device) -> dict[str, Any]:
    source, target = folder / f"{size}.mp4", folder / "out.mp4"
    model = bitrate_ext.load_demo_codec().to(device)
    make_clip(source, SIZES[size], frames)
    calls = contenders(model, device)
    make_clip(folder / "short.mp4", SIZES[size], 2)
    answers = {name: call(folder / "short.mp4", target) for name, call in calls.items()}
    for name, bits in answers.items():
        for mine, theirs in zip(bits, answers["naive loop"], strict=True):
            if not abs(mine - theirs) <= CLOSE * theirs:
                raise RuntimeError(
                    f"{name}: a frame of {mine:,.0f} bits, {theirs:,.0f} by the naive loop; nothing was timed"
                )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            count = len(call(source, target))
            seconds[name].append(time.perf_counter() - start)
            assert count == frames
    naive_rounds = seconds["naive loop"]
    rows = {
        name: {
            "frames_per_second": frames / statistics.median(times),
            "over_naive": statistics.median(n / t for n, t in zip(naive_rounds, times, strict=True)),
            "rounds": times,
        }
        for name, times in seconds.items()
    }
    by_stage = {projection: stages(source, target, model, device, projection) for projection in PROJECTIONS}
    ours = {name: one["map"] + one["colour"] + one["overlay"] for name, one in by_stage.items()}
    return {
        "size": size,
        "device": str(device),
        "frames": frames,
        "contenders": rows,
        "stages": by_stage,
        "share": {name: ours[name] / sum(one.values()) for name, one in by_stage.items()},
    }


def table(rows: list[dict[str, Any]], grown: dict[str, Any] | None) -> str:
    lines = []
    for row in rows:
        where = f"{row['size']} on {row['device']}, {row['frames']} frames"
        lines.append(f"{where}: frames per second, and times the naive loop's")
        for name, one in row["contenders"].items():
            lines.append(f"  {name:<26}{one['frames_per_second']:>8.2f}{one['over_naive']:>8.2f}")
        for projection, by_stage in row["stages"].items():
            parts = ", ".join(f"{stage} {1e3 * by_stage[stage]:.1f}" for stage in STAGES)
            lines.append(f"  {projection}, ms a frame, one stage after the other: {parts}")
            lines.append(f"  map, colour and overlay: {100 * row['share'][projection]:.1f} % of the whole")
    if grown:
        disk = grown["temporary_bytes"] / grown["frame_bytes"]
        lines.append(f"memory over two passes of {grown['frames']} frames of {grown['size']} ({grown['codec']}):")
        for name, first, most, growth in zip(
            ("network", "drawing"), grown["at_20"], grown["largest_after"], grown["growth"], strict=True
        ):
            parts = f"{first >> 20} MiB at frame {STEADY}, then at most {most >> 20} MiB ({100 * growth:+.1f} %)"
            lines.append(f"  {name}: {parts}")
        lines.append(f"  {disk:.2f} frames' bytes on disk")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["1080p", "4k"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=8, help="of each clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="watch memory over N frames")
    parser.add_argument("--memory-size", choices=SIZES, default="1080p")
    parser.add_argument("--memory-codec", choices=("demo", "blocks"), default="demo", help="blocks costs nothing")
    parser.add_argument("--record", type=Path, help="file for the figures (.json)")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        grown = None
        if chosen.memory:
            grown = memory(folder, chosen.memory_size, chosen.memory, chosen.memory_codec)
        rows = [measured(size, folder, chosen.frames, chosen.rounds, device) for size in chosen.sizes]
    print(table(rows, grown))
    if chosen.record:
        record = Record(chosen.record)
        del record.content["rows"], record.content["growth"], record.content["left_out"]
        record.content.update({"videos": rows, "memory": grown})
        record.finish()
        print(json.dumps(record.content["machine"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
