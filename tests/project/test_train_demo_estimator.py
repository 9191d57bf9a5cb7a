"""The training of the estimator that ships: its labels are those of the codec, and it writes weights and a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitrate_ext import RateEstimator
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.models.demo_codec import load_demo_forward

pytest.importorskip("compressai")
train_demo_estimator = pytest.importorskip("train_demo_estimator")
pytestmark = pytest.mark.medium


def test_all_qualities_at_once_are_each_by_itself() -> None:
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    together = train_demo_estimator.AllQualities()(x.expand(len(DEMO_QUALITIES), -1, -1, -1))["likelihoods"]
    for row, quality in enumerate(DEMO_QUALITIES):
        alone = load_demo_forward(quality)(x)["likelihoods"]
        for latent in ("y", "z"):
            torch.testing.assert_close(together[latent][row], alone[latent][0])


def test_weights_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    pixels.tofile(tmp_path / "pixels.u8")
    places = [[index * pixels[0].size, 64, 96, index] for index in range(2)]
    (tmp_path / "pixels.json").write_text(json.dumps({"index": places}))
    photographs = train_demo_estimator.Photographs(tmp_path)
    assert len(photographs) == 2
    assert torch.equal(photographs[1][0], torch.from_numpy(pixels[1]).permute(2, 0, 1) / 255)
    monkeypatch.setattr(train_demo_estimator, "six_photographs", lambda: {"noise": pixels[0]})
    output = tmp_path / "e.safetensors"
    argv = ["--state", str(tmp_path), "--minutes", "0.05", "--projection", "nearest", "--output", str(output)]
    assert train_demo_estimator.main(argv) == 0
    about = RateEstimator.load(output).about
    assert about.qualities == DEMO_QUALITIES
    assert about.weights == RateEstimator.demo().about.weights
    card = output.with_suffix(".md").read_text()
    assert f"| 8 | {100 * about.errors[7].total:.1f} % | {about.errors[7].correlation:.3f} |" in card
    assert "Photographs: 1 of scikit-image" in card
