"""The command ``bitrate-ext check``, and coded bits in ``bitrate-ext map``: ledgers, gaps and channels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from ..cells.errors import CellErrors
from ..cells.quality import measure_psnr
from ..choices import ALL_PADDINGS, CODED, PADDINGS
from ..io.files import shown
from ..io.images import load_picture
from ..mapping.layout import BitrateResult
from ..mapping.mapper import BitrateMapper
from ..viz.channel_figure import channel_figure
from ..viz.map_figure import map_figure
from .console import FAILED, OK, echo, finite, number, print_document, warn
from .model_options import MAPPER, forward_options, mapper_options
from .record import Record
from .serving import checked_device, input_file, load_model, run_each, with_progress

if TYPE_CHECKING:
    from PIL import Image

NOTED_PADDING = 0.03  # of the bits
OPEN = 1  # exit code: a ledger that does not close
GAP_ENDS = ("coder spends less", "coder spends more")  # than the estimate
WORST = 10  # cells that gain least for their bits, told in the record
PICTURES = ("gap", "entropy", "channels")  # of coded bits, on request


def run(arguments: argparse.Namespace) -> int:
    """Code, compare, print."""
    device = checked_device(arguments.device)
    model, name = load_model(device, arguments, coded=True)
    every = arguments.padding == ALL_PADDINGS
    options = mapper_options(arguments, BitrateMapper, [one for one in MAPPER if not every or one != "padding"])
    each = [options | {"padding": padding} for padding in PADDINGS] if every else [options]
    mappers = [BitrateMapper(model, bits=CODED, gap=True, **one) for one in each]
    forward = forward_options(arguments)

    def serve(image: str) -> dict[str, Any]:
        with input_file(image) as path:
            picture = load_picture(path)
        x, facts = picture.pixels, picture.facts
        height, width = x.shape[-2:]
        document = {"image": image, "width": width, "height": height, "model": name, "device": str(device)}
        document["picture"] = asdict(facts)
        warn(image, facts.warnings)
        coded = {}
        for mapper in mappers:
            padding = mapper.adapter.padding.mode
            result = mapper(x.to(device), **forward)
            coded[padding] = ledger_document(result)
            coded[padding]["psnr_db"] = finite(None if result.x_hat is None else measure_psnr(result.x_hat, x))
            if not arguments.container:
                del coded[padding]["container_bytes"]
        if every:
            document |= {"closes": all(one["closes"] for one in coded.values()), "paddings": coded}
        else:
            coded[arguments.padding]["warnings"][:0] = facts.warnings
            document |= coded[arguments.padding]
        if not arguments.json:
            echo(_comparison(document) if every else _table(document), sys.stdout)
        return document

    documents, failures = run_each("image", with_progress(arguments.images), serve, [model], "Coding")
    if arguments.json:
        print_document("image", documents, failures)
    if failures:
        return FAILED
    return OK if all(document["closes"] for document in documents) else OPEN


def ledger_document(result: BitrateResult) -> dict[str, Any]:
    """Return the ledger of one image, as ``STEM.json`` has it, and the result's warnings."""
    ledger = result.ledger
    assert ledger is not None
    latents = {}
    for name, one in ledger.latents.items():
        latents[name] = {
            "image": one.located.item(),
            "padding": one.padding.item(),
            "overhead": one.overhead.item(),
            "string_bytes": one.string_bytes.item(),
            "strings": one.strings.item(),
            "escapes": one.escapes.item(),
            "closure": one.closure.item(),
            "estimated": None if one.estimated is None else finite(one.estimated.item()),
            "disagreement": None if one.disagreement is None else finite(one.disagreement.item()),
        }
    return {
        "closes": ledger.closes.item(),
        "string_bytes": ledger.string_bytes.item(),
        "container_bytes": ledger.container_bytes.item(),
        "latents": latents,
        "warnings": list(result.warnings),
    }


def padding_note(padding: float | None, total: float | None) -> str:
    """Return what is to be said where padding takes more than a little of the bits."""
    if not padding or not total or padding / total <= NOTED_PADDING:
        return ""
    share = f"{100 * padding / total:.1f} %"
    return f" ({share}: another --padding may save bytes, bitrate-ext check --padding all measures it)"


def _comparison(document: dict[str, Any]) -> str:
    """Return what each way of padding costs."""
    pixels = document["width"] * document["height"]
    lines = [
        f"{shown(document['image'])}: {document['width']} x {document['height']}, coded with each way of padding",
        f"  {'':10}{'bytes':>12}{'bits per pixel':>18}{'PSNR':>12}{'in padding':>14}",
    ]
    for padding, one in document["paddings"].items():
        size = one["string_bytes"] + one.get("container_bytes", 0)
        outside = sum(latent["padding"] for latent in one["latents"].values())
        psnr = "" if one["psnr_db"] is None else f"{one['psnr_db']:.2f} dB"
        share = f"{100 * outside / (8 * one['string_bytes']):.1f} %"
        closes = "" if one["closes"] else "   THE LEDGER DOES NOT CLOSE"
        lines.append(f"  {padding:10}{size:>12,}{8 * size / pixels:>18.3f}{psnr:>12}{share:>14}{closes}")
    for padding, one in document["paddings"].items():
        lines += [f"  warning: {padding}: {warning}" for warning in one["warnings"]]
    return "\n".join(lines)


