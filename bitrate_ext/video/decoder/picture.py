"""How a frame becomes RGB: what is chosen on the way, and where that departs from what a viewer shows."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from .protocol import FLIPPED, MIRRORED, TRANSPOSED

# Matrix coefficients, FFmpeg's AVColorSpace; those that can be converted have the same numbers in PyAV's Colorspace.
BT709, BT601, BT2020 = 1, 5, 9
MATRICES = {BT709: "BT.709", 4: "FCC", BT601: "BT.601", 6: "BT.601", 7: "SMPTE 240M", BT2020: "BT.2020"}
OTHERS = {0: "RGB", 8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp"}  # of those that cannot
UNSPECIFIED = 2
LIMITED_RANGE, FULL_RANGE = 1, 2
HIGH_DEFINITION = 720  # rows from which an unlabelled video is BT.709, as players take it
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's AVColorTransferCharacteristic
WIDE = {9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3"}  # FFmpeg's AVColorPrimaries
ALWAYS_FULL = ("yuvj", "gray")  # formats of pixels that FFmpeg takes to be of full range whatever is stated


class Chosen(NamedTuple):
    """What counts in the place of what frames state, where it is not None."""

    matrix: int | None = None
    limits: int | None = None  # LIMITED_RANGE or FULL_RANGE


STATED = Chosen()


def to_rgb(frame: Any, reformatter: Any, chosen: Chosen = STATED) -> Any:
    """Return the frame as 8-bit RGB, by its own matrix and range; alpha is dropped, HDR is not tone-mapped."""
    matrix, full = matrix_of(frame, chosen), is_full_range(frame, chosen)
    if not full and frame.format.name.startswith(ALWAYS_FULL):
        frame = _without_range(frame)
    stated, frame.colorspace = frame.colorspace, matrix  # by its argument old PyAV takes no BT.2020
    try:
        return reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=BT601 if matrix == BT709 else BT709,  # means nothing for RGB; old PyAV sets up no equal ones
            src_color_range=FULL_RANGE if full else chosen.limits or frame.color_range,
            dst_color_range=FULL_RANGE,
        )
    finally:
        frame.colorspace = stated


def matrix_of(frame: Any, chosen: Chosen = STATED) -> int:
    """Return the frame's matrix, or a guess where it states none or one that cannot be converted."""
    if chosen.matrix is not None:
        return chosen.matrix
    if frame.colorspace in MATRICES:
        return int(frame.colorspace)
    return BT709 if min(frame.width, frame.height) >= HIGH_DEFINITION else BT601


def is_full_range(frame: Any, chosen: Chosen = STATED) -> bool:
    """Tell whether black is 0; of some formats of pixels it is unless the caller chooses."""
    if frame.format.is_rgb:
        return bool(frame.color_range in (0, FULL_RANGE))
    if chosen.limits is not None:
        return chosen.limits == FULL_RANGE
    return bool(frame.color_range == FULL_RANGE or frame.format.name.startswith(ALWAYS_FULL))


