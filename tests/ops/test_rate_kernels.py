"""The kernels of sources: their bits and gradients beside the definition, the same bytes whatever runs them."""

import numpy as np
import pytest
import torch
from exact_rate import KINDS, LOCATED, bits, factorized_likelihood, generator, likelihood, source_of, symbols
from test_sources import bottleneck, compressais, cost

import bitrate_ext as be
from bitrate_ext.ops.rate import reference as rate_reference
from bitrate_ext.ops.rate.cells import symbol_bits

OPS = torch.ops.bitrate_ext
NETWORK = ("matrices", "biases", "factors")


def kernel_bits(source):
    """The bits of cells, without autograd."""
    with torch.no_grad():
        return be.latent_bits(source, impl="native", dtype=torch.float64)


def off(got, expected):
    """How far bits are off, beside the larger of one bit and themselves."""
    return ((got - expected).abs() / expected.clamp_min(1)).max().item()


@pytest.mark.parametrize("kind", LOCATED)
def test_bits_against_mpmath(kind):
    source = source_of(kind)
    found = kernel_bits(source).flatten().tolist()
    columns = (t.flatten().tolist() for t in (source.values, source.scales, source.means))
    for got, value, scale, mean in zip(found, *columns, strict=True):
        exact = bits(likelihood(kind.__name__, value, max(scale, torch.tensor(0.11).item()), mean))
        assert got >= 0
        assert abs(got - exact) <= 1e-6 * max(1, exact)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_against_the_definition(kind, dtype):
    for seed in range(5):
        source = source_of(kind, 20_000, seed, dtype)
        assert off(kernel_bits(source), rate_reference.cell_bits(source.flat())) <= 1e-6


def test_scales_of_any_size():
    """Where a symbol is certain, and where a scale is a million."""
    values = torch.linspace(-3, 3, 601).reshape(1, 1, 1, -1).expand(1, 12, 1, -1)
    scales = torch.logspace(-2.5, 8, 12).reshape(1, 12, 1, 1).expand_as(values)
    for kind in LOCATED:
        for bound in (0.11, None):
            source = kind(values, scales, scale_bound=bound)
            got = kernel_bits(source)
            assert off(got, rate_reference.cell_bits(source.flat())) <= 1e-6
            assert (got >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("floor", [None, 1e-9])
def test_gradients_against_the_definition(kind, floor):
    for seed in range(3):
        source = source_of(kind, 3000, seed, floor=floor)
        shift = 0.2 if seed else 0.0  # some scales below the bound
        tensors = [t.clone().requires_grad_() for t in source.flat().tensors]
        with torch.no_grad():
            tensors[1] -= shift
        weights = torch.randn(source.shape[0], *source.shape[2:], generator=generator(seed + 9), dtype=torch.float64)
        got, expected = (
            torch.autograd.grad(
                be.latent_bits(kind(*tensors, floor=floor), impl=impl, dtype=torch.float64), tensors, weights
            )
            for impl in ("native", "reference")
        )
        for mine, theirs in zip(got, expected, strict=True):
            # Parts of a mixture pull a value both ways.
            torch.testing.assert_close(mine, theirs, rtol=5e-5 if kind is be.GaussianMixture else 1e-5, atol=2e-6)


def test_gradients_of_a_mixtures_parts():
    """Ratios of tails of a hundred bits; what parts pull a value by both ways counts beside those parts."""
    tensors = [t.requires_grad_() for t in source_of(be.GaussianMixture, 4000, 1).flat().tensors]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    mine = torch.autograd.grad(be.rate(be.GaussianMixture(*tensors), impl="native").sum(), tensors)
    theirs = torch.autograd.grad(be.rate(be.GaussianMixture(*exact), impl="reference").sum(), exact)
    for index in (2, 3):
        torch.testing.assert_close(mine[index].double(), theirs[index], rtol=1e-5, atol=1e-30)
    pulls = theirs[2].reshape(1, 3, 2, 1, -1).abs().sum(1)
    assert ((mine[0] - theirs[0]).abs() / pulls).max() <= 3e-6


@pytest.mark.parametrize("kind", LOCATED)
def test_gradients_do_not_underflow(kind):
    values, scales, means = symbols(2000, generator(3), 1000.0)
    leaf = values.requires_grad_()
    got, expected = (
        torch.autograd.grad(be.rate(kind(leaf, scales, means), impl=impl), leaf)[0] for impl in ("native", "reference")
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes(kind):
    """Of every instruction set, any number of threads, any layout, and of each image by itself."""
    flat = source_of(kind, 4 * 9 * 17 * 21).flat()
    tensors = [t.reshape(2, -1, 17, 21) for t in flat.tensors]
    tensors = [t.requires_grad_() for t in tensors]

    def run(*tensors):
        cells = be.latent_bits(kind(*tensors, floor=1e-9), impl="native", dtype=torch.float64)
        return [cells.detach(), *torch.autograd.grad(cells, tensors, torch.full_like(cells, 0.37))]

    expected = run(*tensors)
    threads = torch.get_num_threads()
    try:
        for index in range(OPS._choose_instruction_set(-1)):
            OPS._choose_instruction_set(index)
            assert all(map(torch.equal, run(*tensors), expected))
        OPS._choose_instruction_set(-1)
        for count in (1, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, run(*tensors), expected))
    finally:
        OPS._choose_instruction_set(-1)
        torch.set_num_threads(threads)
    wide = [torch.zeros(2, t.shape[1], 17, 43)[..., ::2][..., :21].copy_(t.detach()).requires_grad_() for t in tensors]
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in tensors]
    mixed = [last[0], *wide[1:]]
    for layout in (wide, last, mixed):
        assert all(map(torch.equal, run(*layout), expected))
    for image in range(2):
        alone = run(*[t.detach()[image : image + 1].requires_grad_() for t in tensors])
        assert all(torch.equal(mine, all_of[image : image + 1]) for mine, all_of in zip(alone, expected, strict=True))


