"""Loading models: the demo codec, CompressAI's zoo (never downloaded here) and checkpoint files, hostile ones too."""

from __future__ import annotations

import os
import pickle
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import nn

import bitrate_ext
from bitrate_ext.models import demo_codec
from bitrate_ext.models.zoo import load_checkpoint, load_zoo_model, torch_folder

MODELS = pytest.importorskip("compressai.registry").MODELS
zoo_image = pytest.importorskip("compressai.zoo.image")
zoo_image_vbr = pytest.importorskip("compressai.zoo.image_vbr")
safetensors_torch = pytest.importorskip("safetensors.torch")

ELIC = ("elic2022-official", "elic2022-chandelier")  # their full size is part of from_state_dict
SMALL: dict[str, dict[str, Any]] = {  # one of each way in which CompressAI's models are built from their weights
    **{name: arguments for name, arguments in zoo.SMALL.items() if name not in ELIC},
    "mbt2018-mean-vbr": {"N": 8, "M": 12},
}


def small_model(name: str) -> nn.Module:
    return MODELS[name](**SMALL[name])


def assert_same_ready_model(loaded: Any, original: nn.Module) -> None:
    """The same class and parameters, in eval mode, with coder tables."""
    assert type(loaded) is type(original)
    assert not any(module.training for module in loaded.modules())
    for (name, found), (_, expected) in zip(loaded.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(found, expected), name
    tables = [table for name, table in loaded.named_buffers() if name.endswith("_quantized_cdf")]
    assert tables
    assert all(table.numel() > 0 for table in tables)


def test_the_demo_codec_maps_the_demo_photograph() -> None:
    image = pytest.importorskip("PIL.Image").open(demo_codec.demo_photograph())
    assert image.size == (451, 300)
    codec = bitrate_ext.load_demo_codec()
    assert type(codec).__name__ == "MeanScaleHyperprior"
    assert {p.dtype for p in codec.parameters()} == {torch.float32}
    x = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(300, 451, 3)
    x = x.permute(2, 0, 1)[None, :, :128, :192].float() / 255
    result = bitrate_ext.BitrateMapper(codec)(x)
    assert result.padding_bits.item() == 0
    assert 0.02 < result.bpp.item() < 3
    assert result.x_hat is not None
    assert (result.x_hat - x).square().mean() < 0.01  # 20 dB


@pytest.mark.parametrize("module", ["compressai.models", "safetensors"])
def test_a_missing_dependency_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    required = module.partition(".")[0]
    with pytest.raises(ImportError, match=rf'{module} cannot be imported .* pip install .*"{required}[<>]'):
        bitrate_ext.load_demo_codec()


@pytest.mark.medium
@pytest.mark.parametrize("name", SMALL)
def test_training_checkpoints(name: str, tmp_path: Path) -> None:
    model, path = small_model(name), tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "state_dict": model.state_dict(), "optimizer": {"lr": 0.1}}, path)
    assert_same_ready_model(load_checkpoint(path, name), model)
    if "mbt2018-mean" in name or "factorized" in name:  # each other's neighbours; the rest would take seconds
        assert_same_ready_model(load_checkpoint(path), model)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["mbt2018-mean", "mbt2018-mean-vbr", "cheng2020-anchor-checkerboard"])
def test_weights_of_every_packing(name: str, tmp_path: Path) -> None:
    model, path = small_model(name), tmp_path / "weights.pt"
    model.update(force=True)
    weights = model.state_dict()
    for packed in (
        weights,
        {f"module.{key}": value for key, value in weights.items()},
        {"model_state_dict": weights},
    ):
        torch.save(packed, path)
        assert_same_ready_model(load_checkpoint(path, name), model)
    safetensors_torch.save_file(weights, tmp_path / "weights.safetensors")
    assert_same_ready_model(load_checkpoint(tmp_path / "weights.safetensors", name), model)


def test_variable_rate_models_keep_their_variable_entropy_bottleneck(tmp_path: Path) -> None:
    model = MODELS["mbt2018-mean-vbr"](N=8, M=12, vr_entbttlnck=True)
    model.update(force=True)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = load_checkpoint(tmp_path / "weights.pt")
    assert_same_ready_model(loaded, model)
    assert bitrate_ext.BitrateMapper(loaded)(torch.rand(1, 3, 20, 20), s=5).total_bits > 0


def test_stale_tables_are_rebuilt(tmp_path: Path) -> None:
    model = small_model("bmshj2018-factorized")
    model.update(force=True)
    stale = model.entropy_bottleneck._quantized_cdf.clone()
    with torch.no_grad():
        model.entropy_bottleneck.quantiles.mul_(2)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded: Any = load_checkpoint(tmp_path / "weights.pt", "bmshj2018-factorized")
    assert loaded.entropy_bottleneck._quantized_cdf.shape[1] > stale.shape[1]


