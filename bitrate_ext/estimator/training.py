"""Train an estimator: run a codec on windows of photographs, and fit the network to the bits of their blocks."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_whole_number
from ..choices import GUIDED
from ..mapping.mapper import AnyProjection
from .codec import CodecBits, Model, Photograph, load_photograph
from .estimator import About, EstimatorError, RateEstimator
from .network import BLOCK, RateNetwork

Progress = Callable[[str, float], object]
EVERY, MOST_HELD_OUT, FEW = 8, 16, 8  # of photographs: one of so many is held out, at most so many; fewer are few
SIDE = 256  # of windows, pixels; or the next multiple below that the codec takes
FROM_EACH = 2, 8  # windows, each time that a photograph is read: one for each megapixel, but so many
LARGEST = 2048  # pixels of a side: of photographs that are held out, the middle of larger ones is mapped
MOST_PIXELS = 160_000_000  # of the windows that are kept, 3 bytes each
BATCH = 6 * SIDE**2  # pixels a step
RATE, WARM_UP, DECAY = 2e-3, 50, 1e-2  # of AdamW: learning rate, steps up to it, weight decay
SOFTENED = 0.05  # of the mean bits of blocks, below which they count little
LEAST = 1e-3  # bits of a block, that means are taken for at least
TOTALS = 0.1  # weight of the error of totals beside that of blocks


class Clock:
    """How much of a time, or of a number of rounds, is over."""

    def __init__(self, seconds: float, rounds: int | None) -> None:
        self._end, self._rounds, self._start = seconds, rounds, time.monotonic()

    def done(self, rounds: int) -> float:
        """Return it from 0 to 1, after so many rounds; after none, nothing is over."""
        past = (time.monotonic() - self._start) / self._end if self._rounds is None else rounds / self._rounds
        return min(past, 1.0) if rounds else 0.0


@dataclass(frozen=True)
class Window:
    """A part of a photograph on its canvas: what the network is told of it, and what it cost."""

    features: Tensor  # float16 [channels, H / 8, W / 8], what the network is told
    blocks: Tensor  # float32 [outputs, h, w], bits; NaN at qualities that it was not coded at


def train_estimator(
    model: Model | Mapping[int, Model],
    images: Sequence[Photograph],
    *,
    qualities: Sequence[int] = (),
    held_out: Sequence[Photograph] | None = None,
    projection: AnyProjection = GUIDED,
    minutes: float = 5.0,
    windows: int | None = None,
    steps: int | None = None,
    name: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **forward_kwargs: Any,
) -> RateEstimator:
    """Train an estimator of a model's bits on photographs.

    For half of the time the model runs on windows of the photographs, at one quality after the other, and its maps are
    summed over blocks of 16 x 16 pixels; for the other half the network learns them. Then both see photographs that
    were held out, whole or their middle 2048 x 2048 pixels, which gives ``about.errors``. Nothing is kept on disk, and
    models are left as they were found.

    Args:
        model: as ``BitrateMapper`` takes it, or a ``ModelAdapter``; or a dict of them by quality, which gives an
            estimator of all. They must pad images alike and be on one device, where the network learns, too.
        images: files, or tensors ``[1, C, H, W]`` in [0, 1]; each is read whenever it is needed.
        qualities: of a model that codes the i-th picture of a batch at the i-th of these; it is run on copies.
        held_out: photographs for the errors alone. Default: every 8th of ``images``, at least one, at most 16.
        projection: of the maps, as for ``BitrateMapper``. What is measured is so for the middle quality.
        minutes: for windows and learning. Measuring a projection before that, and the errors after, come on top.
        windows, steps: exact numbers in the place of halves of the time: training can then be repeated.
        name: what to call the model. Default: its class.
        seed: of windows, first weights and the order of learning.
        progress: called now and then as ``progress(what, done)``, with ``done`` from 0 to 1.
        **forward_kwargs: for the model's ``forward``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; fewer than two images; bits that
            are no finite numbers; or as ``BitrateMapper``.
        ImageError: a file that cannot be read.

    Example:
        >>> estimator = bitrate_ext.train_estimator(model, [x], held_out=[x], projection="bilinear", windows=1, steps=1)
        >>> estimator(x).map.shape
        torch.Size([1, 1, 64, 64])
    """
    models: list[Any] = [model]
    if isinstance(model, Mapping):
        if qualities:
            raise ValueError(
                f"qualities are those of one model, but model is a dict of them by quality, got {qualities}"
            )
        if not model:
            raise ValueError(
                "model must be a model, or a dict of them by quality such as {1: model}, got an empty dict"
            )
        qualities, models = tuple(model), list(model.values())
        batched = 1
    else:
        batched = max(len(qualities), 1)
    for quality in qualities:
        check_whole_number("quality", quality, 0)
    _check_numbers(minutes, windows, steps)
    train, test = _split(images, held_out)
    first = load_photograph(train[0])
    codec = CodecBits(models, projection, first, forward_kwargs, batched)
    tell = progress or (lambda what, done: None)

    random, start = np.random.default_rng(seed), time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RateNetwork(first.shape[1], codec.outputs).to(codec.device)
    seen = _run_codec(network, codec, train, random, Clock(30 * minutes, windows), tell)
    left = 30 * minutes if windows is not None else max(60 * minutes - (time.monotonic() - start), 1)
    _fit(network, seen, random, Clock(left, steps), tell)
    about = About(
        model=name or type(codec.adapters[0].model).__name__,
        qualities=tuple(qualities),
        errors=tuple(_errors(network, codec, test, tell)),
        multiple=codec.multiple,
        channels=first.shape[1],
        padding=codec.padding.mode,
        padding_side=codec.padding.side,
        weights=codec.fingerprint,
        training={
            "photographs": len(train),
            "windows": len(seen),
            "pixels": BLOCK**2 * sum(one.blocks[0].numel() for one in seen),
            "projection": projection if isinstance(projection, str) else "given",
            "seed": seed,
        },
    )
    return RateEstimator(network, about)


def _check_numbers(minutes: float, windows: int | None, steps: int | None) -> None:
    for argument, value in (("windows", windows), ("steps", steps)):
        if value is not None:
            check_whole_number(argument, value, 1)
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a positive number, got {minutes!r}")


def _split(
    images: Sequence[Photograph], held_out: Sequence[Photograph] | None
) -> tuple[list[Any] | Sequence[Photograph], Sequence[Photograph]]:
    """Return the photographs to learn, and those that are held out."""
    for argument, given in (("images", images), ("held_out", held_out)):
        if given is not None and (isinstance(given, (str, Tensor)) or not isinstance(given, Sequence)):
            got = type(given).__name__
            raise TypeError(f"{argument} must be a list of files or of tensors [1, C, H, W], got {got}")
    least = 1 if held_out else 2
    if len(images) < least:
        raise ValueError(
            f"images must be at least {least}, one of which is held out without held_out, got {len(images)}"
        )
    if held_out:
        return images, held_out
    places = list(range(EVERY - 1, len(images), EVERY))[:MOST_HELD_OUT] or [len(images) - 1]
    if len(places) < FEW:
        warnings.warn(
            f"the errors are measured on {len(places)} of the photographs alone: give {EVERY * FEW}, or held_out",
            stacklevel=3,
        )
    kept = set(places)
    return [images[i] for i in range(len(images)) if i not in kept], [images[i] for i in places]


@torch.no_grad()
def _run_codec(
    network: RateNetwork,
    codec: CodecBits,
    photographs: Sequence[Photograph],
    random: np.random.Generator,
    clock: Clock,
    tell: Progress,
) -> list[Window]:
    seen: list[Window] = []
    room = MOST_PIXELS
    for part in _parts(photographs, codec.multiple, random):
        done = clock.done(len(seen))
        tell("running the codec", done)
        if done >= 1 or room <= 0:
            break
        picture, blocks = codec(part, len(seen))
        seen.append(Window(network.features(picture)[0].half().cpu(), blocks.cpu()))
        room -= picture[0, 0].numel()
    return seen


def _parts(
    photographs: Sequence[Photograph], multiple: tuple[int, int], random: np.random.Generator
) -> Iterator[Tensor]:
    """Yield windows of the photographs, without end; every other one of a size that needs padding."""
    count = 0
    while True:
        for index in random.permutation(len(photographs)):
            whole = load_photograph(photographs[index])
            for _ in range(min(max(whole[0, 0].numel() >> 20, FROM_EACH[0]), FROM_EACH[1])):
                box = []
                for length, step in zip(whole.shape[2:], multiple, strict=True):
                    side = min(length, max(SIDE // step, 1) * step)
                    if count % 2:
                        side = int(random.integers(-(-side // 2), side + 1))
                    elif side > step:
                        side = side // step * step
                    begin = int(random.integers(length - side + 1))
                    box.append(slice(begin, begin + side))
                count += 1
                yield whole[:, :, box[0], box[1]]


def _fit(
    network: RateNetwork, seen: Sequence[Window], random: np.random.Generator, clock: Clock, tell: Progress
) -> None:
    """Learn the bits of blocks: their roots, as errors of many bits are larger, and the logarithms of totals."""
    means = torch.cat([one.blocks.flatten(1) for one in seen], dim=1).nanmean(dim=1)  # [outputs]
    means = torch.where(means.isnan(), means.nanmean(), means).clamp_min(LEAST)
    device = network.last.weight.device
    means = means.to(device)
    network.start(means)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    groups: dict[Any, list[Window]] = defaultdict(list)  # of one size
    for one in seen:
        groups[tuple(one.blocks.shape)].append(one)
    alike = list(groups.values())
    chances = np.array([len(group) for group in alike]) / len(seen)
    step = 0
    while (done := clock.done(step)) < 1:
        tell("learning", done)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        features, bits = _batch(alike[random.choice(len(alike), p=chances)], random, device)
        with torch.enable_grad():
            loss = _loss(network.learnt(features), bits, means.view(-1, 1, 1))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        step += 1


def _loss(made: Tensor, blocks: Tensor, means: Tensor) -> Tensor:
    """Return the loss of bits ``[N, outputs, h, w]``, beside which those known are NaN where nothing is known."""
    roots = (made / means + SOFTENED).sqrt() - (blocks / means + SOFTENED).sqrt()
    totals = made.sum(dim=(2, 3)).log() - blocks.sum(dim=(2, 3)).log()
    known = ~totals.isnan()
    return roots[known].square().mean() + TOTALS * totals[known].abs().mean()


def _batch(alike: Sequence[Window], random: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw windows of one size, mirrored at random: their features and the bits of their blocks."""
    count = max(1, min(len(alike), round(BATCH / (BLOCK**2 * alike[0].blocks[0].numel()))))
    features, bits = [], []
    for index in random.choice(len(alike), count, replace=False):
        window = alike[index]
        flipped = [axis for axis in (-2, -1) if random.random() < 0.5]
        features.append(window.features.flip(flipped))
        bits.append(window.blocks.flip(flipped))
    return torch.stack(features).to(device).float(), torch.stack(bits).to(device)


@torch.no_grad()
def _errors(
    network: RateNetwork, codec: CodecBits, photographs: Sequence[Photograph], tell: Progress
) -> Iterator[EstimatorError]:
    """Hold the network, with weights as they are saved, against the codec, at each of its outputs."""
    for weight in network.parameters():
        weight.copy_(weight.half().float())
    totals, correlations = np.zeros((2, codec.outputs, len(photographs)))
    for number, photograph in enumerate(photographs):
        tell("measuring the errors", number / len(photographs))
        whole = load_photograph(photograph)
        top, left = (max(side - LARGEST, 0) // 2 for side in whole.shape[2:])
        picture, blocks = codec(whole[:, :, top : top + LARGEST, left : left + LARGEST])
        for output, (made, known) in enumerate(zip(network(picture)[0], blocks, strict=True)):
            totals[output, number] = abs(float(made.double().sum() / known.double().sum()) - 1)
            correlations[output, number] = correlation(made, known)
    for output in range(codec.outputs):
        yield EstimatorError(totals[output].mean(), correlations[output].mean(), len(photographs))


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two tensors of one shape; 0 where one is constant."""
    a, b = (one.double() - one.double().mean() for one in (a, b))
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm else 0.0