def test_several_sources_at_once():
    sources = {kind.__name__: source_of(kind, 60) for kind in KINDS}
    together = be.bitrate_map(sources, (4, 240), impl="native")
    apart = sum(be.bitrate_map(kernel_bits(s), (4, 240), unit="bits", dtype=torch.float64) for s in sources.values())
    torch.testing.assert_close(together.double(), apart, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", LOCATED)
def test_special_values(kind):
    values = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf, 1e30, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 8)
    scales = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, torch.nan, -1.0, torch.inf]).reshape(1, 1, 1, 8)
    found = kernel_bits(kind(values, scales)).flatten()
    assert found.isfinite().tolist() == [True, False, False, False, True, False, True, False]
    assert found[2:4].tolist() == [torch.inf] * 2
    assert found[4].item() == pytest.approx(4e6, rel=1e-4)  # a symbol costs no more
    assert found[7] == torch.inf
    assert kernel_bits(kind(values, scales, scale_bound=None)).flatten()[6].isnan()
    floored = kernel_bits(kind(values, scales, floor=1e-9)).flatten()
    torch.testing.assert_close(floored[[2, 3, 4, 7]], torch.full((4,), 29.897352853986263, dtype=torch.float64))


def kept_bytes(run, own):
    """How many bytes autograd keeps of a run, besides tensors of one's own."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        made = run()
    theirs = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    del made
    mine = {t.untyped_storage().data_ptr() for t in own}
    return sum(size for where, size in theirs.items() if where not in mine)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_the_inputs_is_kept(kind):
    """CompressAI's chain keeps several tensors of the latent's size for each symbol's gradient."""
    tensors = [t.reshape(2, -1, 10, 10).requires_grad_() for t in source_of(kind, 600).flat().tensors]
    assert kept_bytes(lambda: be.rate(kind(*tensors, floor=1e-9)), tensors) == 0
    assert kept_bytes(lambda: be.bitrate_map(kind(*tensors), (40, 40)), tensors) <= 64  # a few numbers of the map's
    if kind is be.Gaussian:
        theirs = compressais().GaussianConditional(None)
        chain = kept_bytes(lambda: -theirs.likelihood_lower_bound(theirs._likelihood(*tensors)).log2().sum(), tensors)
        assert chain >= 8 * tensors[0].nbytes


def test_what_factorised_priors_keep_does_not_grow_with_the_symbols():
    kept = []
    for side in (8, 64):
        source = factorized((2, 3, side, side), "noisy")
        own = [source.values, *source.entropy_bottleneck.parameters()]
        kept.append(kept_bytes(lambda one=source: be.rate(one), own))
    assert kept[0] == kept[1] < 20_000  # the network's parameters as the operator takes them


