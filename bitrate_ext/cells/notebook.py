"""What notebooks show of a picture's bits: a small table and a small map, as HTML without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape

import torch.nn.functional as F
from torch import Tensor

from ..viz.colormap import Rim, apply_colormap, colour_limit, inside_rim

LONG_SIDE, COLOURS = 320, 128  # of the map, at most; pixels and colours


def card(title: str, facts: Mapping[str, str], bits: Tensor, rim: Rim, warnings: Iterable[str] = ()) -> str:
    """Return a title, a table of facts, a map ``[H, W]`` in bits per pixel, and warnings, all of it escaped.

    Where Matplotlib or Pillow is not installed there is no map.
    """
    rows = "".join(f"<tr><th>{escape(what)}</th><td>{escape(fact)}</td></tr>" for what, fact in facts.items())
    head = f"<caption>{escape(title)}</caption>" if title else ""
    notes = "".join(f"<div>warning: {escape(one)}</div>" for one in warnings)
    return f'<div><div style="display:flex;gap:1em"><table>{head}{rows}</table>{_image(bits, rim)}</div>{notes}</div>'


def _image(bits: Tensor, rim: Rim) -> str:
    try:
        from PIL import Image

        values = bits.detach().float().cpu()
        limit = colour_limit(inside_rim(values.numpy(), rim))
        times = max(values.shape) / LONG_SIDE
        if times > 1:
            size = [max(1, round(side / times)) for side in values.shape]
            values = F.interpolate(values[None, None], size=size, mode="area")[0, 0]
        colours = apply_colormap(values, limit).numpy()
    except ImportError:
        return ""
    file = io.BytesIO()
    Image.fromarray(colours).quantize(COLOURS).save(file, format="PNG")
    data, about = base64.b64encode(file.getvalue()).decode(), f"bits per pixel, from 0 to {limit:.3g}"
    return f'<figure><img alt="map" src="data:image/png;base64,{data}"><figcaption>{about}</figcaption></figure>'
