"""The Cool-Chic example: a trained codec's file to the bit, where COOL_CHIC names a checkout of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bitrate_ext import PictureBits

CHECKOUT = os.environ.get("COOL_CHIC", "")
needs_checkout = pytest.mark.skipif(not CHECKOUT, reason="COOL_CHIC names no checkout of Cool-Chic 5")
SAMPLE = Path(CHECKOUT) / "samples/bitstreams/kodim14.cool"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "cool_chic_example", Path(__file__).parents[2] / "examples/cool_chic.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLE = load()


def drawn(count: int, most: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Means and scales, float32, within the codec's limits and beyond them."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-1.2 * most, 1.2 * most, count).astype(np.float32)
    return means, np.exp(rng.uniform(-5, 6, count)).astype(np.float32)


def test_frequencies_are_whole_and_add_up() -> None:
    means, scales = drawn(200)
    symbols = np.arange(-64, 64)[:, None]
    frequencies = 2 ** (24 - EXAMPLE.symbol_bits(symbols, means, scales, 64))
    assert np.abs(frequencies - frequencies.round()).max() < 1e-6
    assert frequencies.round().min() >= 1
    assert (frequencies.round().sum(axis=0) == 2**24).all()


@needs_checkout
def test_frequencies_are_the_coders() -> None:
    """A stack coder's state after one symbol, which its frequency and the sum of those before it make."""
    constriction = pytest.importorskip("constriction")
    family = constriction.stream.model.QuantizedLaplace(-64, 63)
    symbols = np.random.default_rng(1).integers(-64, 64, 500).astype(np.int32)
    for symbol, mean, scale in zip(symbols, *drawn(500), strict=True):
        coder = constriction.stream.stack.AnsCoder(np.array([0xFEDCBA98, 0x00FFFFFF], dtype=np.uint32))
        before = state_of(coder)
        coder.encode_reverse(np.array([symbol]), family, np.array([mean]), np.array([scale]))
        every = 2 ** (24 - EXAMPLE.symbol_bits(np.arange(-64, 64), mean, scale, 64))
        frequency, first = round(every[symbol + 64]), round(every[: symbol + 64].sum())
        low = 0 if before < frequency << 40 else 32  # bits of the state that go out beforehand
        head = ((before >> low) // frequency << 24) + first + (before >> low) % frequency
        assert state_of(coder) == head << low | before & ((1 << low) - 1)


def state_of(coder: object) -> int:
    return sum(int(word) << 32 * place for place, word in enumerate(coder.get_compressed()))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def bits() -> PictureBits:
    return EXAMPLE.read_cool_chic(SAMPLE, CHECKOUT)


@needs_checkout
@pytest.mark.slow
def test_the_sample_closes(bits: PictureBits) -> None:
    assert bits.closes
    assert bits.file_bytes == SAMPLE.stat().st_size == 33_020
    assert sum(bits.latent_bits.values()) == pytest.approx(247_540.29, abs=0.005)
    assert bits.elsewhere["network weights"] == 16_160
    assert bits.elsewhere["headers"] == 384
    assert 0 <= bits.elsewhere["overhead of the coder"] <= 96  # its last state, in words of 32 bits
    assert bits.elsewhere["after the end"] == 0


@needs_checkout
@pytest.mark.slow
def test_the_samples_map(bits: PictureBits) -> None:
    assert bits.size == bits.canvas == (512, 768)
    assert bits.grids["latent 1/2"].bits.shape == (256, 384)
    assert float(bits.map().sum()) == pytest.approx(sum(bits.latent_bits.values()), rel=1e-9)
    assert list(bits.grids)[4:6] == ["latent 1/16", "hyperlatent 1/16"]
    assert all(float(grid.bits.min()) >= 0 for grid in bits.grids.values())
    assert bits.reconstruction is not None
    assert bits.reconstruction.shape == (1, 3, 512, 768)


@needs_checkout
@pytest.mark.parametrize("length", [0, 1, 20, 60, 3000])
def test_files_that_are_none(length: int, tmp_path: Path) -> None:
    (tmp_path / "cut.cool").write_bytes(SAMPLE.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut.cool must be"):
        EXAMPLE.read_cool_chic(tmp_path / "cut.cool", CHECKOUT)


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkout must be a folder of Cool-Chic 5"):
        EXAMPLE.read_cool_chic(tmp_path / "none.cool", tmp_path)
