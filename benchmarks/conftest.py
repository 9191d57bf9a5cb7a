"""Ratios within one run, printed after pytest-benchmark's table: times on shared machines drift, ratios less."""

from __future__ import annotations

from typing import Any

import pytest
import torch

BASES = {"implementation": "fused", "projection": "bilinear"}  # what the others of a group are compared with


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["instruction_sets"] = torch.ops.bitrate_ext._choose_instruction_set(-1)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    groups: dict[str, dict[str, Any]] = {}
    for bench in session.benchmarks if session else []:
        if bench.group and bench.stats.rounds:
            kind = next(kind for kind in BASES if kind in bench.params)
            row = "base" if bench.params[kind] == BASES[kind] else bench.params[kind]
            groups.setdefault(bench.group, {})[row] = bench
    if not groups:
        return
    terminalreporter.section("each one's time over the fused operator's, bilinear (medians)")
    for group, rows in groups.items():
        if "base" not in rows:
            continue
        base = rows["base"].stats.median
        rate = rows["base"].extra_info.get("bytes", 0) / base / 1e9
        ratios = "  ".join(f"{name} {row.stats.median / base:.2f}" for name, row in rows.items() if name != "base")
        terminalreporter.write_line(f"{group:32} fused {base * 1e3:8.3f} ms {rate:5.1f} GB/s   {ratios}")
