"""Write a kernel as the sum of a few separable terms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .field import Term

TOLERANCE = 0.1  # share of the bits that a sum of separable terms may put elsewhere before it gets one more term
MOST_TERMS = 3


def separable_terms(energy: NDArray[np.float64], noise: float = 0.0) -> tuple[list[Term], float]:
    """Write a kernel as the sum of as few separable terms as serve, none of them negative; say what that misses.

    One term is the product of the marginals. More are found by expectation maximisation (the model of Hofmann's
    probabilistic latent semantic analysis, 1999), which keeps the marginals as they are.

    Args:
        energy: ``[rows, columns]``, not negative, adds up to one.
        noise: half the L1 distance that its error of measurement makes; no term is spent on that.

    Returns:
        The terms, and half the L1 distance of their sum to the kernel behind the noise.
    """
    share = np.ones(1)
    vertical, horizontal = energy.sum(axis=1, keepdims=True), energy.sum(axis=0, keepdims=True)
    random = np.random.default_rng(0)
    for terms in range(1, MOST_TERMS + 1):
        if terms > 1:
            share = np.full(terms, 1.0 / terms)
            vertical = energy.sum(axis=1, keepdims=True) * random.uniform(0.5, 1.5, (energy.shape[0], terms))
            horizontal = energy.sum(axis=0, keepdims=True) * random.uniform(0.5, 1.5, (terms, energy.shape[1]))
            vertical, horizontal = vertical / vertical.sum(axis=0), horizontal / horizontal.sum(axis=1, keepdims=True)
            for _ in range(500):
                model = (vertical * share) @ horizontal
                ratio = np.divide(energy, model, out=np.zeros_like(energy), where=model > 0)
                rows, columns = vertical * (ratio @ horizontal.T), horizontal * (vertical.T @ ratio)
                weight = rows.sum(axis=0)
                share = share * weight
                vertical, horizontal = rows / weight, columns / columns.sum(axis=1, keepdims=True)
        distance = float(np.abs(energy - (vertical * share) @ horizontal).sum() / 2)
        error = max(distance**2 - noise**2, 0.0) ** 0.5
        if error <= TOLERANCE:
            break
    return [Term(float(s), v, h) for s, v, h in zip(share, vertical.T, horizontal, strict=True)], error
