"""Ledgers, gaps, entropies and channels: as results, and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from coded_models import assert_closes, model_of, photograph
from commands import error_of

import bitrate_ext
from bitrate_ext import BitrateMapper
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.cli import check
from bitrate_ext.cli import main as cli
from bitrate_ext.coding.ledger import Ledger, LedgerBuilder
from bitrate_ext.models import demo_codec
from bitrate_ext.viz import map_figure as figures
from bitrate_ext.viz.channel_figure import channel_figure
from bitrate_ext.viz.figure import PixelFigure
from bitrate_ext.viz.map_figure import map_figure

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytest.importorskip("compressai")
pytestmark = pytest.mark.usefixtures("one_thread")
X = photograph()[:, :, 80:150, 100:201]


def mapped(name: str, **arguments: Any) -> bitrate_ext.BitrateResult:
    return BitrateMapper(model_of(name), bits="coded", **arguments)(X)


# Results.


@pytest.mark.parametrize(
    ("size", "quality"),
    [((300, 451), 5), ((64, 64), 5), ((1, 1), 5), *(((90, 130), quality) for quality in DEMO_QUALITIES)],
)
def test_the_demo_codec_adds_up(size: tuple[int, int], quality: int) -> None:
    codec: Any = bitrate_ext.load_demo_codec(quality)
    mapper = BitrateMapper(codec, bits="coded", gap=True)
    x = photograph()[:, :, : size[0], : size[1]]
    result = mapper(x)
    with torch.no_grad():
        assert_closes(result, codec.compress(mapper.adapter.pad(x)[0])["strings"], x)
    assert result.ledger is not None
    for one in result.ledger.latents.values():  # likelihoods are of the step that it is coded with, whatever the gains
        torch.testing.assert_close(one.located + one.padding, one.estimated, rtol=0.1, atol=32)


@pytest.mark.parametrize("projection", ["nearest", "area", {"y": "bilinear", "z": "nearest"}])
def test_every_projection_closes(projection: Any) -> None:
    result = mapped("mbt2018-mean", projection=projection)
    assert result.ledger is not None
    assert result.ledger.closes.all()


def test_grey_images_and_models_of_one_channel() -> None:
    grey = X.mean(dim=1, keepdim=True)
    assert BitrateMapper(model_of("mbt2018-mean"), bits="coded")(grey.expand(-1, 3, -1, -1)).ledger.closes.all()  # type: ignore[union-attr]
    model: Any = zoo.coded_model("bmshj2018-factorized")
    model.g_a[0] = torch.nn.Conv2d(1, 8, 5, 2, 2)
    model.g_s[-1] = torch.nn.ConvTranspose2d(8, 1, 5, 2, 2, 1)
    result = BitrateMapper(model.eval(), bits="coded", gap=True)(grey)
    assert result.ledger is not None
    assert result.ledger.closes.all()
    assert result.x_hat is not None
    assert result.x_hat.shape == grey.shape


@pytest.mark.parametrize(
    "name", ["mbt2018-mean", "bmshj2018-factorized", pytest.param("elic2022-official", marks=pytest.mark.medium)]
)
def test_the_gap_is_the_difference_of_two_maps(name: str) -> None:
    coded, estimated = mapped(name, gap=True), BitrateMapper(model_of(name), sources=False)(X)
    assert coded.gap is not None
    assert coded.gap.dtype == torch.float32
    apart = coded.map.double() - estimated.map.double()
    torch.testing.assert_close(coded.gap.double(), apart, rtol=0, atol=float(coded.map.max()) * 2e-7)
    assert float(coded.gap.abs().max()) > 0
    assert coded.x_hat is not None
    assert torch.equal(coded.x_hat, estimated.x_hat)
    assert coded.ledger is not None
    for latent, account in coded.ledger.latents.items():
        assert account.estimated is not None
        assert float(account.estimated) == pytest.approx(float(estimated.latent_bits[latent].double().sum()), rel=1e-6)
    without = mapped(name)
    assert without.gap is None
    assert without.x_hat is None
    assert torch.equal(without.map, coded.map)


def test_the_entropy_is_that_of_the_tables() -> None:
    model: Any = model_of("bmshj2018-factorized")
    x = X[:, :, :64, :96]
    result = BitrateMapper(model, bits="coded")(x)
    expected = 0.0
    for cdf, length in zip(model.entropy_bottleneck._quantized_cdf, model.entropy_bottleneck._cdf_length, strict=True):
        p = np.diff(cdf[:length].numpy()) / 65536
        expected += -(p * np.log2(p)).sum() * 4 * 6
    assert result.entropy is not None
    assert float(result.entropy.double().sum()) == pytest.approx(expected, rel=1e-6)
    assert result.entropy.shape == result.map.shape


def test_float64_models_have_float64_maps() -> None:
    model = zoo.coded_model("mbt2018-mean").double()
    result = BitrateMapper(model, bits="coded", gap=True)(X.double())
    for one in (result.map, result.gap, result.entropy, *result.maps.values(), *result.latent_bits.values()):
        assert one is not None
        assert one.dtype == torch.float64


def test_coded_bits_have_no_gradients() -> None:
    mapper = BitrateMapper(model_of("mbt2018-mean"), bits="coded")
    with pytest.raises(ValueError, match="coded bits are whole decisions of a coder and have no gradients"):
        mapper(X, gradients=True)
    assert not mapper(X.clone().requires_grad_()).map.requires_grad


def test_channels_of_the_estimate() -> None:
    model = model_of("mbt2018-mean")
    result = BitrateMapper(model, channels=True, sources=False)(X[:, :, :64, :64])
    with torch.no_grad():
        likelihoods = model(X[:, :, :64, :64])["likelihoods"]
    for name, p in likelihoods.items():
        torch.testing.assert_close(result.channel_bits[name], -p.double().log2().sum(dim=(2, 3)), rtol=1e-6, atol=1e-9)


def test_ledgers_that_do_not_close() -> None:
    builder = LedgerBuilder(2)
    for image in (0, 1):
        builder.enter(image, 100, 750.0, 0, 90)
    account = builder.account(torch.tensor([700.0, 700.0]).double(), torch.tensor([50.0, 50.0]).double())
    assert account.overhead.tolist() == [50.0, 50.0]
    assert Ledger({"y": account}).closes.tolist() == [True, True]
    assert Ledger({"y": account}).container_bytes.tolist() == [27, 27]
    lost = replace(account, located=torch.tensor([700.0, 700.0 - 1e-5], dtype=torch.float64))
    assert Ledger({"y": account, "z": lost}).closes.tolist() == [True, False]
    for bits in (800 - 31.0, 800 - 65.0):  # overheads that the coder cannot have
        builder = LedgerBuilder(1)
        builder.enter(0, 100, bits, 0, 90)
        assert not Ledger({"y": builder.account(torch.tensor([bits]).double(), torch.zeros(1).double())}).closes


# The command line.


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small photograph in the current folder; the demo codec is a smaller one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: zoo.coded_model("mbt2018-mean"))
    pixels = (X[0].permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save("cat.png")
    return "cat.png"


def test_check_says_how_the_file_adds_up(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", photo, "--container"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cat.png: 101 x 70, ")
    assert lines[0].endswith(" bytes in 2 strings, 31 bytes of container")
    assert lines[1].split() == ["image", "padding", "overhead", "strings", "estimated", "gap"]
    total = 0.0
    for line, latent in zip(lines[2:4], "yz", strict=True):
        name, image, padding, overhead, strings, estimated, gap, percent = line.replace(",", "").split()
        assert (name, percent) == (latent, "%")
        assert float(image) + float(padding) + float(overhead) == pytest.approx(float(strings), abs=0.02)
        assert 100 * ((float(image) + float(padding)) / float(estimated) - 1) == pytest.approx(float(gap), abs=0.02)
        total += float(strings)
    assert f"{round(total / 8):,} bytes in" in lines[0]
    assert f"{(total + 8 * 31) / 7070:.3f} bits per pixel" in lines[0]
    assert lines[4].startswith("  The ledger closes: ")
    assert all(line.startswith(("  warning: ", "  In padding: ")) for line in lines[5:])


def test_check_as_json(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", photo, "absent.png", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["version"] == bitrate_ext.__version__
    assert document["failures"] == [{"image": "absent.png", "error": "absent.png: no such file"}]
    assert captured.err == "bitrate-ext: error: absent.png: no such file\n"
    (one,) = document["images"]
    assert one["closes"] is True
    assert "container_bytes" not in one
    latents = one["latents"].values()
    assert sum(latent["string_bytes"] for latent in latents) == one["string_bytes"]
    for latent in latents:
        spent = latent["image"] + latent["padding"] + latent["overhead"]
        assert spent == pytest.approx(8 * latent["string_bytes"], abs=1e-6)
        assert abs(latent["closure"]) <= 1e-6
        assert latent["strings"] == 1
        assert latent["estimated"] > 0


def test_ledgers_that_do_not_close_are_exit_code_1(
    photo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account = LedgerBuilder.account
    monkeypatch.setattr(LedgerBuilder, "account", lambda self, located, padding: account(self, located - 0.5, padding))
    assert cli.main(["check", photo]) == 1
    assert "  The ledger DOES NOT CLOSE: 5.0e-01 bits are left over." in capsys.readouterr().out
    assert cli.main(["check", photo, "absent.png"]) == 2


def test_a_model_without_tables_is_one_line(
    photo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_codec, "load_demo_codec", lambda quality: zoo.small_model("mbt2018-mean"))
    assert cli.main(["check", photo]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(
        "bitrate-ext: error: model.gaussian_conditional has no tables for the coder; call model."
    )
    assert captured.err.count("\n") == 1


def test_a_map_of_coded_bits_with_all_pictures(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["map", photo, "-o", "out", "--bits", "coded", "--gap", "--channels", "--pixels"]) == 0
    assert sorted(entry.name for entry in Path("out").iterdir()) == [
        f"cat.{ending}"
        for ending in ("bitrate.npz", "bitrate.png", "channels.png", "entropy.png", "gap.png", "json", "overlay.png")
    ]
    record = json.loads(Path("out/cat.json").read_text())
    assert record["bits"] == "coded"
    assert record["ledger"]["closes"] is True
    assert record["total_bits"] == pytest.approx(
        sum(one["image"] + one["padding"] for one in record["ledger"]["latents"].values())
    )
    assert record["files"]["gap"] == "out/cat.gap.png"
    assert record["files"]["channels"] == "out/cat.channels.png"
    assert record["warnings"]
    errors = capsys.readouterr().err.splitlines()
    assert errors == [f"bitrate-ext: warning: cat.png: {warning}" for warning in record["warnings"]]
    for latent, channels in record["channels"].items():
        assert sorted(channels["channel"]) == list(range(12 if latent == "y" else 8))
        assert channels["bits"] == sorted(channels["bits"], reverse=True)
        assert sum(channels["bits"]) == pytest.approx(record["latent_bits"][latent], rel=1e-6)
        assert channels["share"][-1] == pytest.approx(1)
        np.testing.assert_allclose(np.diff(channels["share"]) * sum(channels["bits"]), channels["bits"][1:], atol=1e-6)
    with np.load("out/cat.bitrate.npz") as arrays:
        cells = [f"{kind}/{latent}" for kind in ("cells", "channels") for latent in "yz"]
        assert sorted(arrays) == ["bits", *cells, "entropy", "gap", "map", "maps/y", "maps/z", "metadata"]
        assert arrays["gap"].shape == (70, 101)
    for name in ("gap", "entropy", "channels"):
        with Image.open(f"out/cat.{name}.png") as picture:
            assert picture.mode == "RGB"


def test_one_limit_holds_for_all_maps_of_an_image(photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[object] = []

    def watch(bits: Any, **options: Any) -> Any:
        limits.append(options.get("limit"))
        return draw(bits, **options)

    draw = figures.map_figure
    for module in (check, figures):
        monkeypatch.setattr(module, "map_figure", watch)
    assert cli.main(["map", photo, "--bits", "coded", "--gap", "--channel", "max", "--limit", "2"]) == 0
    assert limits == [2.0] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gap"], "--gap needs --bits coded"),
        (
            ["--bits", "coded", "--projection", "jacobian"],
            "--projection jacobian follows estimated bits and cannot go wi",
        ),
        (["--bits", "real"], "argument --bits: invalid choice: 'real'"),
    ],
)
def test_options_that_do_not_go_together(
    photo: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, "map", photo, *options)
    assert not list(Path().glob("cat.*.png"))


# Pictures.


def test_differences_are_red_above_and_blue_below() -> None:
    gap = torch.zeros(60, 90)
    gap[:30], gap[:, 30:60] = 0.5, 0.0
    gap[30:, :30], gap[30:, 60:] = -0.5, -0.25
    picture = np.asarray(map_figure(gap, signed=True)).astype(int)
    factor = 8  # so that the long side, 90, has at least 720 pixels
    row, column = np.argwhere(np.ptp(picture, axis=2) > 100)[0]  # the panel's first pixel
    places = {"above": (15, 15), "zero": (15, 45), "below": (45, 15), "less": (45, 75)}
    colours = {name: picture[row + factor * y, column + factor * x] for name, (y, x) in places.items()}
    assert colours["above"][0] > 80 > colours["above"][2]
    assert colours["below"][2] > 80 > colours["below"][0]
    assert (colours["zero"] > 240).all()
    assert colours["less"][2] > colours["less"][0] > colours["below"][0]


def test_the_picture_of_channels() -> None:
    account = check.channel_account(torch.tensor([3.0, 0.0, 9.0, 4.0]))
    assert account["channel"] == [2, 3, 0, 1]
    assert account["share"] == pytest.approx([9 / 16, 13 / 16, 1, 1])
    one, two = (channel_figure(dict.fromkeys(names, account), title="$t$") for names in ("y", "yz"))
    assert two.width > 1.5 * one.width
    pixels = np.asarray(one).reshape(-1, 3)
    for colour in ((0x1F, 0x5F, 0xA8), (0xB8, 0x37, 0x5B)):
        assert (pixels == colour).all(axis=1).sum() > 200
    empty = check.channel_account(torch.zeros(3))
    assert empty["share"] == [0.0, 0.0, 0.0]
    endless = check.channel_account(torch.tensor([torch.inf, 1.0]))
    assert endless["bits"] == [None, 1.0]
    channel_figure({"y": empty, "z": endless})


def test_channels_have_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bar where there is room, the costliest ones elsewhere."""
    drawn: list[Any] = []
    monkeypatch.setattr(PixelFigure, "to_image", lambda self: drawn.append(self.figure))
    few, many = (check.channel_account(torch.arange(float(count))) for count in (8, 192))
    channel_figure({"z": few, "y": many})
    bars, curve = drawn[0].axes[0], drawn[0].axes[2]
    assert [one.get_text() for one in bars.get_xticklabels()] == [str(number) for number in range(7, -1, -1)]
    assert not bars.texts
    assert [one.get_text() for one in curve.texts] == [
        "most bits in\n191, 190, 189, 188, 187,\n186, 185, 184, 183, 182, …"
    ]


