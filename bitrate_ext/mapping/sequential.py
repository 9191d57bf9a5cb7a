"""Video codecs that code a frame from the one before: how they are called, and what they hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..models.compressai_quirks import apply_workarounds

KEYFRAME, INTER = "keyframe", "inter"
HANDED_OVER = (
    "return the state, forward_keyframe(x) -> (x_hat, likelihoods, state), and take it, "
    "forward_inter(x, state) -> (x_hat, likelihoods, state); it is handed on as it is"
)


def is_sequential(model: object) -> bool:
    """Return whether a model is one of videos, which codes a frame from the one before."""
    return all(callable(getattr(model, f"forward_{kind}", None)) for kind in (KEYFRAME, INTER))


def kind_of_frame(index: int, group: int | None) -> str:
    """Return the kind of a video's frame: a keyframe begins each ``group`` of them; None: only the first is one."""
    return KEYFRAME if index == 0 or (group is not None and index % group == 0) else INTER


@dataclass(eq=False)
class Memory:
    """What goes from one frame of a video to the next."""

    state: Any = None  # as the model returned it, or its reconstruction cut to [0, 1], as a decoder shows it
    warnings: list[str] = field(default_factory=list)  # of corrections of the last frame's likelihoods


class SequentialPart(nn.Module):
    """A video model's way of coding one kind of frame, as a model of images.

    It codes a frame from the memory that it is given, and leaves there what the next one is coded from. Without one, as
    where a model of images is probed, a frame is coded from a keyframe of the same picture, moved by two pixels.

    Args:
        model: has ``forward_keyframe(x)`` and ``forward_inter(x, state)``.
        kind: ``"keyframe"`` or ``"inter"``.
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind
        self.eval()

    def forward(self, x: Tensor, memory: Memory | None = None) -> dict[str, Any]:
        with apply_workarounds(self.model) as corrections:
            if self.kind == KEYFRAME:
                output = self._output(KEYFRAME, x)
            elif memory is None:
                before = self._output(KEYFRAME, x.roll((2, 2), dims=(2, 3)))
                output = self._output(INTER, x, before["state"])
                if before["opaque"] and not output["opaque"]:
                    raise TypeError("forward_inter must return a state, as forward_keyframe does")
            else:
                output = self._output(INTER, x, memory.state)
        if memory is not None:
            memory.state, memory.warnings = output.pop("state"), corrections
        return output

    def _output(self, kind: str, x: Tensor, *state: Any) -> dict[str, Any]:
        returned = getattr(self.model, f"forward_{kind}")(x, *state)
        if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
            got = f"{len(returned)} values" if isinstance(returned, (tuple, list)) else type(returned).__name__
            raise TypeError(f"forward_{kind} must return x_hat, likelihoods and, if it keeps one, a state, got {got}")
        x_hat, likelihoods, *after = returned
        if not isinstance(x_hat, Tensor) or not isinstance(likelihoods, (Tensor, Mapping)):
            got = f"{type(x_hat).__name__}, {type(likelihoods).__name__}"
            raise TypeError(f"forward_{kind} must return a tensor x_hat and likelihoods, got {got}")
        state_after = after[0] if after else x_hat.to(x.dtype).clamp(0, 1)
        return {"x_hat": x_hat, "likelihoods": likelihoods, "state": state_after, "opaque": bool(after)}
