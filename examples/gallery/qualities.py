"""Four photographs at four qualities.

Rows are qualities 2, 4, 6 and 8 of the bundled codec, in one scale of colours that is even in the root of bits per
pixel: where the bits go hardly changes from a quality to the next, how many does.
"""

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import more_photographs

squares = load_image(more_photographs()).split(192, dim=3)  # four of [1, 3, 192, 192] in [0, 1]
rows = []
for quality in (2, 4, 6, 8):
    mapper = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(quality))
    rows.append([mapper(x).image(0, name=f"quality {quality}", picture=x) for x in squares])

figure, axes = bitrate_ext.grid_figure(rows)
figure.savefig("qualities.png", dpi=150)
