"""One step of training, by CompressAI's loss and by a fused model with RateLoss: time, and memory kept for backward.

    python benchmarks/training.py [--seconds 40] [--threads 1]

A step is forward, loss, backward, gradients clipped and both optimisers. The two ways take turns; the least of the
rounds. ``make bench`` has the same steps as rows. Needs CompressAI.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import rate
import torch
from compressai.losses import RateDistortionLoss
from compressai.registry import MODELS
from torch import Tensor

import bitrate_ext

CODECS = {"bmshj2018-factorized": {"N": 128, "M": 192}, "mbt2018-mean": {"N": 128, "M": 192}}  # qualities 1 to 4
WAYS = ("CompressAI", "fused")
SIZE = (4, 3, 256, 256)  # the batch: papers take eight or sixteen of these crops


def step(name: str, way: str, device: torch.device) -> Callable[[], Tensor]:
    """Return a call that trains a codec by a step more and gives its loss."""
    torch.manual_seed(0)
    model = MODELS[name](**CODECS[name]).train().to(device)
    x = torch.rand(SIZE, device=device)
    apart = [p for n, p in model.named_parameters() if n.endswith("quantiles")]
    known = {id(p) for p in apart}
    rest = [p for p in model.parameters() if id(p) not in known]
    main, aside = torch.optim.Adam(rest, lr=1e-4), torch.optim.Adam(apart, lr=1e-3)
    if way == "fused":
        bitrate_ext.fuse(model)  # for as long as the call is there
    criterion = (bitrate_ext.RateLoss if way == "fused" else RateDistortionLoss)(lmbda=0.01)

    def run() -> Tensor:
        main.zero_grad()
        aside.zero_grad()
        loss: Tensor = criterion(model(x), x)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        main.step()
        model.aux_loss().backward()
        aside.step()
        return loss.detach()

    return run


def check(name: str, device: torch.device) -> None:
    """Compare the losses of the first steps, which have the same noise."""
    theirs, ours = (torch.stack([run() for _ in range(2)]) for run in (step(name, way, device) for way in WAYS))
    rate.check(name, [ours], [theirs])


def kept(run: Callable[[], object]) -> int:
    """Return the bytes of memory that autograd keeps in a step, each once."""
    held: dict[int, torch.UntypedStorage] = {}  # so that no other one gets its address

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in held.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="of measuring each codec")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cpu = torch.device("cpu")
    for name in CODECS:
        check(name, cpu)
        steps = {way: step(name, way, cpu) for way in WAYS}
        memory = {way: kept(run) / 2**20 for way, run in steps.items()}
        found = rate.measured(steps, options.seconds)
        for way in WAYS:
            ms = found[way]
            print(
                f"{name}, {way}: {ms['wall']:.0f} ms, median {ms['median']:.0f}, processor {ms['processor']:.0f}; "
                f"{memory[way]:.0f} MiB kept",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