@pytest.mark.parametrize("kind", KINDS)
def test_the_operators_by_pytorchs_own_checks(kind):
    flat = source_of(kind, 24, most_bits=50.0).flat()
    tensors = [t.reshape(1, -1, 4, 3).requires_grad_() for t in flat.tensors]
    kinds = ([flat.family], [flat.bound], [flat.floor])
    torch.library.opcheck(OPS.cell_bits.default, (tensors, *kinds))
    grads = [torch.rand(1, 4, 3, dtype=torch.float64, requires_grad=True)]
    torch.library.opcheck(OPS.cell_bits_backward.default, (grads, tensors, *kinds, [True] * len(tensors)))


@pytest.mark.parametrize("kind", LOCATED)
def test_second_derivatives_are_the_references(kind):
    leaves = [t.reshape(1, 2, 5, 5).requires_grad_() for t in symbols(50, generator(5), 50.0)]
    found = []
    for impl in ("native", "reference"):
        cells = be.rate(kind(*leaves), impl=impl)
        first = torch.autograd.grad(cells, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_under_torch_func():
    values, scales, means = (t.reshape(2, 2, 3, 5) for t in symbols(60, generator(6), 50.0))

    def total(v):
        return be.rate(be.Gaussian(v, scales, means)).sum()

    expected = torch.func.grad(total)(values)
    leaf = values.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(total(leaf), leaf)[0], expected, rtol=1e-5, atol=1e-6)
    _, forward = torch.func.jvp(total, (values,), (torch.ones_like(values),))
    torch.testing.assert_close(forward, expected.sum().double(), rtol=1e-5, atol=1e-5)
    each = torch.vmap(lambda v, s: be.rate(be.Gaussian(v[None], s[None])))(values, scales)
    torch.testing.assert_close(each.flatten(), be.rate(be.Gaussian(values, scales)), rtol=1e-6, atol=1e-6)


def loss(values, scales, means):
    return be.rate(be.Gaussian(values, scales, means, floor=1e-9)).sum()


@pytest.mark.medium
def test_compiled():
    leaves = [t.reshape(1, 3, 4, 5).requires_grad_() for t in symbols(60, generator(7), 50.0)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*leaves), loss(*leaves)
    assert torch.equal(got, expected)
    for mine, eager in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert torch.equal(mine, eager)


def test_what_has_no_kernel_is_computed_by_the_definition():
    double = source_of(be.Gaussian, 50, dtype=torch.float64)
    assert torch.equal(be.latent_bits(double), rate_reference.cell_bits(double.flat()))
    values = torch.zeros(1, 1, 2, 2)
    many = torch.full((1, 9, 2, 2), 1 / 9)
    mixture = be.GaussianMixture(values, many + 1, many * 0, many)
    torch.testing.assert_close(be.rate(mixture), cost(mixture).sum((1, 2, 3)))
    other = be.Factorized(bottleneck(1, dtype=torch.float32, filters=(2, 4)), values)
    assert torch.equal(be.rate(other), cost(other).sum((1, 2, 3)))


def factorized(shape, kind, seed=0, dtype=torch.float32, module=None, **kwargs):
    """A factorised prior whose symbols are whole, as far from it as the channel's median, or noisy."""
    module = module or bottleneck(shape[1], dtype=dtype)
    with torch.no_grad():
        module.quantiles[:, 0, 1] = torch.randn(shape[1], generator=generator(seed))
    values = (torch.randn(shape, generator=generator(seed + 1)) ** 3 * 20).to(dtype)
    if kind != "noisy":
        values = values.round() + (module.quantiles[:, 0, 1].detach().reshape(-1, 1, 1) if kind == "median" else 0)
    return be.Factorized(module, values.requires_grad_(), **kwargs)


