"""Items that are read in other processes than the one that measures them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")
from block_codecs import BlockCodec  # noqa: E402
from dataset_runs import go, names  # noqa: E402

from bitrate_ext import BitrateMapper  # noqa: E402
from bitrate_ext.dataset import Item, Read, Unreadable, find_items  # noqa: E402
from bitrate_ext.dataset.part import Part, do_part  # noqa: E402
from bitrate_ext.dataset.pictures import PictureCodec  # noqa: E402


class Apart:
    """Other processes that read, as far as pictures can tell: a thread for each item, of which all goes as bytes."""

    at_once = 3

    def __init__(self, reader: Callable[[Item], Read]) -> None:
        self._data = pickle.dumps(reader)
        self.most, self._begun = 0, 0
        self._pool = ThreadPoolExecutor(8)

    def begin(self, item: Item) -> Callable[[], Read]:
        self._begun += 1
        self.most = max(self.most, self._begun)
        asked = self._pool.submit(self._read, item)

        def wait() -> Read:
            found, parts = asked.result()
            self._begun -= 1
            if isinstance(found, BaseException):
                raise found
            return pickle.loads(found, buffers=[memoryview(bytes(part)) for part in parts])

        return wait

    def _read(self, item: Item) -> Any:
        parts: list[pickle.PickleBuffer] = []
        try:
            return pickle.dumps(pickle.loads(self._data)(item), 5, buffer_callback=parts.append), parts
        except Unreadable as error:
            return error, []


@pytest.mark.parametrize("batch", [1, 2])
def test_pictures_read_in_other_processes_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(70, 100, 3), (64, 64, 3)] * 5):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(f"photos/{number}.png")
    Path("photos/b.png").write_bytes(b"no picture")
    items, found = find_items(["photos"]).items(), []
    for folder in ("here", "there"):
        Path(folder).mkdir()
        one = PictureCodec(BitrateMapper(BlockCodec().eval()))
        elsewhere = Apart(one.reader) if folder == "there" else None
        work = Part(Path(folder), 0, 1, items, "key", "blocks", one.about.latents, batch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            counts = do_part(work, one, None, elsewhere)
        assert counts is not None
        assert counts[:3] == (10, 1, 0)
        found.append(work.rows.read_bytes())
    assert found[0] == found[1]
    assert elsewhere is not None
    assert elsewhere.most == Apart.at_once


def test_readers_are_tasks_of_ray(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="readers are tasks of Ray: engine must be 'ray' for 2 of them, got 'proc"):
        go(tmp_path / "out", names(1), readers=2)
    with pytest.raises(ValueError, match="readers must be a whole number"):
        go(tmp_path / "out", names(1), readers=-1)