def _without_range(frame: Any) -> Any:
    """Copy a frame into the like format of pixels whose range can be chosen; chroma of grey is neutral."""
    import av

    name = frame.format.name
    copy = av.VideoFrame(
        frame.width, frame.height, f"yuv{name[4:]}" if name.startswith("yuvj") else f"yuv444p{name[4:]}"
    )
    for plane, target in enumerate(copy.planes):
        rows, step = memoryview(target), target.line_size
        if plane < len(frame.planes):
            source, line = memoryview(frame.planes[plane]), frame.planes[plane].line_size
            used = min(step, line)
            for row in range(target.height):
                rows[row * step : row * step + used] = source[row * line : row * line + used]
        else:
            bits = copy.format.components[plane].bits
            order = "big" if copy.format.is_big_endian else "little"
            neutral = (1 << (bits - 1)).to_bytes((bits + 7) // 8, order)
            rows[:] = neutral * (len(rows) // len(neutral))
    return copy


class Picture:
    """How the frames of a video become RGB, and what is to be told of it.

    Args:
        stream: PyAV's.
        chosen: in the place of what the frames state.
    """

    def __init__(self, stream: Any, chosen: Chosen) -> None:
        from av.video.reformatter import VideoReformatter

        self._stream, self._chosen = stream, chosen
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self._first_aspect = stream.codec_context.sample_aspect_ratio
        self._seen: set[tuple[Any, ...]] = set()
        self._first: dict[str, Any] = {}
        self._told: set[str] = set()  # departures
        self._changed: set[str] = set()  # facts

    def to_rgb(self, frame: Any) -> Any:
        """Return the frame as 8-bit RGB."""
        return to_rgb(frame, self._reformatter, self._chosen)

    def changes(self, frame: Any) -> list[str]:
        """Say, once, what of a frame is other than in the first; of the first, nothing.

        What the codec states of all frames may be that of a later one: the decoder is ahead.
        """
        context = self._stream.codec_context
        labels = context.color_trc, context.color_primaries, self._aspect()
        key = (frame.format.name, frame.colorspace, frame.color_range, bool(frame.interlaced_frame), *labels)
        if key in self._seen:
            return []
        self._seen.add(key)
        facts, departures, _ = self._look_at(frame)
        if not self._first:
            self._first, self._told = facts, set(departures)
            return []
        changed = [name for name, fact in facts.items() if fact != self._first[name] and name not in self._changed]
        self._changed.update(changed)
        told = ", ".join(f"{name} from {_word(self._first[name])} to {_word(facts[name])}" for name in changed)
        words = [f"frames change on the way: {told}; each is taken by its own"] if told else []
        words += [f"later, {said}" for name, said in departures.items() if name not in self._told]
        self._told.update(departures)
        return words

    def describe(self, frame: Any) -> dict[str, Any]:
        """Return what INFO says of how frames are converted, by the first one: facts, and departures in words."""
        facts, departures, aspect = self._look_at(frame)
        return {"picture": facts, "warnings": list(departures.values()), "pixel_aspect": aspect}

    def _aspect(self) -> tuple[int, int]:
        """Return width and height of a pixel: the codec's, which may change, unless the container states another."""
        ratio, own = self._stream.sample_aspect_ratio, self._stream.codec_context.sample_aspect_ratio
        if own and ratio == self._first_aspect:
            ratio = own
        return (ratio.numerator, ratio.denominator) if ratio and ratio > 0 else (1, 1)

    def _look_at(self, frame: Any) -> tuple[dict[str, Any], dict[str, str], list[int]]:
        stream, chosen, pixels = self._stream, self._chosen, frame.format
        full, stated = is_full_range(frame, chosen), pixels.is_rgb or frame.colorspace != UNSPECIFIED
        own_matrix = chosen.matrix is None or pixels.is_rgb
        own_range = chosen.limits is None or pixels.is_rgb
        matrix = "RGB" if pixels.is_rgb else MATRICES[matrix_of(frame, chosen)]
        foreign = stated and own_matrix and not pixels.is_rgb and frame.colorspace not in MATRICES
        context, turn = stream.codec_context, rotation_of(frame)
        across, down = self._aspect()
        aspect = [down, across] if (turn or 0) & TRANSPOSED else [across, down]
        facts = {
            "pixel_format": pixels.name,
            "matrix": matrix,
            "matrix_stated": stated and own_matrix and not foreign,
            "matrix_chosen": not own_matrix,
            "range": "full" if full else "limited",
            "range_stated": own_range and (full or frame.color_range != 0),
            "range_chosen": not own_range,
            "hdr": HDR.get(context.color_trc),
            "primaries": WIDE.get(context.color_primaries),
            "interlaced": bool(frame.interlaced_frame),
            "pixel_aspect": ":".join(map(str, aspect)),
            "transparent": is_transparent(frame, stream),
        }
        wide, other = facts["primaries"], OTHERS.get(frame.colorspace, "a matrix")
        departures = {
            "hdr": (facts["hdr"], f"HDR ({facts['hdr']}) is not tone-mapped: a viewer shows more contrast"),
            "primaries": (wide, f"colours of {wide} are not converted: a viewer shows them more saturated"),
            "interlaced": (
                facts["interlaced"],
                "frames are interlaced, and mapped with both fields woven: a viewer takes them apart",
            ),
            "pixel_aspect": (
                across != down,
                f"pixels are not square ({facts['pixel_aspect']}), and not scaled: a viewer stretches them",
            ),
            "turn": (turn is None, "frames are to be turned by other than quarter turns, and are not"),
            "transparent": (facts["transparent"], "transparency is dropped: a viewer shows what is behind"),
            "matrix": (foreign, f"colours in {other} are taken for {matrix}: a viewer shows others"),
            "chosen": (
                pixels.is_rgb and chosen != STATED,
                "frames are stored as RGB: the matrix and the range that are chosen mean nothing",
            ),
        }
        return facts, {name: words for name, (departs, words) in departures.items() if departs}, aspect


def _word(fact: Any) -> str:
    return str({None: "none", True: "yes", False: "no"}.get(fact, fact))


def rotation_of(frame: Any) -> int | None:
    """Return how a viewer turns the frame, flags of ``protocol``; None where not by quarter turns and mirrors."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or memoryview(data).nbytes != 36:
        return 0
    # x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
    a, b, c, d = (int(factor) for factor in struct.unpack("=2i4x2i", bytes(data)[:20]))
    if a and d and not b and not c:
        return MIRRORED * (a < 0) | FLIPPED * (d < 0)
    if b and c and not a and not d:
        return TRANSPOSED | MIRRORED * (c < 0) | FLIPPED * (b < 0)
    return None


def is_transparent(frame: Any, stream: Any) -> bool:
    """Tell whether any of the frame is; alpha that is stored beside the frames of a WebM counts as such."""
    pixels = frame.format
    alpha = next((one for one in pixels.components if one.is_alpha), None)
    if alpha is None:
        return bool(stream.metadata.get("alpha_mode") == "1")
    size = (alpha.bits + 7) // 8
    opaque = enumerate(((1 << alpha.bits) - 1).to_bytes(size, "big" if pixels.is_big_endian else "little"))
    # Of sixteen bits the high byte counts: converters leave the last bits out.
    checked = [(at, value) for at, value in opaque if alpha.bits < 16 or at == 1 - pixels.is_big_endian]
    packed = alpha.plane == pixels.components[0].plane
    step = size * (len(pixels.components) if packed else 1)
    offset = step - size if packed and not pixels.name.startswith("a") else 0  # as in "rgba" and "argb"
    plane = frame.planes[alpha.plane]
    for start in range(0, plane.line_size * frame.height, plane.line_size):
        row = memoryview(plane)[start : start + step * frame.width]
        if any(row[offset + at :: step] != bytes([value]) * frame.width for at, value in checked):
            return True
    return False
