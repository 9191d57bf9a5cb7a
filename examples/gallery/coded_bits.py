"""Bits that add up to the file.

What the range coder really spends on each symbol, less what the likelihoods foretell. Symbols whose likelihood is at
the model's floor cost less than the estimate says, most others a little more: tables hold whole numbers.
"""

from matplotlib.figure import Figure

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

x = load_image(demo_photograph())
result = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(), bits="coded", gap=True)(x)
ledger = result.ledger
print(f"{int(ledger.string_bytes)} bytes of strings; the ledger closes: {bool(ledger.closes)}")
for latent, part in ledger.latents.items():
    image, padding, state = (float(one.sum()) for one in (part.located, part.padding, part.overhead))
    print(
        f"  {latent}: {image:,.1f} bits in the image + {padding:,.1f} in the padding + {state:.1f} of the coder's state"
    )

figure = Figure(figsize=(7, 4), layout="constrained")  # without pyplot, which would keep it
axis = figure.subplots()
drawn = axis.imshow(result.gap[0, 0], cmap="RdBu_r", vmin=-0.05, vmax=0.05)
axis.set_axis_off()
figure.colorbar(drawn, label="coded minus estimated, bits per pixel")
figure.savefig("coded_bits.png", dpi=150)
