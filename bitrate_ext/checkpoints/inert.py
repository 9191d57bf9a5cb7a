"""Read what ``torch.save`` wrote as data alone: tensors as they are, other objects as stand-ins that hold nothing.

PyTorch's ``weights_only`` reader calls nothing but what it was told of, by name. Training scripts keep more in their
checkpoints than it knows: settings as ``argparse.Namespace``, numbers of NumPy's, paths, data classes of their own.
Here each such name is told to it as a class of this module, which takes anything, keeps nothing and runs nothing. The
names are found before, without making any object; what they stand for is never looked up and never imported.

Nothing would have to be refused for safety's sake, then. What honest checkpoints have no use for is refused all the
same: functions of Python's own library and of PyTorch's, such as ``os.system``, ``builtins.eval`` or ``torch.save``.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import sys
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from ..io.files import shown
from .safety import check_archive

MOST_NAMES = 128  # of classes and functions in one file: PyTorch's reader looks through them at each object
DEEPEST = 100  # of values within one another: the hash of a key is computed by recursion, unchecked
LEGACY_PICKLES = 5  # at the head of a file that is no archive, as PyTorch wrote them before version 1.6
MODULES_OF_DATA = frozenset(
    ("argparse", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions", "pathlib", "typing", "uuid")
)
NAMES_OF_DATA = frozenset(
    [
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object")),
        *(f"builtins.{name}" for name in ("range", "slice", "str", "tuple")),
        *("copyreg._reconstructor", "types.SimpleNamespace"),
    ]
)
PYTHON_2 = frozenset(  # modules of its library, which pickles call so, and which PyTorch's reader does not rename
    [
        *("BaseHTTPServer", "SimpleXMLRPCServer", "SocketServer", "Tkinter", "cPickle", "commands", "exceptions"),
        *("httplib", "new", "popen2", "thread", "urllib2", "urlparse", "xmlrpclib"),
    ]
)
OF_TORCH = ("torch.nn.", "torch.optim.")  # modules, optimizers and schedules that were saved whole
BY_SIZE = ("builtins.bytearray", "__builtin__.bytearray")  # PyTorch's reader makes them as large as a file says

_lock = threading.Lock()


class Inert:
    """Stands for an object, of which nothing is kept."""

    def __new__(cls, *_: Any) -> Inert:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _Items:
    """Stands for a class that may be one of dicts: into anything but plain ones PyTorch's reader puts no items."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _Listed:
    """Stands for a class of lists."""

    def __new__(cls, *_: Any) -> Any:
        return []


def read_inert(path: Path) -> tuple[Any, list[str]]:
    """Read a file that ``torch.save`` wrote, and run nothing of it.

    Returns:
        The content, and the full names of the classes and functions that have stand-ins in it, the outermost first.

    Raises:
        ValueError: it is damaged or hostile, or holds objects that honest checkpoints have no use for; names them.
    """
    check_archive(path)
    try:
        names = _names(path)
        with _told([]):
            unknown = _unknown_to_torch(names[: MOST_NAMES + 1])
    except Exception as error:  # of damaged pickles anything, from IndexError to UnicodeDecodeError
        raise ValueError(
            f"{shown(path)} is not a readable PyTorch file, or is truncated: {_first_line(error)}"
        ) from error
    refused = [name for name in names if name in BY_SIZE] + [name for name in unknown if _is_refused(name)]
    if refused or len(names) > MOST_NAMES:
        raise ValueError(_objects(path, refused or names, '["state_dict"]'))
    trouble: pickle.UnpicklingError | None = None
    # Of a class that neither this module nor PyTorch knows nobody can say whether it is one of dicts.
    for other in (_Items, Inert):
        try:
            with _told(_stand_ins(unknown, other)), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols and storages, about which a user can do nothing
                return torch.load(path, map_location="cpu", weights_only=True), unknown
        except pickle.UnpicklingError as error:  # its text goes on to advise weights_only=False
            trouble = error
        except Exception as error:
            if other is Inert or not unknown:
                raise ValueError(
                    f"{shown(path)} is not a readable PyTorch file, or is truncated: {_first_line(error)}"
                ) from error
    raise ValueError(_objects(path, unknown, '["state_dict"]')) from trouble


@contextlib.contextmanager
def _told(stand_ins: list[Any]) -> Iterator[None]:
    """Let PyTorch's reader know these alone, and not what others have told it in this process."""
    with _lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(stand_ins):
                yield
        finally:
            torch.serialization.add_safe_globals(others)


