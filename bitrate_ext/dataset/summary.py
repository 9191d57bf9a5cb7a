"""What the rows of a data set come to: totals, percentiles, by folder and region, the ends, the odd, and BD-rates."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import shown
from ..optional import require
from .items import DatasetError
from .run import FORMAT, MANIFEST, SUCCESS

PERCENTILES = (0.0, 5.0, 25.0, 50.0, 75.0, 95.0, 100.0)
_COLUMNS = ("bpp", "psnr_db", "ms_ssim", "seconds")  # whose percentiles are told
ODD = 3.5  # robust standard deviations of log2 of bits per pixel, from the median
RESAMPLES, LEVEL = 1000, 0.95  # of the interval of a BD-rate
FEWEST_POINTS = 4  # of a curve

_SUMS = "count(*) as pictures, sum(pixels) as pixels, sum(bits) as bits, sum(bits) / sum(pixels) as bpp"
_FOLDERS = (
    f"with f as (select *, height * width * frames as pixels from rows where status = 'ok') "
    f"select regexp_extract(path, '([^/]*)/[^/]*$', 1) as name, {_SUMS}, avg(psnr_db) as psnr_db from f "
    "group by name order by bpp desc, name"
)
_REGIONS = (
    "with r as (select unnest(regions, recursive := true) from rows where regions is not null) "
    f"select name, {_SUMS}, -10 * log10(sum(pixels * power(10, psnr_db / -10)) / sum(pixels) filter "
    "(psnr_db is not null)) as psnr_db from r group by name order by bpp desc, name"
)

Run = str | os.PathLike[str]


def summarise(folder: Run, top: int = 5) -> dict[str, Any]:
    """Sum up the rows of a run, read by DuckDB; rows with one id count once.

    Args:
        folder: the output of ``run``, whole or not.
        top: how many pictures are named with the most and the fewest bits per pixel, as odd, and how many errors.

    Returns:
        What JSON has: "items", "ok", "error", "complete", "pixels", "bits", "bpp" (all bits over all pixels),
        "latents", "padding_bits", "percentiles" of bits per pixel, PSNR in dB, MS-SSIM and seconds, "folders" by the
        name of the one that pictures are in, as data sets name classes, "regions" by name, "most", "fewest" and "odd"
        pictures, and "errors" by their reasons.

    Raises:
        DatasetError: it holds no rows of a run.
    """
    base, manifest = open_run(folder)
    latents = [f"bits_{name}" for name in manifest["latents"]]
    sums = {"pixels": "height * width * frames", "bits": "bits", "padding_bits": "padding_bits", "seconds": "seconds"}
    sums |= {name: _quoted(name) for name in latents}
    columns = ", ".join(f"sum({what}) filter (status = 'ok') as {_quoted(name)}" for name, what in sums.items())
    counts = "count(*) as items, count(*) filter (status = 'ok') as ok, count(*) filter (status != 'ok') as error"
    counts += ", count(*) filter (kind = 'video') as videos"
    (totals,) = ask(base, f"select {counts}, avg(psnr_db) as psnr_db, {columns} from rows")
    told: dict[str, Any] = {name: totals[name] for name in ("items", "ok", "error", "videos")}
    told |= {"total": manifest["items"], "complete": (Path(folder) / SUCCESS).exists(), "model": manifest["model"]}
    told |= {name: totals[name] for name in ("pixels", "bits", "padding_bits", "psnr_db", "seconds")}
    told["bpp"] = totals["bits"] / totals["pixels"] if totals["pixels"] else None
    told["latents"] = {name.removeprefix("bits_"): totals[name] for name in latents}
    shares = [one / 100 for one in PERCENTILES]
    asked = ", ".join(f"quantile_cont({name}, {shares}) as {name}" for name in _COLUMNS)
    (found,) = ask(base, f"select {asked} from rows where status = 'ok'")
    keys = [f"{one:g}" for one in PERCENTILES]
    told["percentiles"] = {name: dict(zip(keys, values, strict=True)) for name, values in found.items() if values}
    told["folders"] = ask(base, _FOLDERS)
    told["regions"] = ask(base, _REGIONS)
    which = "select path, bpp, psnr_db from rows where status = 'ok'"
    told["most"] = ask(base, f"{which} order by bpp desc, path limit {top}")
    told["fewest"] = ask(base, f"{which} order by bpp, path limit {top}")
    middle = "select median(log2(bpp)) as middle, mad(log2(bpp)) * 1.4826 as spread from rows where bpp > 0"
    odd = f"abs(log2(bpp) - middle) > {ODD} * spread and bpp > 0"
    told["odd"] = ask(
        base,
        f"with m as ({middle}) select path, bpp, psnr_db from rows, m where {odd} "
        f"order by abs(log2(bpp) - middle) desc, path limit {top}",
    )
    told["errors"] = ask(
        base,
        "select error as reason, count(*) as pictures, min(path) as first from rows where status != 'ok' "
        f"group by error order by pictures desc, reason limit {top}",
    )
    return told


def bd_rate(runs: Sequence[Run], against: Sequence[Run], *, seed: int = 0) -> dict[str, Any]:
    """Compare the rates of two codecs at equal PSNR over the same pictures: Bjøntegaard's difference, with an interval.

    Each codec has a run for each quality. A run is a point: the means over pictures of bits per pixel and of PSNR.
    Through a codec's points goes a monotone cubic of log rate over PSNR. The interval is of pictures drawn anew, with
    replacement.

    Args:
        runs: outputs of ``run``, four or more.
        against: those of the other codec.
        seed: of the draws.

    Returns:
        "bd_rate" in per cent, negative where ``runs`` take fewer bits; "interval", its 95 per cent; "pictures" that
        every run has measured; "psnr_db", the range that both share.

    Raises:
        DatasetError: fewer than four runs of one, no pictures in common, no PSNR in common.
    """
    for name, some in (("runs", runs), ("against", against)):
        if len(some) < FEWEST_POINTS:
            raise DatasetError(
                f"{name}: a curve needs {FEWEST_POINTS} runs or more, each of a quality, got {len(some)}"
            )
    tables = [_points(one) for one in (*runs, *against)]
    common = sorted(set.intersection(*(set(one) for one in tables)))
    if not common:
        raise DatasetError("no picture is measured, with a PSNR, in every run; runs must be of the same names")
    values = np.array([[table[path] for path in common] for table in tables])  # [runs, pictures, (bpp, psnr)]
    split = len(runs)
    difference, shared = _difference(values.mean(axis=1), split)
    if difference is None:
        raise DatasetError("the runs have no range of PSNR in common, or one codec's rates do not rise with its PSNR")
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        which = generator.integers(len(common), size=len(common))
        drawn.append(_difference(values[:, which].mean(axis=1), split)[0])
    kept = [one for one in drawn if one is not None]
    interval = [float(one) for one in np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
    return {"bd_rate": difference, "interval": interval, "pictures": len(common), "psnr_db": shared}


def _difference(points: Any, split: int) -> tuple[float | None, list[float]]:
    """Return the difference of rates in per cent of points ``[runs, 2]``, and the range of PSNR that it is over."""
    pchip = require("scipy.interpolate").PchipInterpolator
    curves = []
    for some in (points[:split], points[split:]):
        ordered = some[np.argsort(some[:, 1])]
        if (np.diff(ordered, axis=0) <= 0).any():
            return None, []
        curves.append((ordered[:, 1], pchip(ordered[:, 1], np.log(ordered[:, 0]))))
    low, high = max(one[0][0] for one in curves), min(one[0][-1] for one in curves)
    if high <= low:
        return None, []
    ours, theirs = (float(curve.integrate(low, high)) for _, curve in curves)
    return float(100 * np.expm1((ours - theirs) / (high - low))), [float(low), float(high)]


def _points(folder: Run) -> dict[str, tuple[float, float]]:
    """Return bits per pixel and PSNR of each picture that has both, by its path."""
    base, _ = open_run(folder)
    found = ask(base, "select path, bpp, psnr_db from rows where status = 'ok' and psnr_db is not null")
    return {row["path"]: (row["bpp"], row["psnr_db"]) for row in found}


def open_run(folder: Run) -> tuple[Any, dict[str, Any]]:
    """Return a database with the view ``rows`` of a run's rows, each with its seconds, and the run's manifest.

    Raises:
        DatasetError: it holds no rows of a run, or those of another version.
    """
    path = Path(folder)
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise DatasetError(f"{shown(path)}: holds no {MANIFEST}; name the folder that a run has written") from None
    if manifest.get("format") != FORMAT:
        raise DatasetError(
            f"{shown(path)}: is of another version of this package, with other columns; measure it anew with this one"
        )
    if not any(path.glob("part-*.parquet")):
        raise DatasetError(f"{shown(path)}: no part is done yet; the command that made it goes on with it")
    # One thread: sums of floating point would depend on who is done first.
    base = require("duckdb").connect(config={"threads": 1})
    for name in ("part", "work"):
        files = sorted(map(str, path.glob(f"{name}-*.parquet")))
        base.read_parquet(files).create_view(name)
    base.execute(
        "create view rows as select part.*, work.seconds from part left join work using (item) "
        "qualify row_number() over (partition by id order by item) = 1"
    )
    return base, manifest


def ask(base: Any, question: str) -> list[dict[str, Any]]:
    """Return the rows of an answer by their columns' names."""
    answer = base.execute(question)
    names = [one[0] for one in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
