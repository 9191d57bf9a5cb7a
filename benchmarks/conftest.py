"""Ratios within one run, printed after pytest-benchmark's table: times on shared machines drift, ratios less."""

from __future__ import annotations

from typing import Any

import pytest
import torch

FUSED = "fused"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["instruction_sets"] = torch.ops.bitrate_ext._choose_instruction_set(-1)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    groups: dict[str, dict[str, Any]] = {}
    for bench in session.benchmarks if session else []:
        if bench.group and bench.stats.rounds:
            groups.setdefault(bench.group, {})[bench.params["implementation"]] = bench
    if not groups:
        return
    terminalreporter.section("each opponent's time over the fused operator's (medians)")
    for group, rows in groups.items():
        if FUSED not in rows:
            continue
        fused = rows[FUSED].stats.median
        rate = rows[FUSED].extra_info.get("bytes", 0) / fused / 1e9
        ratios = "  ".join(f"{name} {row.stats.median / fused:.2f}" for name, row in rows.items() if name != FUSED)
        terminalreporter.write_line(f"{group:32} fused {fused * 1e3:8.3f} ms {rate:5.1f} GB/s   {ratios}")
