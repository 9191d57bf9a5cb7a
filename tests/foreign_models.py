"""Codecs as others write them: decoders that are methods, work on tokens, or have derivatives of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Square(torch.autograd.Function):
    """``y + y^2 / 8`` with a backward of its own and no forward mode."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y + y * y / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 + y / 4)


class Rounding(nn.Module):
    """An entropy model in CompressAI's way: values, and their likelihoods beside them."""

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        values = y.round()
        return values, torch.exp2(-1 - values.abs())


class AsModule(nn.Module):
    """Stride four; the decoder curves the latent and paints it, as a module that all others are compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, 4, 4, stride=4)
        self.entropy_model = Rounding()
        self.paint = nn.ConvTranspose2d(4, 3, 6, stride=4, padding=1)
        self.eval()

    def decoder(self, y: Tensor) -> Tensor:
        return self.paint(self.curved(y))

    def curved(self, y: Tensor) -> Tensor:
        return y + y * y / 8

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat, likelihoods = self.entropy_model(6 * self.analysis(x))
        return {"x_hat": self.decoded(y_hat), "likelihoods": {"y": likelihoods}}

    def decoded(self, y: Tensor) -> Tensor:
        return self.decode(y)

    def decode(self, y: Tensor, gain: float = 1.0) -> Tensor:
        return gain * self.decoder(y)


class Whole(AsModule):
    """The same decoder as one module."""

    def __init__(self) -> None:
        super().__init__()
        outer = self

        class Decoder(nn.Module):
            def forward(self, y: Tensor) -> Tensor:
                return outer.decoder(y)

        self.whole = Decoder().eval()

    def decoded(self, y: Tensor) -> Tensor:
        return self.whole(y)


class AsMethod(AsModule):
    """The decoder is a method that no submodule stands for, and is given more than the latent."""

    def decoded(self, y: Tensor) -> Tensor:
        return self.decode(y, gain=2.0) + 0


class OwnDerivative(Whole):
    """Its decoder has an ``autograd.Function``."""

    def curved(self, y: Tensor) -> Tensor:
        return Square.apply(y)


class Functional(AsMethod):
    """Its entropy model is no module either."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y_hat = (6 * self.analysis(x)).round()
        return {"x_hat": self.decoded(y_hat), "likelihoods": {"y": torch.exp2(-1 - y_hat.abs())}}


class Tokens(AsModule):
    """The decoder takes tokens ``[N, h * w, C]`` of a picture that is square."""

    def decoded(self, y: Tensor) -> Tensor:
        return self.from_tokens(y.flatten(2).mT)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return self.decoder(tokens.mT.unflatten(2, (side, side))) + 0


def alike(kind: type[AsModule], like: AsModule) -> Any:
    """Return a codec of that kind with the weights of another one."""
    model = kind()
    model.load_state_dict(like.state_dict(), strict=False)
    return model.eval()
