"""The bundled codec beside JPEG.

Both at as many bytes as JPEG takes at quality 20, found by a search over the codec's qualities. Red is where JPEG
spends more. Its bits are read from its file, block by block, by `examples/jpeg.py`.
"""

import runpy
from pathlib import Path

import bitrate_ext
from bitrate_ext.models.demo_codec import demo_photograph

examples = Path(bitrate_ext.__file__).parents[1] / "examples"
jpeg = runpy.run_path(str(examples / "jpeg.py"))["encode"]

made = bitrate_ext.compare(demo_photograph(), (jpeg, 20), "demo,bytes=a,bits=coded,padding=reflect")
print(made.table())
for block in made.top_blocks(count=3):
    print(f"64 x 64 at {block.left}, {block.top}: {block.difference['b']:+,.0f} bits of JPEG beside the codec")

figure, axes = made.difference_figure(width="page")
figure.savefig("compare_with_jpeg.png", dpi=150)
