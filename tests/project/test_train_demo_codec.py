"""The training of the demo codec goes on where it stopped, and its decay leaves the state as it was."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

pytest.importorskip("compressai")
train_demo_codec = pytest.importorskip("train_demo_codec")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train_demo_codec, "CHANNELS", {"n": 8, "m": 12})
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    pixels = np.random.default_rng(0).integers(0, 255, 260 * 300 * 3, np.uint8)
    (tmp_path / "pixels.u8").write_bytes(pixels.tobytes())
    (tmp_path / "pixels.json").write_text(json.dumps({"index": [[0, 260, 300, 1]]}))
    return tmp_path


def steps(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


@pytest.mark.medium
def test_a_stop_saves_and_a_decay_ends_beside_the_state(state: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert train_demo_codec.main(["--state", str(state)]) == 0
        hook.remove()
        stopped = steps(state / "state.pt")
        assert stopped > 0
        before = (state / "state.pt").read_bytes()
        assert train_demo_codec.main(["--state", str(state), "--decay", "3"]) == 0
    finally:
        hook.remove()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert steps(state / "decayed.pt") == stopped + 3
    assert (state / "state.pt").read_bytes() == before
    assert "stopped" in (state / "log.txt").read_text()


def test_it_starts_as_a_linear_transform_that_gives_the_picture_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_demo_codec, "CHANNELS", {"n": 16, "m": 24})
    torch.manual_seed(0)
    x = torch.nn.functional.interpolate(torch.rand(4, 3, 16, 16), (128, 128), mode="bicubic").clamp(0, 1)
    model = train_demo_codec.variable_rate().eval()
    train_demo_codec.start_linear(model, x)
    with torch.no_grad():
        error = (model.g_s(model.g_a(x)) - x).square().mean()
    assert error < 0.1 * x.var()