def _table(document: dict[str, Any]) -> str:
    latents, pixels = document["latents"], document["width"] * document["height"]
    strings = sum(one["strings"] for one in latents.values())
    file = f"{document['string_bytes']:,} bytes in {strings} strings"
    if "container_bytes" in document:
        file += f", {document['container_bytes']:,} bytes of container"
    bpp = 8 * (document["string_bytes"] + document.get("container_bytes", 0)) / pixels
    lines = [
        f"{shown(document['image'])}: {document['width']} x {document['height']}, {bpp:.3f} bits per pixel, {file}",
        f"  {'':8}{'image':>14}{'padding':>14}{'overhead':>12}{'strings':>12}{'estimated':>14}{'gap':>10}",
    ]
    for name, one in latents.items():
        gap = ""
        if one["estimated"]:
            gap = f"{100 * ((one['image'] + one['padding']) / one['estimated'] - 1):+.2f} %"
        lines.append(
            f"  {name:8}{one['image']:>14,.2f}{one['padding']:>14,.2f}{one['overhead']:>12,.2f}"
            f"{8 * one['string_bytes']:>12,}{number(one['estimated'], ',.2f'):>14}{gap:>10}"
        )
    left = max((abs(one["closure"]) for one in latents.values()), default=0.0)
    verdict = "closes" if document["closes"] else "DOES NOT CLOSE"
    lines.append(f"  The ledger {verdict}: {left:.1e} bits are left over.")
    outside = sum(one["padding"] for one in latents.values())
    note = padding_note(outside, 8 * document["string_bytes"])
    lines += [f"  In padding: {outside:,.0f} bits{note}."] if note else []
    lines += [f"  warning: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


# Coded bits, gaps and channels in ``bitrate-ext map``.


def map_outputs(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the endings of the pictures that were asked for besides, by their names in the record."""
    asked = {"gap": arguments.gap, "entropy": arguments.gap, "channels": arguments.channels}
    asked["channel"], asked["animation"] = arguments.channel is not None, arguments.animate is not None
    return {name: f".{name}.png" for name in asked if asked[name]}


def complete_record(record: Record, result: BitrateResult, channels: bool) -> None:
    """Add where the bits come from, warnings, their ledger and, if asked for, their channels."""
    record.bits = result.bits
    if result.ledger is not None:
        record.ledger = ledger_document(result)
        del record.ledger["warnings"]
    if channels:
        record.channels = {name: channel_account(bits[0]) for name, bits in result.channel_bits.items()}


def channel_account(bits: Any) -> dict[str, list[Any]]:
    """Return channels ``[C]`` in the order of their bits, most first, and the share that the first so many have."""
    ordered = bits.cpu().sort(descending=True, stable=True)
    total = float(ordered.values.sum())
    shares = (ordered.values.cumsum(0) / total if total > 0 else ordered.values).tolist()
    return {
        "channel": ordered.indices.tolist(),
        "bits": [finite(one) for one in ordered.values.tolist()],
        "share": [finite(one) for one in shares],
    }


def error_account(cells: CellErrors) -> dict[str, Any]:
    """Return how many cells of the finest latent gain nothing for their bits, and what these are."""
    rows = cells.rows()
    idle = [one for one in rows if one.gain_db <= 0]
    return {
        "cells": len(rows),
        "bits": finite(sum(one.bits for one in rows)),
        "cells_without_gain": len(idle),
        "bits_without_gain": finite(sum(one.bits for one in idle)),
        "worst": [{**one._asdict(), "gain_db": finite(one.gain_db)} for one in rows[:WORST]],
    }


def write_pictures(
    files: Mapping[str, IO[bytes]], result: BitrateResult, title: str, model: str, limit: float | None = None
) -> None:
    """Write those pictures of ``map_outputs`` that there are files for."""
    for name in PICTURES:
        if name in files:
            _picture(name, result, title, model, limit).save(files[name], format="PNG")


def _picture(name: str, result: BitrateResult, title: str, model: str, limit: float | None) -> Image.Image:
    if name == "channels":
        accounts = {latent: channel_account(bits[0]) for latent, bits in result.channel_bits.items()}
        return channel_figure(accounts, title=title, subtitle=model)
    if name == "entropy":
        assert result.entropy is not None
        about = f"what the coder's tables expect   {model}"
        return map_figure(result.entropy, title=title, subtitle=about, limit=limit, rim=result.rim)
    assert result.gap is not None
    about = f"coded minus estimated   {model}"
    scale: dict[str, Any] = {"limit": limit, "signed": True, "ends": GAP_ENDS, "rim": result.rim}
    return map_figure(result.gap, title=title, subtitle=about, **scale)


def array_names(result: BitrateResult) -> dict[str, Any]:
    """Return the maps that ``STEM.bitrate.npz`` has besides."""
    return {name: one for name, one in (("gap", result.gap), ("entropy", result.entropy)) if one is not None}
