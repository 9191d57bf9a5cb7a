"""What is told of a data set's progress to those who draw it."""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow.parquet")
from bitrate_ext.cli import main as cli
from bitrate_ext.cli.dataset.track import tracked


class Told:
    """In the place of a run of Weights & Biases and of Aim."""

    def __init__(self, **options: Any) -> None:
        self.options, self.numbers, self.closed = options, dict[int, dict[str, float]](), 0

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.numbers.setdefault(step, {}).update(numbers)

    def track(self, value: float, name: str, step: int) -> None:
        self.log({name: value}, step)

    def close(self) -> None:
        self.closed += 1

    finish = close


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save("photo.png")
    return ["dataset", "photo.png", "-o", "out", "--jobs", "0", "--model", "block_codecs:BlockCodec"]


@pytest.mark.medium
@pytest.mark.parametrize(("kind", "call"), [("wandb", "init"), ("aim", "Run")])
def test_progress_is_tracked(photo: list[str], monkeypatch: pytest.MonkeyPatch, kind: str, call: str) -> None:
    runs: list[Told] = []
    fake = types.ModuleType(kind)
    setattr(fake, call, lambda **options: runs.append(Told(**options)) or runs[-1])
    monkeypatch.setitem(sys.modules, kind, fake)
    assert cli.main([*photo, "--track", f"{kind}:here"]) == 0
    (run,) = runs
    assert "here" in run.options.values()
    assert run.closed == 1
    assert run.numbers[1]["total"] == 1
    assert run.numbers[1]["bits_per_second"] > 0


@pytest.mark.medium
def test_tensorboard(photo: list[str]) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli.main([*photo, "--track", "tensorboard:events"]) == 0
    events = loader.EventAccumulator("events").Reload()
    assert events.Scalars("items")[-1].step == 1
    assert events.Scalars("errors")[-1].value == 0


def test_what_cannot_be_tracked(
    photo: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "aim", None)
    assert cli.main([*photo, "--track", "aim:here"]) == 2
    assert "--track: aim cannot be imported" in capsys.readouterr().err
    for text in ("tensorboard", "tensorboard:", "mlflow:here"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected tensorboard, wandb, aim and where"):
            tracked(text)
