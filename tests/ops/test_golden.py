"""The operator makes of the golden set what golden.json holds, on every device."""

import json

import golden
import torch


def test_golden_set(device):
    expected = [golden.Checksums(*row) for row in json.loads(golden.FILE.read_text())]
    assert len(expected) == golden.COUNT == 300
    found = [golden.checksums(index, device) for index in range(golden.COUNT)]
    for name in golden.Checksums._fields:  # inputs first: where they differ, nothing else can be right
        pairs = zip(expected, found, strict=True)
        wrong = [index for index, (e, f) in enumerate(pairs) if getattr(e, name) != getattr(f, name)]
        assert not wrong, f"{name}: {len(wrong)} differ, first {wrong[0]}: {golden.make(wrong[0])[0]}"


def test_golden_set_is_varied():
    """Projections, formats, layouts, several latents, crops and spoiled values all occur; no two cases are equal."""
    cases = [golden.make(index)[0] for index in range(golden.COUNT)]
    for mode in ("nearest", "bilinear", "area"):
        assert sum(case.mode == mode for case in cases) >= 60
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert sum(case.likelihoods[0].dtype == dtype for case in cases) >= 60
    assert sum(len(case.likelihoods) > 1 for case in cases) >= 60
    assert sum(case.crop is not None for case in cases) >= 60
    assert sum(case.scale is not None for case in cases) >= 60
    assert sum(not case.conserve for case in cases) >= 60
    assert sum(not case.likelihoods[0].is_contiguous() for case in cases) >= 100
    assert sum(not torch.isfinite(p.double().log2()).all() for case in cases for p in case.likelihoods) >= 30
    rows = json.loads(golden.FILE.read_text())
    assert len({row[1] for row in rows}) == len({row[2] for row in rows}) == golden.COUNT
