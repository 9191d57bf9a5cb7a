"""What a data set asks of a codec: read a picture or video, and say in numbers where its bits are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .items import Item

MEMORY, GPU = "memory", "gpu"  # what a picture lacked that could not be measured as others are


@dataclass(frozen=True)
class Read:
    """A picture as read: the hash of its file, what it may share a batch with, and whatever the codec measures.

    Args:
        sha256: of its bytes.
        group: pictures whose groups are equal may be measured together; None: by itself.
        picture: what ``measure`` gets.
        mask_sha256: of the mask that its numbers depend on, too.
    """

    sha256: str
    group: Any
    picture: Any
    mask_sha256: str | None = None


class Unreadable(ValueError):
    """An item that is no picture; the message is the reason alone, without the item's name."""

    def __init__(self, reason: str, sha256: str | None = None) -> None:
        super().__init__(reason, sha256)
        self.reason, self.sha256 = reason, sha256


class Spent(BaseException):
    """The process can measure nothing any more, as after an error of the GPU; another one has to."""


@dataclass(frozen=True)
class About:
    """What the numbers of a codec depend on.

    Args:
        model: its name.
        latents: their names, in the order of columns.
        settings: all that the numbers depend on, weights by their hash; values that JSON has.
        files: kinds of files that it makes of each picture beside the numbers, which name folders of the output.
    """

    model: str
    latents: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


class Codec(Protocol):
    """A codec in a worker process: it is made there, once, and may read pictures in a thread while it measures."""

    about: About

    def read(self, item: Item) -> Read:
        """Read and hash an item; ``Unreadable`` says why it cannot be."""

    def measure(self, pictures: Sequence[Any]) -> Iterable[dict[str, Any] | None]:
        """Return for each picture of one group "height", "width", "bits", "latents" and what other columns it knows.

        "files" are bytes by kind and ending, ``{("cells", ".npz"): b"..."}``. None, in between, says that it is still
        at work, of which the time limit takes note.
        """


@runtime_checkable
class Rescuer(Protocol):
    """A codec that has other means for a picture that took all memory, or the GPU with it."""

    def rescue(self, item: Item, lack: str, alive: Callable[[], None]) -> tuple[Read, dict[str, Any]]:
        """Measure one item by itself, by means that need less; return it as read, and numbers as ``measure`` does.

        Its "warnings" say by which means. What they come to must not depend on how much memory there is today.

        Args:
            item: which.
            lack: "memory" or "gpu": what it failed for.
            alive: to be called now and then, as a sign of life.
        """


@runtime_checkable
class ReadApart(Protocol):
    """A codec whose items may be read in other processes: ``reader``, which can be pickled, does what ``read`` does."""

    reader: Callable[[Item], Read]


class Elsewhere(Protocol):
    """Other processes that read items for this one.

    Args:
        at_once: how many items are worth to be begun at a time.
    """

    at_once: int

    def begin(self, item: Item) -> Callable[[], Read]:
        """Have an item read; what is returned waits for it, and returns or raises what the codec's ``read`` does."""
