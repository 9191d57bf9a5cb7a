"""What symbols cost, exactly: the distributions as mpmath has them, and cases that reach into every corner."""

import mpmath
import torch

import bitrate_ext as be

mpmath.mp.dps = 60
LOCATED = (be.Gaussian, be.Laplace, be.Logistic)
KINDS = [*LOCATED, be.GaussianMixture]
HALF = mpmath.mpf("0.5")


def _gaussian(a, b):
    """CDF(-a) - CDF(-b), whatever it takes: 60 digits beside the exponent of the tail."""
    root = mpmath.sqrt(2)
    with mpmath.workdps(60 + int(min(a * a, 10_000) / 4)):
        return (mpmath.erfc(a / root) - mpmath.erfc(b / root)) / 2


def _laplace(a, b):
    return (mpmath.exp(-a) if a > 0 else 2 - mpmath.exp(a)) / 2 - mpmath.exp(-b) / 2


def _logistic(a, b):
    return 1 / (1 + mpmath.exp(a)) - 1 / (1 + mpmath.exp(b))


CDFS = {"Gaussian": _gaussian, "Laplace": _laplace, "Logistic": _logistic}


def likelihood(kind, value, scale, mean=0.0):
    """Of one symbol; every argument is taken as the number that it is."""
    distance = abs(mpmath.mpf(float(value)) - mpmath.mpf(float(mean)))
    scale = mpmath.mpf(float(scale))
    return CDFS[kind]((distance - HALF) / scale, (distance + HALF) / scale)


def factorized_likelihood(module, channel, value):
    """Of a factorised prior's symbol, from the module's raw parameters, each taken as the number that it is."""

    def numbers(tensor):
        return [[mpmath.mpf(one) for one in row] for row in tensor[channel].tolist()]

    def logit(at):
        units = [at]
        for layer, (matrix, bias) in enumerate(zip(module.matrices, module.biases, strict=True)):
            positive = [[mpmath.log1p(mpmath.exp(one)) for one in row] for row in numbers(matrix)]
            sums = [mpmath.fdot(row, units) + one[0] for row, one in zip(positive, numbers(bias), strict=True)]
            if layer < len(module.filters):
                gates = numbers(module.factors[layer])
                sums = [x + mpmath.tanh(gate[0]) * mpmath.tanh(x) for x, gate in zip(sums, gates, strict=True)]
            units = sums
        return units[0]

    value = mpmath.mpf(float(value))
    low, high = logit(value - HALF), logit(value + HALF)
    return _logistic(low, high) if low > 0 else _logistic(-high, -low)  # the tail, which is no rest of one


def bits(found):
    return float(-mpmath.log(found, 2))


def symbols(count, generator, most_bits=1000.0, dtype=torch.float32):
    """Values, scales and means ``[1, 1, 1, count]`` of every size; no symbol costs much more than ``most_bits``."""
    scales = 0.11 * torch.exp(torch.rand(count, generator=generator, dtype=torch.float64) * 9)  # to 890
    means = torch.randn(count, generator=generator, dtype=torch.float64) * 10
    far = torch.rand(count, generator=generator, dtype=torch.float64) ** 3 * (most_bits * 1.38) ** 0.5
    sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    noise = torch.rand(count, generator=generator, dtype=torch.float64) - 0.5
    values = means + sign * far * scales + noise
    return [t.to(dtype).reshape(1, 1, 1, count) for t in (values, scales, means)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture_of(count, dtype=torch.float64, seed=2):
    """Values, scales, means and weights of two channels and three parts."""
    values, scales, means = (torch.cat([t, t + 0.3], 1) for t in symbols(count, generator(seed), 100.0, dtype))
    weights = torch.softmax(torch.randn(1, 2, 3, 1, count, generator=generator(3), dtype=torch.float64), 2)
    wide = [torch.cat([t, t * 1.2, t * 0.8], 1) for t in (scales, means)]
    return values, *wide, weights.movedim(2, 1).reshape(1, 6, 1, count).to(dtype)


def source_of(kind, count=600, seed=0, dtype=torch.float32, most_bits=1000.0, **kwargs):
    if kind is be.GaussianMixture:
        return kind(*mixture_of(count, dtype, seed), **kwargs)
    return kind(*symbols(count, generator(seed), most_bits, dtype), **kwargs)
