"""What the eyes cost.

Boxes, masks or labels are regions: their bits, share of all bits and of all pixels, bits per pixel and PSNR. The bits
of a cell on a border are split as its projection splits them.
"""

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

# x, y, width, height
boxes = {"left eye": (133, 85, 75, 62), "right eye": (293, 108, 52, 58), "nose": (235, 225, 60, 45)}
x = load_image(demo_photograph())
result = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec())(x)
table = result.region(list(boxes.values()), names=list(boxes), picture=x)
print(table)

figure, axes = result.image(0, picture=x).figure(width="page")
for left, top, width, height in boxes.values():
    for axis in axes.flat:
        xs, ys = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
        axis.plot(xs, ys, color="white", linewidth=1)
figure.savefig("regions.png", dpi=150)
