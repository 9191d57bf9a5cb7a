"""A live page.

One file of HTML that any browser opens: hover over a pixel for its bits and those of its cells, draw regions, compare
two qualities. Here qualities 3 and 6 of the bundled codec on the bundled photograph.
"""

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

x = load_image(demo_photograph())
inputs = []
for quality in (3, 6):
    mapper = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(quality), channels=True)
    inputs.append(mapper(x).image(0, name=f"quality {quality}", picture=x))
bitrate_ext.write_page(inputs, "live_page.html", title="Chelsea at two qualities")

figure, axes = bitrate_ext.grid_figure([inputs])  # both in one scale of colours
figure.savefig("live_page.png", dpi=150)