@pytest.mark.parametrize("kind", ["whole", "median", "noisy"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 5), (2, 5, 40, 50)])  # without a table, and with one
@pytest.mark.parametrize("floor", [None, 1e-9])
def test_factorised_priors(shape, kind, floor):
    source = factorized(shape, kind, floor=floor)
    values, module = source.values, source.entropy_bottleneck
    leaves = [values, *(p for name in NETWORK for p in getattr(module, name))]
    grads = torch.randn(shape[0], *shape[2:], generator=generator(3), dtype=torch.float64)
    found = []
    for impl in ("native", "reference"):
        cells = be.latent_bits(source, impl=impl, dtype=torch.float64)
        found.append([cells.detach(), *torch.autograd.grad(cells, leaves, grads)])
    assert off(found[0][0], found[1][0]) <= 1e-6
    assert off(kernel_bits(source), found[1][0]) <= 1e-6
    for mine, theirs in zip(*(f[1:] for f in found), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def steep(channels, sharper, seed):
    """A factorised prior whose logits rise by much from symbol to symbol, so that large terms come to small sums."""
    module = bottleneck(channels, seed, torch.float32)
    with torch.no_grad():
        for part in module.matrices:
            part.add_(sharper)
        for part in module.biases:
            part.mul_(3)
    return module


@pytest.mark.medium
@pytest.mark.parametrize("sharper", [0.0, 1.0, 1.5, 2.5])
def test_factorised_priors_against_mpmath(sharper):
    """However steep they are, from their own parameters, which no float32 weight is equal to."""
    module = steep(8, sharper, seed=int(2 * sharper))
    values = torch.randn(1, 8, 1, 40, generator=generator(3)) ** 3 * 4
    found = symbol_bits(be.Factorized(module, values).flat())
    for (_, channel, _, column), got in np.ndenumerate(found.detach().numpy()):
        exact = bits(factorized_likelihood(module, channel, values[0, channel, 0, column]))
        assert got >= 0
        assert abs(got - exact) <= 1e-6 * max(1, exact), (channel, column, exact)


@pytest.mark.parametrize("kind", ["whole", "median", "noisy"])
def test_factorised_priors_have_the_same_bytes(kind):
    source = factorized((3, 4, 37, 23), kind, module=steep(4, 1.5, 1))
    values, module = source.values, source.entropy_bottleneck

    def run(values):
        leaves = [values, *(p for name in NETWORK for p in getattr(module, name))]
        cells = be.latent_bits(be.Factorized(module, values, floor=1e-9), impl="native", dtype=torch.float64)
        return [cells.detach(), *torch.autograd.grad(cells, leaves, torch.full_like(cells, 0.37))]

    expected, threads = run(values), torch.get_num_threads()
    try:
        for index in range(OPS._choose_instruction_set(-1)):
            OPS._choose_instruction_set(index)
            assert all(map(torch.equal, run(values), expected))
        OPS._choose_instruction_set(-1)
        torch.set_num_threads(3)
        assert all(map(torch.equal, run(values), expected))
    finally:
        OPS._choose_instruction_set(-1)
        torch.set_num_threads(threads)
    last = values.detach().to(memory_format=torch.channels_last).requires_grad_()
    assert all(map(torch.equal, run(last), expected))
    part = values.detach()[:, :, :10, :7].clone()  # too few for a table
    assert torch.equal(kernel_bits(be.Factorized(module, part)), kernel_bits(be.Factorized(module, values))[:, :10, :7])


def test_factorised_priors_far_out():
    """Symbols that no table has, and values that are none."""
    source = factorized((1, 2, 40, 40), "whole")
    values = source.values.detach().clone()
    values[0, 0, 0] = torch.arange(-20.0, 20) * 37
    values[0, 1, 0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])
    far = be.Factorized(source.entropy_bottleneck, values)
    found, expected = kernel_bits(far), rate_reference.cell_bits(far.flat())
    assert found[0, 0, :3].isnan().tolist() == [True, False, False]
    assert found[0, 0, 1:3].tolist() == [torch.inf] * 2
    assert 1e6 < found[0, 0, 3] < 1e7
    assert off(found[0, 0, 4:], expected[0, 0, 4:]) <= 1e-6
    assert off(found[0, 1:], expected[0, 1:]) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factorised_priors_of_narrow_values(dtype):
    source = factorized((2, 3, 30, 30), "noisy", dtype=dtype)
    assert off(kernel_bits(source), rate_reference.cell_bits(source.flat())) <= 1e-6
    (gradient,) = torch.autograd.grad(be.rate(source).sum(), source.values)
    (expected,) = torch.autograd.grad(be.rate(source, impl="reference").sum(), source.values)
    torch.testing.assert_close(gradient, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_factorised_operators_by_pytorchs_own_checks():
    flat = factorized((1, 2, 3, 4), "noisy").flat()
    tensors = [t.detach().requires_grad_() for t in flat.tensors]
    kinds = ([flat.family], [flat.bound], [flat.floor])
    torch.library.opcheck(OPS.cell_bits.default, (tensors, *kinds))
    grads = [torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)]
    torch.library.opcheck(OPS.cell_bits_backward.default, (grads, tensors, *kinds, [True, True]))