@pytest.mark.medium
@pytest.mark.parametrize("name", [None, "mbt2018-mean"])
def test_parameters_alone_need_the_sizes(name: str | None, tmp_path: Path) -> None:
    model, path = small_model("mbt2018-mean"), tmp_path / "weights.safetensors"
    weights = {key: p.detach().half() for key, p in model.named_parameters()}
    safetensors_torch.save_file(weights, path, metadata={"N": "8", "M": "12"})
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(weights[key])
    assert_same_ready_model(load_checkpoint(path, name), model)
    safetensors_torch.save_file(weights, path)
    with pytest.raises(ValueError, match="do not fit 'mbt2018-mean': .*Missing key" if name else "fit no known arch"):
        load_checkpoint(path, name)
    del weights["h_s.4.bias"]
    safetensors_torch.save_file(weights, path, metadata={"N": "8", "M": "12"})
    with pytest.raises(ValueError, match=r"no 'h_s.4.bias' in it" if name else "fit no known archit"):
        load_checkpoint(path, name)


class Gadget:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_is_refused_and_never_runs(legacy: bool, tmp_path: Path) -> None:
    path, canary = tmp_path / "checkpoint.pt", tmp_path / "canary"
    content = {"state_dict": small_model("mbt2018-mean").state_dict(), "loss": Gadget(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="holds Python objects besides tensors; those are refused"):
        load_checkpoint(path)
    assert not canary.exists()
    path.write_bytes(pickle.dumps(Gadget(canary), protocol=2))
    with pytest.raises(ValueError, match="holds Python objects besides tensors; those are refused"):
        load_checkpoint(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes()).close()
    assert canary.exists()  # the gadget does work


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_files(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    weights = small_model("mbt2018-mean").state_dict()
    torch.save(weights, path) if suffix == "pt" else safetensors_torch.save_file(weights, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"weights.{suffix} is (damaged|not a readable)"):
        load_checkpoint(path)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save(torch.zeros(3), path)
    with pytest.raises(
        ValueError, match="must hold a state dict, at the top or under a key such as 'state_dict', got Tensor"
    ):
        load_checkpoint(path)
    torch.save({"epoch": 1, "net": {}}, path)
    with pytest.raises(ValueError, match="got the keys 'epoch', 'net'"):
        load_checkpoint(path)
    torch.save(nn.Conv2d(3, 8, 5).state_dict(), path)
    with pytest.raises(ValueError, match=r"fit no known architecture; name the architecture, one of 'bmshj2018-fact"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match=r"do not fit 'mbt2018-mean': no 'g_a.0.weight' in it"):
        load_checkpoint(path, "mbt2018-mean")
    torch.save(small_model("bmshj2018-hyperprior").state_dict(), path)
    with pytest.raises(ValueError, match=r"do not fit 'mbt2018-mean': Error\(s\) in loading state_dict .* \.\.\.$"):
        load_checkpoint(path, "mbt2018-mean")
    for name in ("mbt2019", "sfu2023-pcc-rec-pointnet"):
        with pytest.raises(ValueError, match=rf"name must be one of 'bmshj2018-factorized', .*, got '{name}'"):
            load_checkpoint(path, name)


@pytest.mark.medium
def test_weights_that_fit_two_architectures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(MODELS, "my-codec", MODELS["bmshj2018-factorized"])
    torch.save(small_model("bmshj2018-factorized").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="fit 'bmshj2018-factorized' and 'my-codec'; name the architecture"):
        load_checkpoint(tmp_path / "weights.pt")
    load_checkpoint(tmp_path / "weights.pt", "my-codec")


def test_variables_that_are_empty_are_as_if_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_folder() == Path(torch.hub.get_dir())
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert torch_folder() == Path("~/.cache/torch/hub").expanduser()
    assert os.environ["TORCH_HOME"] == ""
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert torch_folder() == Path("/cache/torch/hub")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """``downloads["weights"]`` is what the next download gives; ``downloads["url"]`` what it was asked for."""
    state: dict[str, Any] = {}

    def load_state_dict_from_url(url: str, **options: Any) -> dict[str, torch.Tensor]:
        assert Path(options.pop("model_dir")) == Path(torch.hub.get_dir()) / "checkpoints"
        assert options == {"map_location": "cpu", "check_hash": True, "weights_only": True}
        print(f"Downloading: {url}")
        state["url"] = url
        if isinstance(state["weights"], Exception):
            raise state["weights"]
        return state["weights"]

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load_state_dict_from_url)
    return state


@pytest.mark.parametrize("name", [*zoo_image.model_urls, *zoo_image_vbr.model_urls])
def test_zoo_models(name: str, downloads: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {**SMALL[name], "vr_entbttlnck": True} if name in ("mbt2018-mean-vbr",) else SMALL[name]
    model = MODELS[name](**sizes)
    downloads["weights"] = {f"module.{key}": value for key, value in model.state_dict().items()}
    loaded = load_zoo_model(name) if name.endswith("-vbr") else load_zoo_model(name, 3, "ms-ssim")
    assert_same_ready_model(loaded, model)
    tables = zoo_image_vbr.model_urls if name.endswith("-vbr") else zoo_image.model_urls
    assert downloads["url"] == (tables[name]["mse"] if name.endswith("-vbr") else tables[name]["ms-ssim"][3])
    assert capsys.readouterr().out == ""  # stdout is for results


def test_every_published_file_name_carries_a_hash() -> None:
    urls = [url for tables in zoo_image.model_urls.values() for table in tables.values() for url in table.values()]
    urls += [url for table in zoo_image_vbr.model_urls.values() for url in table.values()]
    assert urls
    for url in urls:
        found = torch.hub.HASH_REGEX.search(url.rpartition("/")[2])
        assert found is not None
        assert len(found[1]) == 8, url


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mbt2019", 1), r"name must be one of 'bmshj2018-factorized', .*'mbt2018-vbr', 'ssf2020', got 'mbt2019'"),
        (("elic2022-official", 1), r"name must be one of"),
        (("mbt2018-mean", 9), r"quality of 'mbt2018-mean' must be one of 1, 2, 3, 4, 5, 6, 7, 8, got 9"),
        (("cheng2020-attn", 7), r"quality of 'cheng2020-attn' must be one of 1, 2, 3, 4, 5, 6, got 7"),
        (("mbt2018-mean",), r"must be one of 1, .* got None"),
        (("mbt2018-mean", 1, "psnr"), r"metric of 'mbt2018-mean' must be one of 'ms-ssim', 'mse', got 'psnr'"),
        (("mbt2018-vbr", None, "ms-ssim"), r"metric of 'mbt2018-vbr' must be one of 'mse', got 'ms-ssim'"),
        (("mbt2018-vbr", 4), r"quality of 'mbt2018-vbr' must be None, got 4: one checkpoint serves all rates"),
        (("bmshj2018-factorized-relu", 1), r"no weights for 'bmshj2018-factorized-relu'.*'bmshj2018-factorized', with"),
    ],
)
def test_zoo_weights_that_do_not_exist(arguments: Any, message: str, downloads: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        load_zoo_model(*arguments)
    assert not downloads


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        ConnectionResetError("reset"),
        TimeoutError(),
        RuntimeError('invalid hash value (expected "e522738d", got "00")'),
        pickle.UnpicklingError("Weights only load failed.\nMore about it."),
    ],
)
def test_a_failed_download_is_one_clear_line(failure: Exception, downloads: dict[str, Any]) -> None:
    downloads["weights"] = failure
    with pytest.raises(
        RuntimeError, match=r"^the weights of 'mbt2018-mean' could not be loaded from https://.*: \S"
    ) as e:
        load_zoo_model("mbt2018-mean", 1)
    assert "\n" not in str(e.value)


@pytest.mark.medium
@pytest.mark.parametrize("name", ELIC)
def test_full_size_elic_is_told_from_the_other(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=f"do not fit '{(set(ELIC) - {name}).pop()}'"):
        load_checkpoint(tmp_path / "weights.pt", (set(ELIC) - {name}).pop())
    assert_same_ready_model(load_checkpoint(tmp_path / "weights.pt", name), model)


@pytest.mark.medium
def test_the_video_model_loads(tmp_path: Path, downloads: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = MODELS["ssf2020"]().eval()
    model.update(force=True)
    torch.save(model.state_dict(), tmp_path / "video.pt")
    downloads["weights"] = model.state_dict()
    for loaded in (load_checkpoint(tmp_path / "video.pt", "ssf2020"), load_zoo_model("ssf2020", 3)):
        assert not loaded.training
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
        assert loaded.motion_hyperprior.gaussian_conditional._quantized_cdf.numel() > 0
    assert downloads["url"].endswith("ssf2020-mse-3-9c8b998d.pth.tar")
    with pytest.raises(ValueError, match="quality of 'ssf2020' must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9, got 10"):
        load_zoo_model("ssf2020", 10)
