"""Checkpoints made to run code, to eat memory or to crash: each is a typed error, and nothing in them runs.

At least 300 files: 30 of pickled code, 200 cut short, 20 with faults in a safetensors header, and tensors, sizes,
tables and archives that are not what they say. Together they may take no gigabyte of memory.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import NAME, archive, assert_refused, saved, weights, write
from torch import Tensor

from bitrate_ext.cli import main as cli
from bitrate_ext.models.zoo import load_checkpoint

safetensors_torch = pytest.importorskip("safetensors.torch")
MOST_MEMORY = 2**30  # bytes that all of this may add to the process
pytestmark = [
    pytest.mark.medium,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*(Sparse|TypedStorage|zero-element).*:UserWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_MEMORY


def test_the_file_that_the_others_are_made_of_is_read(tmp_path: Path) -> None:
    for kind in ("zip", "legacy", "safetensors"):
        load_checkpoint(write(tmp_path, saved(kind), "safetensors" if kind == "safetensors" else "pt"), NAME)


# Code.


class Gadget:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def gadgets(canary: Path) -> dict[str, Any]:
    import builtins
    import functools
    import operator
    import os
    import shutil
    import subprocess
    import tempfile

    source = f"open({str(canary)!r}, 'w').close()"
    return {
        "open": Gadget(open, str(canary), "w"),
        "exec": Gadget(builtins.exec, source),
        "eval": Gadget(builtins.eval, source),
        "system": Gadget(os.system, f"touch {canary}"),
        "mkdir": Gadget(os.mkdir, str(canary)),
        "subprocess": Gadget(subprocess.check_call, ["touch", str(canary)]),
        "partial": Gadget(functools.partial(open, str(canary), "w")),
        "operator": Gadget(operator.methodcaller("touch"), canary),
        "shutil": Gadget(shutil.copy, __file__, str(canary)),
        "torch": Gadget(torch.save, torch.zeros(1), str(canary)),
        "tempfile": Gadget(tempfile.mkdtemp, "", "x", str(canary.parent)),
        "pickle": Gadget(pickle.loads, pickle.dumps(Gadget(open, str(canary), "w"))),
    }


@pytest.mark.parametrize("place", ["top", "beside", "within"])
@pytest.mark.parametrize("gadget", gadgets(Path("canary")))
def test_code_never_runs(gadget: str, place: str, tmp_path: Path) -> None:
    canary = tmp_path / "folder" / "canary"
    canary.parent.mkdir()
    code = gadgets(canary)[gadget]
    content = {
        "top": code,
        "beside": {"state_dict": weights(), "epoch": code},
        "within": {**weights(), "g_a.0.bias": code},
    }
    assert_refused(write(tmp_path, content[place]), "holds Python objects besides tensors; those are refused")
    assert_refused(write(tmp_path, pickle.dumps(content["top"])), "holds Python objects besides tensors|not a readable")
    assert not list(canary.parent.iterdir())
    if place == "top":
        pickle.loads(pickle.dumps(code))
        assert list(canary.parent.iterdir())  # the gadget does work


# Files cut short, and damaged.


@pytest.mark.parametrize(("kind", "cuts"), [("zip", 100), ("legacy", 50), ("safetensors", 50)])
def test_files_cut_short(kind: str, cuts: int, tmp_path: Path) -> None:
    whole, suffix = saved(kind), "safetensors" if kind == "safetensors" else "pt"
    ends = sorted({int(end) for end in torch.linspace(0, len(whole) - 1, cuts).tolist()})
    assert len(ends) == cuts
    for end in ends:
        assert_refused(write(tmp_path, whole[:end], suffix), "damaged|not a readable")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_files_with_a_changed_byte_load_or_are_refused(kind: str, tmp_path: Path, rng: Any) -> None:
    whole, suffix = saved(kind), "safetensors" if kind == "safetensors" else "pt"
    for place in rng.integers(0, min(len(whole), 6000), 12):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        try:
            load_checkpoint(write(tmp_path, bytes(changed), suffix), NAME)
        except ValueError:
            continue


def headers() -> dict[str, Any]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "no header": b"",
        "length alone": struct.pack("<Q", 8),
        "length past the end": struct.pack("<Q", 2**40) + b"{}",
        "length of all ones": b"\xff" * 8 + b"{}",
        "no json": b"hello, world",
        "a list": [1, 2],
        "no text": b"\xfe\xfd{}",
        "nested": b"[" * 10_000 + b"]" * 10_000,
        "cut": b'{"a": {"dtype": "F32"',
        "unknown dtype": {"a": {**one, "dtype": "PICKLE"}},
        "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
        "negative shape": {"a": {**one, "shape": [-2]}},
        "huge shape": {"a": {**one, "shape": [2**62, 4]}},
        "shape of 2**60": {"a": {**one, "shape": [2**60]}},
        "offsets past the end": {"a": {**one, "data_offsets": [0, 2**40]}},
        "offsets backwards": {"a": {**one, "data_offsets": [8, 0]}},
        "offsets that overlap": {"a": one, "b": one},
        "offsets with a hole": {"a": one, "b": {**one, "data_offsets": [12, 20]}},
        "one offset": {"a": {**one, "data_offsets": [0]}},
        "metadata no map": {"__metadata__": [1], "a": one},
        "metadata no text": {"__metadata__": {"N": {"deep": 1}}, "a": one},
        "sizes that are no numbers": {"__metadata__": {"N": "eight", "M": "12"}, "a": one},
        "sizes of many digits": {"__metadata__": {"N": "9" * 5000, "M": "12"}, "a": one},
        "sizes below zero": {"__metadata__": {"N": "-8", "M": "12"}, "a": one},
        "sizes without end": {"__metadata__": {"N": str(2**62), "M": "12"}, "a": one},
        "sizes of a gigabyte": {"__metadata__": {"N": "20000", "M": "20000"}, "a": one},
    }


@pytest.mark.parametrize("fault", headers())
def test_safetensors_headers(fault: str, tmp_path: Path) -> None:
    header = headers()[fault]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = text if fault.startswith(("no header", "length")) else struct.pack("<Q", len(text)) + text + bytes(8)
    assert_refused(write(tmp_path, whole, "safetensors"), "not a readable safetensors file|do not fit 'mbt2018-mean'")


# Tensors, sizes and tables that are not what they say.


def tensors() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, on the state of its less usual layouts
        return _tensors()


def _tensors() -> dict[str, Any]:
    first, dense = "g_a.0.weight", torch.ones(8, 75)
    return {
        "sparse": (first, dense.to_sparse()),
        "csr": (first, dense.to_sparse_csr()),
        "csc": (first, dense.to_sparse_csc()),
        "bsr": (first, torch.ones(8, 8).to_sparse_bsr((2, 2))),
        "nested": (first, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        "meta": (first, torch.empty(2**40, device="meta")),
        "complex": (first, torch.ones(8, 3, 5, 5, dtype=torch.complex64)),
        "quantized": (first, torch.quantize_per_tensor(torch.ones(8, 3, 5, 5), 0.1, 0, torch.qint8)),
        "a terabyte of one value": (first, torch.ones(1).expand(2**20, 2**18)),
        "one value for all": (first, torch.ones(1).expand(8, 3, 5, 5)),
        "one filter for all": (first, torch.ones(1, 3, 5, 5).expand(100_000, 3, 5, 5)),
        "twenty thousand channels": (first, torch.ones(20_000, 3, 1, 1)),
        "twenty thousand channels behind": ("g_a.6.weight", torch.ones(20_000, 3, 1, 1)),
        "no channels": (first, torch.ones(0, 3, 5, 5)),
        "a scalar": (first, torch.tensor(1.0)),
        "a vector": (first, torch.ones(8)),
        "thirty dimensions": (first, torch.ones([1] * 30)),
        "wide quantiles": ("entropy_bottleneck.quantiles", torch.tensor([-1e9, 0.0, 1e9]).repeat(8, 1, 1)),
        "a far median": ("entropy_bottleneck.quantiles", torch.tensor([0.0, 1e8, 1.0]).repeat(8, 1, 1)),
        "quantiles without end": (
            "entropy_bottleneck.quantiles",
            torch.tensor([-10.0, 0.0, torch.inf]).repeat(8, 1, 1),
        ),
        "quantiles that are no numbers": ("entropy_bottleneck.quantiles", torch.full((8, 1, 3), torch.nan)),
        "a matrix that is no number": ("entropy_bottleneck.matrices.0", torch.full((8, 3, 1), torch.nan)),
        "quantiles of another shape": ("entropy_bottleneck.quantiles", torch.ones(8, 1, 7)),
    }


@pytest.mark.parametrize("fault", tensors())
def test_tensors_that_are_not_weights(fault: str, tmp_path: Path) -> None:
    name, tensor = tensors()[fault]
    assert_refused(write(tmp_path, {**weights(), name: tensor}))
    alone = write(tmp_path, {name: tensor})
    assert_refused(alone)


@pytest.mark.parametrize("key", [0, 1.5, None, (1, 2), b"g_a.0.weight"])
def test_names_that_are_no_text(key: Any, tmp_path: Path) -> None:
    assert_refused(write(tmp_path, {**weights(), key: torch.zeros(1)}), "names of weights must be text, got")


@pytest.mark.parametrize("value", [None, 3, "text", [torch.zeros(1)], {"deep": torch.zeros(1)}])
def test_values_that_are_no_tensors(value: Any, tmp_path: Path) -> None:
    assert_refused(write(tmp_path, {**weights(), "g_a.0.weight": value}), "must hold a state dict")


def tables() -> dict[str, tuple[str, Tensor]]:
    cdf, length, offset = (f"entropy_bottleneck.{one}" for one in ("_quantized_cdf", "_cdf_length", "_offset"))
    gaussian = "gaussian_conditional._quantized_cdf"
    return {
        "huge": (cdf, torch.zeros(8, 50_000, dtype=torch.int32)),
        "of zeros": (cdf, torch.zeros(8, 24, dtype=torch.int32)),
        "falling": (cdf, torch.arange(24, 0, -1, dtype=torch.int32).repeat(8, 1)),
        "of fractions": (cdf, torch.rand(8, 24)),
        "not numbers": (cdf, torch.full((8, 24), torch.nan)),
        "of one dimension": (cdf, torch.zeros(8, dtype=torch.int32)),
        "too long": (length, torch.full((8,), 2**31 - 1, dtype=torch.int32)),
        "negative": (length, torch.full((8,), -1, dtype=torch.int32)),
        "far off": (offset, torch.full((8,), 2**31 - 1, dtype=torch.int32)),
        "of Gaussians": (gaussian, torch.zeros(64, 3133, dtype=torch.int32)),
        "scales of Gaussians": ("gaussian_conditional.scale_table", torch.full((64,), 1e30)),
        "scales that are no numbers": ("gaussian_conditional.scale_table", torch.full((64,), torch.nan)),
    }


@pytest.mark.parametrize("fault", tables())
def test_tables_in_a_file_are_never_used(fault: str, tmp_path: Path) -> None:
    name, table = tables()[fault]
    loaded: Any = load_checkpoint(write(tmp_path, {**weights(), name: table}), NAME)
    fresh: Any = load_checkpoint(write(tmp_path, weights()), NAME)
    for key, own in loaded.named_buffers():
        assert torch.equal(own, dict(fresh.named_buffers())[key]), key


# Archives.


def test_archives_that_grow(tmp_path: Path) -> None:
    assert_refused(write(tmp_path, archive(lambda _, data: data, zipfile.ZIP_DEFLATED)), "is a compressed archive")
    bomb = archive(
        lambda entry, data: bytes(2**28) if entry.filename.endswith("data/0") else data, zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 2**20
    assert_refused(write(tmp_path, bomb), "is a compressed archive, which torch.save does not write; it is refused")
    stored = bytearray(archive(lambda _, data: data))
    place = stored.find(b"PK\x01\x02")
    while place >= 0:  # sizes in the directory, one entry after the other
        stored[place + 20 : place + 28] = struct.pack("<II", 2**30, 2**30)
        place = stored.find(b"PK\x01\x02", place + 4)
    assert_refused(
        write(tmp_path, bytes(stored)), r"is an archive of [\d,]+ bytes that says to hold [\d,]+; it is refused"
    )


@pytest.mark.parametrize("missing", ["data.pkl", "data/0", "version", "byteorder"])
def test_archives_without_a_part(missing: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved("zip"))) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(missing):
                new.writestr(entry.filename, old.read(entry))
    path = write(tmp_path, packed.getvalue())
    if missing in ("version", "byteorder"):  # the weights are all there
        try:
            load_checkpoint(path, NAME)
        except ValueError:
            return
    else:
        assert_refused(path)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x02.", b"\x80\x02N.", b"\x80\x05" + b"(" * 10_000, b"cos\nsystem\n(S'true'\ntR."]
)
def test_archives_with_another_pickle(data: bytes, tmp_path: Path) -> None:
    content = archive(lambda entry, old: data if entry.filename.endswith("data.pkl") else old)
    assert_refused(write(tmp_path, content))
    assert_refused(write(tmp_path, data))


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"state_dict": Gadget(open, str(tmp_path / "canary"), "w")})
    image = str(tmp_path / "some.png")
    Path(image).write_bytes(b"not looked at: the checkpoint is loaded before")
    for command in ("map", "check"):
        assert cli.main([command, image, "--checkpoint", str(path), "--model", NAME]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith(f"bitrate-ext: error: --checkpoint: {path} is damaged, or holds Python objects")
    assert not (tmp_path / "canary").exists()
