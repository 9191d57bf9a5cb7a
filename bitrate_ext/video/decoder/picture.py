"""How a frame becomes RGB: what is chosen on the way, and where that departs from what a viewer shows."""

from __future__ import annotations

import struct
from typing import Any

from .protocol import FLIPPED, MIRRORED, TRANSPOSED

# Matrix coefficients, FFmpeg's AVColorSpace; those that can be converted have the same numbers in PyAV's Colorspace.
BT709, BT601, BT2020 = 1, 5, 9
MATRICES = {BT709: "BT.709", 4: "FCC", BT601: "BT.601", 6: "BT.601", 7: "SMPTE 240M", BT2020: "BT.2020"}
OTHERS = {0: "RGB", 8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp"}  # of those that cannot
UNSPECIFIED = 2
FULL_RANGE = 2
HIGH_DEFINITION = 720  # rows from which an unlabelled video is BT.709, as players take it
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's AVColorTransferCharacteristic
WIDE = {9: "BT.2020", 10: "XYZ", 11: "DCI-P3", 12: "Display P3"}  # FFmpeg's AVColorPrimaries


def to_rgb(frame: Any, reformatter: Any) -> Any:
    """Return the frame as 8-bit RGB, by its own matrix and range; alpha is dropped, HDR is not tone-mapped."""
    matrix = matrix_of(frame)
    return reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=matrix,
        dst_colorspace=BT601 if matrix == BT709 else BT709,  # means nothing for RGB; old PyAV sets up no equal ones
        src_color_range=FULL_RANGE if is_full_range(frame) else frame.color_range,
        dst_color_range=FULL_RANGE,
    )


def matrix_of(frame: Any) -> int:
    """Return the frame's matrix, or a guess where it states none or one that cannot be converted."""
    if frame.colorspace in MATRICES:
        return int(frame.colorspace)
    return BT709 if min(frame.width, frame.height) >= HIGH_DEFINITION else BT601


def is_full_range(frame: Any) -> bool:
    """Tell whether black is 0; of some formats of pixels it always is."""
    if frame.format.is_rgb:
        return bool(frame.color_range in (0, FULL_RANGE))
    return bool(frame.color_range == FULL_RANGE or frame.format.name.startswith(("yuvj", "gray")))


def describe_picture(frame: Any, stream: Any) -> dict[str, Any]:
    """Return what INFO says of how frames are converted, by the first one: facts, and departures in words."""
    context, pixels = stream.codec_context, frame.format
    full, stated = is_full_range(frame), pixels.is_rgb or frame.colorspace != UNSPECIFIED
    matrix = "RGB" if pixels.is_rgb else MATRICES[matrix_of(frame)]
    foreign = stated and not pixels.is_rgb and frame.colorspace not in MATRICES
    aspect = stream.sample_aspect_ratio or 1
    facts = {
        "pixel_format": pixels.name,
        "matrix": matrix,
        "matrix_stated": stated and not foreign,
        "range": "full" if full else "limited",
        "range_stated": full or frame.color_range != 0,
        "hdr": HDR.get(context.color_trc),
        "primaries": WIDE.get(context.color_primaries),
        "interlaced": bool(frame.interlaced_frame),
        "pixel_aspect": f"{aspect.numerator}:{aspect.denominator}",
        "transparent": is_transparent(frame, stream),
    }
    departures = [
        (facts["hdr"], f"HDR ({facts['hdr']}) is not tone-mapped: a viewer shows more contrast"),
        (facts["primaries"], f"colours of {facts['primaries']} are not converted: a viewer shows them more saturated"),
        (facts["interlaced"], "frames are interlaced, and mapped with both fields woven: a viewer takes them apart"),
        (aspect != 1, f"pixels are not square ({facts['pixel_aspect']}), and not scaled: a viewer stretches them"),
        (rotation_of(frame) is None, "frames are to be turned by other than quarter turns, and are not"),
        (facts["transparent"], "transparency is dropped: a viewer shows what is behind"),
        (
            foreign,
            f"colours in {OTHERS.get(frame.colorspace, 'a matrix')} are taken for {matrix}: a viewer shows others",
        ),
    ]
    return {"picture": facts, "warnings": [words for departs, words in departures if departs]}


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
