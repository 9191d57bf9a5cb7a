"""What coded maps cost beyond the model's own compress(), for docs/coded-bits.md.

    python tools/coded_cost.py    # as Markdown; about three minutes

Processor time on one thread, so that other programs count for little; the best of several runs, taken in turns. Models
of CompressAI's sizes have random weights, the demo codec its own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import bitrate_ext
from bitrate_ext.io.images import load_image
from bitrate_ext.models.demo_codec import demo_photograph

MODELS: dict[str, dict[str, Any]] = {
    "bmshj2018-factorized": {"N": 128, "M": 192},
    "bmshj2018-hyperprior": {"N": 128, "M": 192},
    "mbt2018-mean": {"N": 128, "M": 192},
    "cheng2020-anchor-checkerboard": {"N": 128},
    "elic2022-official": {},
    "mbt2018": {"N": 192, "M": 192},
}
RUNS = 7


def seconds(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def main() -> None:
    from compressai.registry import MODELS as REGISTRY

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    photograph = load_image(demo_photograph())
    print("| model | compress(), ms | coded map, ms | beyond, ms | share |\n|---|---|---|---|---|")
    for name in ("demo codec", *MODELS):
        torch.manual_seed(0)
        model: Any = REGISTRY[name](**MODELS[name]).eval() if name in MODELS else bitrate_ext.load_demo_codec()
        model.update(force=True)
        mapper = bitrate_ext.BitrateMapper(model, bits="coded")
        mapper(photograph)
        padded, *_ = mapper.adapter.pad(photograph)

        def compress(model: Any = model, padded: torch.Tensor = padded) -> None:
            with torch.inference_mode():
                model.compress(padded)

        pairs = [(seconds(compress), seconds(lambda mapper=mapper: mapper(photograph))) for _ in range(RUNS)]  # type: ignore[misc]
        alone, coded = (1000 * min(times) for times in zip(*pairs, strict=True))
        print(
            f"| {name} | {alone:.0f} | {coded:.0f} | {coded - alone:.1f} | {100 * (coded / alone - 1):.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
