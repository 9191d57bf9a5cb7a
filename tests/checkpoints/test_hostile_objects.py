"""Objects in checkpoints that would run code, or take memory, or the process: nothing of them is called or imported."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
from hostile import archive, assert_refused, saved, write

pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("one_thread")]

TRICKS = """
import os
marks = os.path.join({folder!r}, "canary")
def mark(*_, **__):
    open(marks, "w").close()
mark_on_import = {on_import}
if mark_on_import:
    mark()
class Tricky(dict):
    __setstate__ = __setitem__ = __init__ = __call__ = mark
    def __new__(cls, *arguments):
        mark()
        return dict.__new__(cls)
class Meta(type):
    __call__ = mark
class Called(metaclass=Meta):
    pass
"""


def pickled(state: bytes, name: str = "tricks Tricky", call: bytes = b")\x81") -> bytes:
    """A dict of weights' place and an object: its class, how it is made, what is done to it then."""
    return b"\x80\x02}X\x01\x00\x00\x00ac" + name.replace(" ", "\n").encode() + b"\n" + call + state + b"s."


ITEMS, KEYS = b"X\x05\x00\x00\x00items", b"X\x04\x00\x00\x00keys"
BUILDS = {  # what is done to an object once it is there
    "nothing": b"",
    "state": b"}X\x01\x00\x00\x00bK\x01sb",
    "state that is no dict": b"(K\x01K\x02K\x03tb",
    "slots": b"N}X\x01\x00\x00\x00bK\x01s\x86b",
    "a class": b"}X\x09\x00\x00\x00__class__ctricks\nCalled\nsb",
    "attributes": b"}(X\x08\x00\x00\x00__dict__}" + ITEMS + b"ctricks\nmark\n" + KEYS + b"ctricks\nmark\nub",
    "twice": b"}X\x01\x00\x00\x00bK\x01sb" * 2,
    "items": b"X\x01\x00\x00\x00bctricks\nmark\ns",
    "elements": b"ctricks\nmark\na",
    "a call of it": b"ctricks\nmark\n\x85R",
    "a call of its class": b"ctricks\nCalled\n)R\x85R",
    "state of a class": b"0ctricks\nTricky\n}X\x01\x00\x00\x00bctricks\nmark\nsb",
    "items of a class": b"0ctricks\nTricky\nX\x01\x00\x00\x00bK\x01s",
    "another object for it": b"0ctricks\nCalled\n)\x81",
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [b")\x81", b")R", b"K\x01\x85R", b""])
@pytest.mark.parametrize("build", BUILDS)
def test_stand_ins_run_nothing(
    build: str, call: bytes, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    (tmp_path / "tricks.py").write_text(TRICKS.format(folder=str(folder), on_import=True))
    monkeypatch.syspath_prepend(str(tmp_path))
    data = pickled(BUILDS[build], call=call)
    if legacy:
        head = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        content = head + data + pickle.dumps([], 2)
    else:
        content = archive(lambda entry, old: data if entry.filename.endswith("data.pkl") else old)
    assert_refused(write(tmp_path, content))  # there are no weights in it
    assert "tricks" not in sys.modules
    assert not list(folder.iterdir())


def test_the_tricks_do_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tricks.py").write_text(TRICKS.format(folder=str(tmp_path), on_import=False))
    monkeypatch.syspath_prepend(str(tmp_path))
    for call in (b")\x81", b")R", b"K\x01\x85R"):
        pickle.loads(pickled(b"", call=call))
        (tmp_path / "canary").unlink()
    del sys.modules["tricks"]


@pytest.mark.parametrize("state", [BUILDS["attributes"], BUILDS["a class"]])
def test_methods_that_a_file_sets_are_not_called(state: bytes, tmp_path: Path) -> None:
    """PyTorch's reader lets a file set attributes of an ordered dict, its methods' names among them."""
    made = b"ccollections\nOrderedDict\n)R"
    data = (
        b"\x80\x02"
        + made
        + state.replace(b"tricks\nmark", b"builtins\nset").replace(b"tricks\nCalled", b"builtins\nset")
        + b"."
    )
    assert_refused(write(tmp_path, archive(lambda entry, old: data if entry.filename.endswith("data.pkl") else old)))


@pytest.mark.parametrize(
    "name",
    [
        *("os system", "posix system", "nt system", "sys exit", "subprocess getoutput", "commands getoutput"),
        *(
            "__builtin__ eval",
            "__builtin__ apply",
            "builtins getattr",
            "builtins __import__",
            "importlib import_module",
        ),
        *(
            "types FunctionType",
            "types CodeType",
            "copy_reg add_extension",
            "code InteractiveInterpreter",
            "cPickle loads",
        ),
        *(
            "torch load",
            "torch.hub load",
            "torch.jit load",
            "torch.utils.cpp_extension load",
            "torch.serialization load",
        ),
        *("runpy run_path", "ctypes CDLL", "pty spawn", "webbrowser open", "multiprocessing.util spawnv_passfds"),
    ],
)
def test_functions_are_refused_by_name(name: str, tmp_path: Path) -> None:
    data = pickled(b"", name, b"X\x04\x00\x00\x00true\x85R")
    path = write(tmp_path, archive(lambda entry, old: data if entry.filename.endswith("data.pkl") else old))
    assert_refused(path, "holds Python objects besides tensors; those are refused")


TEXT = b"X\x01\x00\x00\x00a"
TOO_MUCH = {  # pickles of values that are nested, or as large as they say
    "tuples, as a key": b"}(K\x01" + b"\x85" * 1_000_000 + b"K\x01u",
    "tuples": b"K\x01" + b"\x85" * 1_000_000,
    "pairs": b"K\x01" + b"q\x00h\x00\x86" * 1_000,
    "lists": b"]" * 100_000 + b"a" * 99_999,
    "dicts": (b"}" + TEXT) * 100_000 + b"}" + b"s" * 100_000,
    "objects": b"cfoo\nBar\n" * 50_000 + b")" + b"\x85\x81" * 50_000,
    "marks": b"(" * 1_000_000,
    "states": b"ccollections\nOrderedDict\n)R" * 10_000 + b"b" * 9_999,
    "bytearray": b"cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R",
    "__builtin__ bytearray": b"c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R",
    "bytearray8": b"\x96" + b"\xff" * 7 + b"\x00",
    "text": b"X\xff\xff\xff\xff",
    "memo": b"K\x01r\xff\xff\xff\xffj\xff\xff\xff\xff",
    "names": b"".join(f"cfoo\nBar{number}\n0".encode() for number in range(100_000)) + b"N",
    "a name": b"c" + b"a" * 1_000_000 + b"\nb\n",
    "taken from nothing": b"\x85" * 100,
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_values_that_are_too_much(kind: str, tmp_path: Path) -> None:
    data = b"\x80\x02" + TOO_MUCH[kind] + b"."
    content = archive(lambda entry, old: data if entry.filename.endswith("data.pkl") else old)
    assert_refused(write(tmp_path, content))
    assert_refused(write(tmp_path, data))


@pytest.mark.parametrize("place", ["before", "after", "comment", "between"])
def test_archives_that_are_something_else_besides(place: str, tmp_path: Path) -> None:
    """A pickle before an archive is what PyTorch reads; the archive is what others read."""
    whole, bomb = saved("zip"), b"\x80\x02" + TOO_MUCH["tuples, as a key"] + b"."
    if place == "comment":
        packed = io.BytesIO(whole)
        with zipfile.ZipFile(packed, "a") as added:
            added.comment = b"PK"
        whole = packed.getvalue()
    content = {"before": bomb + whole, "after": whole + bomb, "comment": whole, "between": whole + whole}[place]
    assert_refused(write(tmp_path, content), "with something before or after it|is not a readable")


def test_two_pickles_in_one_archive(tmp_path: Path) -> None:
    """Which of them is read is not left to chance."""
    packed = io.BytesIO(saved("zip"))
    with zipfile.ZipFile(packed, "a") as added:
        added.writestr("other/DATA.pkl", b"\x80\x02N.")
    assert_refused(write(tmp_path, packed.getvalue()), "is not a readable PyTorch file")