def test_the_ends_of_the_gap_say_who_spends_more(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(PixelFigure, "to_image", lambda self: drawn.append(self.figure))
    for shape in ((60, 60), (30, 90)):
        result: Any = SimpleNamespace(gap=torch.randn(1, 1, *shape), rim=(0, 0, 0, 0))
        check._picture("gap", result, "photo", "codec", None)
        said = {one.get_text(): one.get_window_extent() for one in drawn[-1].texts if "coder" in one.get_text()}
        assert set(said) == {"coder spends less", "coder spends more"}
        low, high = (said[f"coder spends {one}"] for one in ("less", "more"))
        assert high.x0 > low.x1 if shape[0] < shape[1] else high.y0 > low.y1
        for box in (low, high):
            assert 0 <= box.y0 < box.y1 <= drawn[-1].bbox.y1
            assert 0 <= box.x0 < box.x1 <= drawn[-1].bbox.x1


@pytest.mark.medium
def test_every_way_of_padding(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {}
    for padding in ("zeros", "replicate", "reflect"):
        assert cli.main(["check", photo, "--padding", padding, "--json"]) == 0
        (document,) = json.loads(capsys.readouterr().out)["images"]
        sizes[padding] = (document["string_bytes"], document["psnr_db"])
    assert cli.main(["check", photo, "--padding", "all", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["images"]
    assert document["closes"]
    assert {name: (one["string_bytes"], one["psnr_db"]) for name, one in document["paddings"].items()} == sizes
    assert len(set(sizes.values())) == 3
    assert cli.main(["check", photo, "--padding", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, (padding, (size, psnr)) in zip(lines[2:5], sizes.items(), strict=True):
        name, count, _, decibels, *_ = line.split()
        assert (name, count, decibels) == (padding, f"{size:,}", f"{psnr:.2f}")


def test_padding_that_takes_much_is_told(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["map", photo, "-o", "out"]) == 0
    assert "bitrate-ext check --padding all measures it" in capsys.readouterr().out
    Image.open(photo).crop((0, 0, 64, 64)).save("square.png")
    assert cli.main(["map", "square.png", "-o", "out"]) == 0
    assert "--padding" not in capsys.readouterr().out


@pytest.mark.parametrize("bits", ["estimated", "coded"])
def test_the_map_of_one_channel(photo: str, bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["map", photo, "-o", "out", "--bits", bits, "--pixels", "--overwrite"]
    assert cli.main([*argv, "--channel", "max", "--channels"]) == 0
    record = json.loads(Path("out/cat.json").read_text())
    latent, number = record["channel"].split(":")
    tops = {name: (one["bits"][0], one["channel"][0]) for name, one in record["channels"].items()}
    assert tops[latent] == (max(bits for bits, _ in tops.values()), int(number))
    with np.load("out/cat.bitrate.npz") as arrays:
        costliest = arrays["channel"]
    assert Image.open("out/cat.channel.png").size[0] > 500
    assert cli.main([*argv, "--channel", record["channel"]]) == 0
    with np.load("out/cat.bitrate.npz") as arrays:
        assert np.array_equal(arrays["channel"], costliest)
        assert 0 < costliest.sum() < arrays["map"].sum()
    capsys.readouterr()
    assert cli.main([*argv, "--channel", "y:999"]) == 2
    assert "channel of latent 'y' must be from 0 to" in capsys.readouterr().err
    assert cli.main(["map", photo, "--channel", "y"]) == 2
    assert "expected LATENT:K such as y:17, or max, got 'y'" in capsys.readouterr().err
