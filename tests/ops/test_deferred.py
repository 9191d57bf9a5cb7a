"""Likelihoods that are made when asked for: what makes them, what does not, and what they are then."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import bitrate_ext as be
from bitrate_ext.ops.rate import reference as rate_reference
from bitrate_ext.ops.rate.cells import symbol_bits
from bitrate_ext.ops.rate.deferred import DeferredLikelihoods, defer


def parts(*, channels=3, gradients=True, dtype=torch.float32):
    values = (torch.randn(2, channels, 4, 5, dtype=dtype) * 2).requires_grad_(gradients)
    scales = (torch.rand(2, channels, 4, 5, dtype=dtype) + 0.3).requires_grad_(gradients)
    return values, scales


def likelihoods(source):
    return torch.exp2(-rate_reference.symbol_bits(source.flat())).to(source.dtype)


def is_made(p):
    return p._held._made is not None


def test_kinds_and_our_own_calls_make_nothing():
    source = be.Gaussian(*parts())
    p = defer(source)
    assert (p.shape, p.dtype, p.device, p.dim(), p.numel()) == ((2, 3, 4, 5), torch.float32, source.device, 4, 120)
    assert p.requires_grad
    assert not p.detach().requires_grad
    assert p.contiguous() is p
    expected = be.rate(source)
    for given in (p, {"y": p}, p.detach(), {"likelihoods": {"y": p}, "x_hat": 0}):
        torch.testing.assert_close(be.rate(given), expected)
    torch.testing.assert_close(be.latent_bits(p), be.latent_bits(source))
    torch.testing.assert_close(be.bitrate_map(p, (64, 80)), be.bitrate_map(source, (64, 80)))
    be.bitrate_map({"likelihoods": {"y": p}}, (64, 80)).sum().backward()
    assert source.values.grad.abs().sum() > 0
    assert not be.rate(p.detach()).requires_grad
    assert not is_made(p)


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p.log2(),
        lambda p: torch.clamp(p, 1e-3),
        lambda p: p[:, 1:, ::2],
        lambda p: p.double(),
        lambda p: p.permute(1, 0, 2, 3).reshape(3, -1).sum(1),
        lambda p: torch.stack([p, p]).prod(0),
        lambda p: torch.cat([p, p], 2).clone(),
        lambda p: torch.where(p > 0.1, p, 0),
        lambda p: p.chunk(3, 1)[2],
    ],
)
def test_any_other_use_is_that_of_the_tensor_and_of_its_gradient(use):
    values, scales = parts()
    p, plain = defer(be.Gaussian(values, scales)), likelihoods(be.Gaussian(values, scales))
    found, expected = use(p), use(plain)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    weights = torch.rand_like(expected)
    got, wanted = (torch.autograd.grad((one * weights).sum(), (values, scales)) for one in (found, expected))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_leaves_pytorch():
    p = defer(be.Gaussian(*parts(gradients=False)))
    plain = p.clone()
    assert np.array_equal(p.numpy(), plain.numpy())
    assert np.array_equal(np.asarray(p), plain.numpy())
    assert p.tolist() == plain.tolist()
    assert p[0, 0, 0, 0].item() == plain[0, 0, 0, 0].item()
    assert repr(p) == repr(plain)
    for made in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(made) is torch.Tensor
        assert torch.equal(made, plain)


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.mul_(0.5),
        lambda p: p.__setitem__((slice(None), 0), 0.25),
        lambda p: p.detach().fill_(0.25),
        lambda p: p.view(-1)[:7].zero_().add_(0.5),
        lambda p: p.numpy().fill(0.125),
        lambda p: torch.exp(torch.zeros(2, 3, 4, 5), out=p),
    ],
)
def test_who_writes_into_it_is_seen(write):
    p = defer(be.Gaussian(*parts(gradients=False)))
    plain, detached = p.clone(), p.detach()
    assert p.source is not None
    write(p)
    assert p.source is detached.source is None
    assert not torch.equal(p, plain)
    assert torch.equal(p, detached)
    torch.testing.assert_close(be.latent_bits(p), -p.double().log2().sum(1).float())


@pytest.mark.parametrize("kind", [be.Gaussian, be.Laplace, be.Logistic])
def test_derivatives(kind):
    values, scales = parts(channels=1, dtype=torch.float64)
    assert gradcheck(lambda *given: defer(kind(*given)).clone(), (values, scales))
    assert gradgradcheck(lambda *given: defer(kind(*given)).clone(), (values, scales))


@pytest.mark.parametrize("floor", [None, 1e-3])
def test_symbols_of_the_kernels_are_the_reference_s(floor):
    values, scales = parts(channels=4)
    wide = [torch.cat([t, t + 0.2], 1) for t in (scales, values)]
    weights = torch.softmax(torch.randn(2, 2, 4, 4, 5), 1).flatten(1, 2)
    prior = pytest.importorskip("compressai.entropy_models").EntropyBottleneck(4)
    for source in (
        be.Gaussian(values, scales, floor=floor),
        be.Logistic(values, scales, floor=floor),
        be.GaussianMixture(values, *wide, weights, floor=floor),
        be.Factorized(prior, values, floor=floor),
    ):
        found, expected = symbol_bits(source.flat()), rate_reference.symbol_bits(source.flat())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.sum((1, 2, 3)), be.rate(source), rtol=1e-6, atol=0)
        got, wanted = (torch.autograd.grad(one.sum(), values, retain_graph=True)[0] for one in (found, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_compiler_sees_the_tensor():
    def cost(values, scales):
        return defer(be.Gaussian(values, scales)).sum()

    values, scales = parts(gradients=False)
    compiled = torch.compile(cost, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(values, scales), cost(values, scales))


def test_a_batch_of_none():
    p = defer(be.Gaussian(torch.empty(0, 2, 3, 4), torch.empty(0, 2, 3, 4)))
    assert p.clone().shape == (0, 2, 3, 4)
    assert be.rate(p).shape == (0,)
    assert isinstance(torch.cat([p, p], 1), DeferredLikelihoods)
