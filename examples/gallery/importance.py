"""A rate loss that knows what matters.

Background pixels whose bits count four times as much: the gradient of the weighted rate by the latent says where a
training would take bits away first. No map is made for it; the weights are brought down to the cells.
"""

import torch
from matplotlib.figure import Figure

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

x = load_image(demo_photograph())[..., :256, :448].contiguous()
rows, columns = torch.meshgrid(torch.arange(256), torch.arange(448), indexing="ij")
face = ((rows - 150) / 130) ** 2 + ((columns - 240) / 150) ** 2 < 1
importance = torch.where(face, 1.0, 4.0)  # [H, W]

model = bitrate_ext.load_demo_codec()
y = model.g_a(x).detach()
scales, means = model.h_s(model.entropy_bottleneck(model.h_a(y))[0]).detach().chunk(2, dim=1)
y = y.round().requires_grad_()
source = bitrate_ext.Gaussian(y, scales, means, floor=1e-9)
bits = {}
for name, weights in {"plain": None, "weighted": importance}.items():
    loss = bitrate_ext.RateLoss(importance=weights)({"y": source}, x)  # bits per pixel
    (gradient,) = torch.autograd.grad(loss, y)
    bits[name] = gradient.abs().sum(dim=1)[0]
    print(f"{name}: {loss.item():.3f} bits per pixel")

figure = Figure(figsize=(7, 1.7), layout="constrained")  # without pyplot, which would keep it
panels = {"the photograph, and what counts once": x[0].permute(1, 2, 0), **bits}
for axis, (name, shown) in zip(figure.subplots(1, 3), panels.items(), strict=True):
    axis.imshow(shown, cmap="inferno", vmin=0, vmax=float(bits["weighted"].max()), extent=(0, 448, 256, 0))
    axis.set_title(name, fontsize=8)
    axis.set_axis_off()
    if shown.dim() == 3:
        axis.contour(face, levels=[0.5], colors="white")
figure.savefig("importance.png", dpi=150)
