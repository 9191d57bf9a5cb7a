"""A first map.

The bits that the bundled codec spends on each pixel of the bundled photograph: eyes and fur cost most, the blurred
background next to nothing.
"""

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

x = load_image(demo_photograph())  # [1, 3, 300, 451] in [0, 1]
result = bitrate_ext.BitrateMapper(bitrate_ext.load_demo_codec(quality=5))(x)
print(f"{float(result.bpp):.3f} bits per pixel, {float(result.total_bits):,.0f} bits")
for latent, bits in result.latent_bits.items():
    print(f"  {latent}: {float(bits.sum()):,.0f}")

figure, axes = result.image(0, name="demo codec, quality 5", picture=x).figure(width="page")
figure.savefig("first_map.png", dpi=150)
