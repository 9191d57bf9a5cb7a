"""Measure the receptive fields of the bundled codec, with and without guides, and ship them: data/demo_fields.zip.

    python tools/measure_demo_fields.py --state ~/demo-codec/fields

A quarter of an hour on one core. What was measured is kept in the state and not measured again. Has to be run anew
whenever the codec's weights change, or how fields are measured; a test tells.
"""

from __future__ import annotations

import argparse
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitrate_ext import calibrate, load_demo_codec
from bitrate_ext.choices import DEMO_QUALITIES
from bitrate_ext.models.adapter import ModelAdapter
from bitrate_ext.receptive_field.calibration import field_key
from bitrate_ext.receptive_field.kept import SHIPPED

DATE = (1980, 1, 1, 0, 0, 0)  # of the archive's entries, so that the same fields are the same bytes


def shipped() -> Iterator[tuple[int, str, bool, list[str]]]:
    """Yield each field that ships: quality, latent, whether guided, and its keys, its own first."""
    for quality in DEMO_QUALITIES:
        adapter = ModelAdapter.of(load_demo_codec(quality))
        for latent, guide in itertools.product("yz", (False, True)):
            names = ["y", None] if latent == "y" else ["z"]  # y is the finest, which is the default
            yield quality, latent, guide, [field_key(adapter, name, guide=guide) for name in names]


def measure(state: Path, target: Path = SHIPPED) -> None:
    """Measure what the state lacks, and write the archive."""
    state.mkdir(parents=True, exist_ok=True)
    found: dict[str, bytes] = {}
    for quality, latent, guide, keys in shipped():
        field = calibrate(load_demo_codec(quality), latent, guide=guide, cache=state)
        print(f"quality {quality}, {latent}: {field.fit}", flush=True)
        found.update(dict.fromkeys(keys, (state / f"{keys[0]}.npz").read_bytes()))
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in sorted(found.items()):
            archive.writestr(zipfile.ZipInfo(f"{key}.npz", DATE), data, zipfile.ZIP_DEFLATED)
    partial.replace(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for what was measured")
    measure(parser.parse_args(arguments).state)


if __name__ == "__main__":
    main()
