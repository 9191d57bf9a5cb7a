"""Where a cell's bits lie.

The same bits of a cat's eye laid out evenly over each cell, by a hat between cell centres, and followed through the
decoder's Jacobian to the pixels that they paint: eyelids and hairs. All three add up to the same total.
"""

from matplotlib.figure import Figure

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

x = load_image(demo_photograph())[..., 70:166, 112:240].contiguous()  # an eye, [1, 3, 96, 128]
model = bitrate_ext.load_demo_codec(quality=7)
maps = {name: bitrate_ext.BitrateMapper(model, projection=name)(x).map for name in ("nearest", "bilinear")}
maps["Jacobian, 16 passes"] = bitrate_ext.attribute(model, x, passes=16).map
for name, one in maps.items():
    print(f"{name}: {float(one.sum()):,.1f} bits on the picture")  # what the padding has is counted apart

figure = Figure(figsize=(7, 4.6), layout="constrained")  # without pyplot, which would keep it
limit = max(float(one.quantile(0.995)) for one in maps.values())
for axis, (name, shown) in zip(figure.subplots(2, 2).flat, {"the picture": x, **maps}.items(), strict=True):
    axis.imshow(shown[0].permute(1, 2, 0), cmap="inferno", vmin=0, vmax=limit)
    axis.set_title(name, fontsize=9)
    axis.set_axis_off()
figure.savefig("projections.png", dpi=150)
