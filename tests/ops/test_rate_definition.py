"""What goes by the definition in float64 and not by a kernel: right, and with every transform, compiler and dtype."""

from itertools import product

import pytest
import torch
from exact_rate import bits, factorized_likelihood, generator, likelihood
from test_sources import bottleneck
from torch.autograd import gradcheck, gradgradcheck

import bitrate_ext as be

SHAPE = (2, 2, 3, 4)
OTHER = (2, 4)  # filters that no kernel has
MANY = ("GaussianMixture", 9)  # parts: more than eight have no kernel
SIMPLE = [("Gaussian", 1), ("Laplace", 1), ("Logistic", 1)]
KINDS = [*SIMPLE, ("GaussianMixture", 3), MANY, ("Factorized", (3, 3, 3, 3)), ("Factorized", OTHER)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EVERY = [pytest.param(*one, id=f"{one[0][0]} {one[0][1]} {str(one[1])[6:]}") for one in product(KINDS, DTYPES)]


def parts_of(kind, dtype, floor=None):
    """The tensors of a source of a few symbols, and what makes the source of such tensors."""
    name, how = kind
    draw = generator(1)
    values = (3 * torch.randn(SHAPE, generator=draw, dtype=torch.float64)).to(dtype)
    if name == "Factorized":
        module = bottleneck(SHAPE[1], dtype=dtype, filters=how)
        return [values], lambda *given: be.Factorized(module, *given, floor=floor)
    batch, channels, *grid = SHAPE
    wide = (batch, how * channels, *grid)
    tensors = [
        values,
        torch.rand(wide, generator=draw, dtype=torch.float64) * 2 + 0.5,
        torch.randn(wide, generator=draw, dtype=torch.float64),
    ]
    if how > 1:
        weights = torch.randn((batch, how, channels, *grid), generator=draw, dtype=torch.float64)
        tensors.append(torch.softmax(weights, 1).flatten(1, 2))
    return [one.to(dtype) for one in tensors], lambda *given: getattr(be, name)(*given, floor=floor)


def total_of(kind, dtype, floor=None):
    tensors, source = parts_of(kind, dtype, floor)
    return tensors, lambda *given: be.rate(source(*given)).sum()


def close(found, expected, dtype):
    """Two ways of one sum of gradients: rounded to the dtype, and in float32 by the kernel, in float64 else."""
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=max(1e-5, 2 * eps), atol=max(1e-5, 4 * eps))


@pytest.mark.parametrize("kind", [*SIMPLE, MANY, ("Factorized", OTHER)])
def test_values_against_mpmath(kind):
    tensors, source = parts_of(kind, torch.float64)
    made = source(*tensors)
    name, how = kind
    expected = torch.zeros(SHAPE[0], *SHAPE[2:], dtype=torch.float64)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, SHAPE)).tolist():
        value = tensors[0][n, c, h, w].item()
        if name == "Factorized":
            p = factorized_likelihood(made.entropy_bottleneck, c, value)
        else:
            own = [[one[n, k * SHAPE[1] + c, h, w].item() for one in tensors[1:]] for k in range(how)]
            family = "Gaussian" if how > 1 else name
            p = sum((rest or [1.0])[0] * likelihood(family, value, scale, mean) for scale, mean, *rest in own)
        expected[n, h, w] += bits(p)
    torch.testing.assert_close(be.latent_bits(made), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.medium
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]} {kind[1]}")
def test_gradients_in_float64(kind):
    tensors, source = parts_of(kind, torch.float64)
    small = [one[:1, :, :1, :2].clone().requires_grad_() for one in tensors]
    leaves = list(small)
    if kind[0] == "Factorized":
        module = source(*small).entropy_bottleneck
        leaves += [*module.matrices, *module.biases, *module.factors]

    def cells(*given):  # parameters are read from the module, and given so that they are perturbed
        return be.latent_bits(source(*given[: len(small)]))

    assert gradcheck(cells, leaves, rtol=1e-4)
    assert gradgradcheck(cells, leaves, rtol=1e-3)


@pytest.mark.parametrize(("kind", "dtype"), EVERY)
def test_transforms(kind, dtype):
    tensors, total = total_of(kind, dtype)
    leaves = [one.clone().requires_grad_() for one in tensors]
    expected = torch.autograd.grad(total(*leaves), leaves)
    every = tuple(range(len(tensors)))
    for one, other in zip(torch.func.grad(total, every)(*tensors), expected, strict=True):
        close(one, other, dtype)
    _, along = torch.func.jvp(total, tuple(tensors), tuple(map(torch.ones_like, tensors)))
    torch.testing.assert_close(along, sum(one.double().sum() for one in expected), rtol=1e-2, atol=0.5)
    images = torch.vmap(lambda *given: total(*[one[None] for one in given]))(*tensors)
    each = torch.stack([total(*[one[k : k + 1] for one in tensors]) for k in range(SHAPE[0])])
    torch.testing.assert_close(images, each, rtol=1e-6, atol=1e-6)
    by_image = torch.vmap(torch.func.grad(lambda *given: total(*[one[None] for one in given])))(*tensors)
    close(by_image, expected[0], dtype)


@pytest.mark.parametrize(("kind", "dtype"), EVERY)
def test_autocast_changes_nothing(kind, dtype):
    tensors, total = total_of(kind, dtype, floor=1e-9)
    leaves = [one.clone().requires_grad_() for one in tensors]

    def run():
        found = total(*leaves)
        return [found.detach(), *torch.autograd.grad(found, leaves)]

    expected = run()
    for cast in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=cast):
            assert all(map(torch.equal, run(), expected))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(*one.values, id=one.id, marks=[] if one.id == "GaussianMixture 9 float64" else pytest.mark.slow)
        for one in EVERY
    ],
)
def test_compilers(kind, dtype):
    """In one piece, bound and floor included, which have gradients of their own."""
    torch._dynamo.reset()
    tensors, total = total_of(kind, dtype, floor=1e-9)
    with torch.no_grad():
        for one in tensors[1:2]:
            one[0] = 0.05  # below the bound
    leaves = [one.clone().requires_grad_() for one in tensors]
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*leaves), total(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for one, other in zip(*(torch.autograd.grad(x, leaves) for x in (found, expected)), strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("kind", [("Gaussian", 1), MANY])
def test_forward_mode_has_the_true_derivative_at_the_floor(kind):
    """Where reverse mode has that of CompressAI's bound, which lets an unlikely symbol grow."""
    tensors, total = total_of(kind, torch.float64, floor=1e-9)
    tensors[0] += 40
    values, *rest = tensors
    _, along = torch.func.jvp(lambda one: total(one, *rest), (values,), (torch.ones_like(values),))
    assert along == 0
    assert total(*tensors) == pytest.approx(values.numel() * 29.897352853986263)
