"""Rows of a data set as Parquet: one for each item, and beside them what depends on the day."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..optional import require
from .codec import Read
from .items import DatasetError, Item

OK, ERROR = "ok", "error"  # of the column "status"
Row = dict[str, Any]
_LATENT = "bits_"  # before a latent's name, in columns
_WORK = ("item", "size", "mtime_ns", "seconds", "deaths", "run")  # of the files beside the rows


def schema(latents: Sequence[str]) -> Any:
    """Return the columns of rows, as pyarrow has them."""
    pa = require("pyarrow")
    text, real, whole = pa.string(), pa.float64(), pa.int64()
    columns = {"item": whole, "id": text, "path": text, "sha256": text, "mask_sha256": text, "status": text}
    columns |= {"error": text, "kind": text, "height": whole, "width": whole, "frames": whole, "duration_s": real}
    columns |= {"bits": real, **{f"{_LATENT}{name}": real for name in latents}, "padding_bits": real, "bpp": real}
    columns |= {"file_bytes": whole, "psnr_db": real, "ms_ssim": real}
    channel, region = {"latent": text, "channel": whole, "bits": real}, {"name": text, "pixels": whole, "bits": real}
    for name, of in (("top_channels", channel), ("regions", {**region, "psnr_db": real})):
        columns[name] = pa.list_(pa.struct(list(of.items())))
    columns |= {"files": pa.list_(text), "warnings": text, "model": text, "settings": text}
    return pa.schema(list(columns.items()))


def item_id(item: Item, read: Read, key: str) -> str:
    """Return the id of an item under settings: of its name, its bytes, and all that its numbers depend on."""
    text = "\0".join(filter(None, (item.name, read.sha256, key, read.mask_sha256)))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def ok_row(item: Item, read: Read, key: str, model: str, numbers: Mapping[str, Any]) -> Row:
    """Return the row of an item that is measured."""
    row = _row(item, read, key, model) | {"status": OK, "frames": 1, **numbers}
    return row | _by_column(row.pop("latents", {}))


def error_row(item: Item, sha256: str | None, key: str, model: str, reason: str) -> Row:
    """Return the row of an item that is not."""
    row = _row(item, Read(sha256 or "", None, None), key, model)
    return row | {"sha256": sha256, "status": ERROR, "error": printable(reason)}


def _row(item: Item, read: Read, key: str, model: str) -> Row:
    row: Row = {"item": item.number, "id": item_id(item, read, key), "path": printable(item.name)}
    row |= {"sha256": read.sha256, "kind": "video" if item.is_video else "picture", "model": model, "settings": key}
    return row if read.mask_sha256 is None else row | {"mask_sha256": read.mask_sha256}


def counted(number: int, what: str) -> str:
    """Return a number with what it is of: ``1 picture``, ``2 pictures``."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: other bytes of names are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_parquet(rows: Iterable[Row], columns: Any) -> memoryview:
    """Return rows, in the order of items, as the bytes of a Parquet file, which depend on them alone."""
    ordered = sorted(rows, key=lambda row: int(row["item"]))
    return _parquet(require("pyarrow").Table.from_pylist(ordered, schema=columns))


def frames_to_parquet(path: str, frames: Sequence[Mapping[str, Any]], latents: Sequence[str]) -> bytes:
    """Return a row for each frame of a video, with its "latents", as the bytes of a Parquet file."""
    pa = require("pyarrow")
    columns = {"path": pa.string(), "frame": pa.int64(), "time_s": pa.float64(), "kind": pa.string()}
    numbers = ["bits", *(f"{_LATENT}{name}" for name in latents), "padding_bits", "bpp", "psnr_db"]
    columns |= {**dict.fromkeys(numbers, pa.float64()), "file_bytes": pa.int64()}
    rows = [
        {"path": printable(path), "frame": number, **frame, **_by_column(frame["latents"])}
        for number, frame in enumerate(frames)
    ]
    return bytes(_parquet(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))))


def _by_column(latents: Mapping[str, float]) -> dict[str, float]:
    return {f"{_LATENT}{name}": bits for name, bits in latents.items()}


def work_to_parquet(works: Mapping[int, Mapping[str, Any]], about: Mapping[str, Any]) -> memoryview:
    """Return what depends on the day, by item, as the bytes of a Parquet file."""
    pa = require("pyarrow")
    types = [pa.int64(), pa.int64(), pa.int64(), pa.float64(), pa.int64(), pa.string()]
    metadata = {name: str(value) for name, value in about.items()}
    columns = pa.schema(list(zip(_WORK, types, strict=True)), metadata=metadata)
    rows = [{"item": number, **work} for number, work in sorted(works.items())]
    return _parquet(pa.Table.from_pylist(rows, schema=columns))


def with_texts(table: Any) -> Any:
    """Return a table whose lists are texts of JSON, as CSV needs them."""
    pa = require("pyarrow")
    for place, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            values = table.column(place).to_pylist()
            texts = [None if one is None else json.dumps(one, ensure_ascii=False) for one in values]
            table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def _parquet(table: Any) -> memoryview:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())


def read_rows(path: Path) -> Any:
    """Read a part as a table; its pages have checksums.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return require("pyarrow.parquet").ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
    except (OSError, ValueError, require("pyarrow").ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: is damaged ({reason}); delete it, and the same command makes it anew") from error


def read_work(path: Path) -> dict[int, dict[str, Any]]:
    """Read what depends on the day, by item."""
    return {row.pop("item"): row for row in read_rows(path).to_pylist()}


def read_about(path: Path) -> dict[str, str]:
    """Read what is said of a part beside its rows; nothing of a file that is not there or damaged."""
    try:
        metadata = require("pyarrow.parquet").read_schema(path).metadata or {}
    except (OSError, ValueError, require("pyarrow").ArrowException):
        return {}
    return {name.decode(): value.decode() for name, value in metadata.items()}