def check_no_whole_model(path: Path, content: Any, names: list[str]) -> None:
    """Check that a file without weights does not hold a whole pickled model in their place.

    Raises:
        ValueError: it does; names its classes, and how to get at its weights.
    """
    if not any(name.startswith("torch.nn.") for name in names):
        return
    waiting = [("", content)]
    for place, value in waiting:
        if isinstance(value, dict) and len(waiting) < MOST_NAMES:
            waiting += [(f"{place}[{key!r}]", one) for key, one in dict.items(value) if isinstance(key, str)]
    modules = [place for place, value in waiting if isinstance(value, OrderedDict) and "_modules" in vars(value)]
    others = [place for place, value in waiting if isinstance(value, Inert)]
    place = next(iter([*modules, *others, ""]))
    raise ValueError(_objects(path, names, f"{place}.state_dict()"))


def _objects(path: Path, names: list[str], weights: str) -> str:
    """Say that objects are refused, and how to save weights that are found so in the file's content."""
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    which = f" ({some})" if names else ""
    return (
        f"{shown(path)} is damaged, or holds Python objects besides tensors; those are refused, because loading them "
        f"can run code{which}. If you trust it, save its weights alone: "
        f'torch.save(torch.load({str(path)!r}, weights_only=False){weights}, "weights.pth")'
    )


def _is_refused(name: str) -> bool:
    package = name.partition(".")[0]
    if package == "torch":  # a class is no danger
        return not (name.startswith(OF_TORCH) or name.rpartition(".")[2][:1].isupper())
    of_python = package in sys.stdlib_module_names or package in PYTHON_2
    return of_python and package not in MODULES_OF_DATA and name not in NAMES_OF_DATA


def _stand_ins(names: Iterable[str], other: type) -> list[Any]:
    """Return the stand-in of each name; ``other`` where it is of neither Python's nor NumPy's."""
    chosen = []
    for name in names:
        own = name.partition(".")[0] in sys.stdlib_module_names or name.startswith("numpy.")
        like = {"collections.deque": _Listed, "collections.defaultdict": _Items}.get(name, Inert if own else other)
        chosen.append((like, name))
    return chosen


def _unknown_to_torch(names: Iterable[str]) -> list[str]:
    """Return those names that PyTorch's reader does not know, as it calls them, which is as Python 3 does."""
    unknown: dict[str, None] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        asked = io.BytesIO()
        with zipfile.ZipFile(asked, "w") as archive:
            archive.writestr("archive/data.pkl", f"c{module}\n{last}\n.".encode())
            archive.writestr("archive/version", "3\n")
        asked.seek(0)
        unknown.update(dict.fromkeys(torch.serialization.get_unsafe_globals_in_checkpoint(asked)))
    return list(unknown)


def _names(path: Path) -> list[str]:
    """Find the full names of what a file's pickles ask for; no object is made.

    Raises:
        ValueError: values are nested too deep; and others of damaged pickles.
    """
    names: dict[str, None] = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            (entry,) = [one for one in archive.namelist() if one.rpartition("/")[2].lower() == "data.pkl"]
            _scan(io.BytesIO(archive.read(entry)), names)
        return list(names)
    with path.open("rb") as file:
        if file.peek(2).startswith(b"PK"):
            raise ValueError("it begins as an archive does, and is none")
        for _ in range(LEGACY_PICKLES):
            if file.peek(1):
                _scan(file, names)
    return list(names)


def _scan(pickled: IO[bytes], names: dict[str, None]) -> None:
    """Go through one pickle as its reader would, with the depth of each value in its place."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "GLOBAL":
            module, _, last = argument.partition(" ")
            names[f"{module}.{last}"] = None
        if name == "MARK":
            marks.append(len(stack))
        elif name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        else:
            before = [one.name for one in opcode.stack_before]
            start = marks.pop() - before.index("mark") if "mark" in before else len(stack) - len(before)
            if start < 0:
                raise ValueError("more is taken than there is")
            taken = stack[start:]
            del stack[start:]
            deepest = 1 + max(taken, default=0)
            if (before and before[0] in ("list", "dict", "set")) or name == "BUILD":
                deepest = max(taken[0], 1 + max(taken[1:], default=0))
            stack += [deepest] * len(opcode.stack_after)
            if deepest > DEEPEST:
                raise ValueError(f"values are nested more than {DEEPEST} deep")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
