"""Sources of bits: what they mean, by hand and by mpmath, and what they refuse."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from exact_rate import LOCATED, bits, generator, likelihood, mixture_of, symbols
from torch.autograd import gradcheck, gradgradcheck

import bitrate_ext as be
from bitrate_ext.ops.rate import reference as rate_reference


def one(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def compressais():
    """CompressAI's entropy models; what needs them is skipped where the operator is tested without."""
    return pytest.importorskip("compressai.entropy_models")


def cost(source):
    return rate_reference.symbol_bits(source.flat())


def bottleneck(channels=3, seed=1, dtype=torch.float64, filters=(3, 3, 3, 3)):
    """A factorised prior with every parameter off its start."""
    torch.manual_seed(seed)
    module = compressais().EntropyBottleneck(channels, filters=filters).to(dtype)
    with torch.no_grad():
        for parameter in (*module.matrices, *module.biases, *module.factors):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


@pytest.mark.parametrize(
    ("kind", "value", "scale", "likelihood"),
    [
        (be.Gaussian, 0.0, 1.0, 0.3829249225480262),  # erf(1 / (2 sqrt 2))
        (be.Gaussian, 1.0, 1.0, 0.2417303374571288),
        (be.Laplace, 0.0, 1.0, 1 - math.exp(-0.5)),
        (be.Laplace, 2.0, 1.0, (math.exp(-1.5) - math.exp(-2.5)) / 2),
        (be.Logistic, 0.0, 0.5, math.tanh(0.5)),
        (be.Logistic, -1.0, 0.5, 1 / (1 + math.e) - 1 / (1 + math.e**3)),
    ],
)
def test_by_hand(kind, value, scale, likelihood):
    expected = -math.log2(likelihood)
    assert cost(kind(one(value), one(scale))).item() == pytest.approx(expected, rel=1e-13)
    assert be.rate(kind(one(value), one(scale))).tolist() == pytest.approx([expected], rel=1e-13)


@pytest.mark.parametrize("kind", LOCATED)
def test_the_reference_is_exact_far_into_the_tails(kind):
    values, scales, means = symbols(400, generator(), dtype=torch.float64)
    found = cost(kind(values, scales, means)).flatten().tolist()
    for got, value, scale, mean in zip(found, *(t.flatten().tolist() for t in (values, scales, means)), strict=True):
        assert got == pytest.approx(bits(likelihood(kind.__name__, value, scale, mean)), rel=1e-9, abs=1e-9)


def test_a_mixture_is_the_sum_of_its_parts():
    values, scales, means, weights = mixture_of(50)
    parts = [cost(be.Gaussian(values, *(t[:, k : k + 2] for t in (scales, means)))) for k in (0, 2, 4)]
    expected = sum(weights[:, k : k + 2] * 2**-part for k, part in zip((0, 2, 4), parts, strict=True))
    torch.testing.assert_close(cost(be.GaussianMixture(values, scales, means, weights)), -expected.log2())


def compressai_bits(source):
    """The same symbols by CompressAI's own likelihoods, floors and bounds included."""
    if isinstance(source, be.Factorized):
        module, shape = source.entropy_bottleneck, source.values.shape
        found = module._likelihood(source.values.movedim(1, 0).reshape(shape[1], 1, -1))[0]
        found = module.likelihood_lower_bound(found)
        return -found.reshape(shape[1], shape[0], *shape[2:]).movedim(0, 1).log2()
    module = compressais().GaussianConditional(None).double()
    if isinstance(source, be.GaussianMixture):
        module = compressais().GaussianMixtureConditional(K=3).double()
        found = module._likelihood(source.values, source.scales, source.means, source.weights)
    else:
        found = module._likelihood(source.values, source.scales, source.means)
    return -module.likelihood_lower_bound(found).log2()


def sources_like_compressai():
    values, scales, means = (t.requires_grad_() for t in symbols(300, generator(4), 60.0, torch.float64))
    scales = (scales - 0.2).detach().requires_grad_()  # some below the bound, some negative
    far = torch.randn(2, 3, 4, 5, generator=generator(5), dtype=torch.float64) ** 3 * 300
    yield be.Gaussian(values, scales, means, floor=1e-9)
    yield be.GaussianMixture(*(t.requires_grad_() for t in mixture_of(60)), floor=1e-9)
    yield be.Factorized(bottleneck(), far.requires_grad_(), floor=1e-9)


@pytest.mark.parametrize("number", range(3), ids=["Gaussian", "GaussianMixture", "Factorized"])
def test_bits_and_gradients_are_compressais(number):
    """LowerBound's rule included, for gradients of either sign."""
    source = list(sources_like_compressai())[number]
    got, expected = cost(source), compressai_bits(source)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert (got > 29.8).any()
    assert got.max() < 29.9
    leaves = [t for t in vars(source).values() if isinstance(t, torch.Tensor)]
    if isinstance(source, be.Factorized):
        leaves += [p for name, p in source.entropy_bottleneck.named_parameters() if name != "quantiles"]
    weights = torch.randn(got.shape, generator=generator(6), dtype=torch.float64)
    ours, others = (torch.autograd.grad((t * weights).sum(), leaves) for t in (got, expected))
    for mine, other in zip(ours, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", LOCATED)
def test_gradients_of_the_reference(kind):
    values, scales, means = (t.requires_grad_() for t in symbols(40, generator(7), 200.0, torch.float64))

    def total(*tensors):
        return cost(kind(*tensors, scale_bound=None))

    assert gradcheck(total, (values, scales, means), rtol=1e-4)
    assert gradgradcheck(total, (values, scales, means), rtol=1e-3)


def test_they_go_where_likelihoods_go():
    values, scales, means = (t.reshape(2, 3, 4, 5) for t in symbols(120, generator(8)))
    y = be.Gaussian(values, scales, means, floor=1e-9)
    z = be.Factorized(bottleneck(4, dtype=torch.float32), torch.randn(2, 4, 2, 3, generator=generator(9)))
    cells = {"y": cost(y).sum(1), "z": cost(z).sum(1)}
    kwargs = {"projection": {"y": "bilinear", "z": "nearest"}}
    expected = be.bitrate_map(cells, (64, 80), unit="bits", **kwargs)
    found = be.bitrate_map({"y": y, "z": z}, (64, 80), check=True, **kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32
    torch.testing.assert_close(be.latent_bits(y, dtype=torch.float64), cells["y"], rtol=1e-6, atol=1e-6)
    total = sum(c.sum((1, 2)) for c in cells.values())
    torch.testing.assert_close(be.rate({"y": y, "inner": {"z": z}}), total, rtol=1e-6, atol=1e-6)
    strips = torch.cat([strip for _, strip in be.map_strips({"y": y, "z": z}, (64, 80), rows=7, **kwargs)], 2)
    assert torch.equal(strips, found)
    mixed = be.bitrate_map({"y": 2 ** -cost(y).double(), "z": z}, (64, 80), **kwargs)
    torch.testing.assert_close(mixed.float(), expected, rtol=1e-5, atol=1e-5)
    double = be.Gaussian(values.double(), scales.double(), means.double())
    assert be.bitrate_map(double, (64, 80)).dtype == torch.float64


def test_gradients_go_through_maps():
    leaves = [t.reshape(1, 3, 4, 5).requires_grad_() for t in symbols(60, generator(10), 30.0)]
    be.bitrate_map(be.Gaussian(*leaves), (32, 40)).sum().backward()
    (rate,) = be.rate(be.Gaussian(*leaves))
    for found, expected in zip([t.grad for t in leaves], torch.autograd.grad(rate, leaves), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [*LOCATED, be.GaussianMixture, be.Factorized])
def test_no_values_no_bits(kind):
    for shape in ((0, 3, 2, 2), (2, 3, 0, 2), (2, 0, 2, 2)):
        values = torch.zeros(shape)
        if kind is be.Factorized:
            if not shape[1]:
                continue
            source = be.Factorized(bottleneck(dtype=torch.float32), values)
        else:
            source = kind(values, values, *([values, values] if kind is be.GaussianMixture else []))
        assert be.rate(source).tolist() == [0.0] * shape[0]
        assert be.latent_bits(source).shape == (shape[0], *shape[2:])


def test_a_table_that_was_asked_for_tells_of_other_values():
    module = bottleneck(2, dtype=torch.float32)
    with torch.no_grad():
        module.quantiles[:, 0, 1] = torch.tensor([0.3, -1.7])
    whole = torch.arange(-4.0, 4).reshape(1, 2, 2, 2)
    at_medians = whole + module.quantiles[:, 0, 1].detach().reshape(-1, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (whole, at_medians):
            be.Factorized(module, values, table=True)
        be.Factorized(module, whole + 0.2)  # nobody asked
    with pytest.warns(UserWarning, match=r"got 2 of 8 that are neither.*leave table= out") as told:
        noisy = be.Factorized(module, whole + torch.tensor([0.2, 0.0, 0.0, 0.0]).reshape(2, 2), table=True)
    assert told[0].filename == __file__
    assert torch.equal(be.rate(noisy), be.rate(be.Factorized(module, noisy.values)))


def tensor(*shape, **kwargs):
    return torch.ones(shape or (1, 2, 3, 4), **kwargs)


X = tensor(1, 3, 2, 2)


def prior(**changed):
    """What a factorised prior is read from, with some of it changed."""
    module = bottleneck(dtype=torch.float32)
    whole = {name: getattr(module, name) for name in ("matrices", "biases", "factors", "filters", "quantiles")}
    return SimpleNamespace(**whole | changed)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: be.Gaussian([1.0], tensor()), TypeError, "Gaussian's values must be a tensor, got list"),
        (lambda: be.Gaussian(tensor(), 1.0), TypeError, "Gaussian's scales must be a tensor, got float"),
        (lambda: be.Laplace(tensor(2, 3, 4), tensor(2, 3, 4)), ValueError, r"values must be \[N, C, h, w\], got shape"),
        (
            lambda: be.Logistic(tensor(), tensor(1, 2, 3, 5)),
            ValueError,
            r"scales must have the shape of the values, \[1",
        ),
        (lambda: be.Gaussian(tensor(), tensor(), tensor(1, 1, 3, 4)), ValueError, "means must have the shape"),
        (lambda: be.Gaussian(tensor(), tensor().half()), TypeError, "scales must be torch.float32 like the values"),
        (lambda: be.Gaussian(tensor(), tensor(device="meta")), ValueError, "scales must be on cpu like the values"),
        (
            lambda: be.Gaussian(tensor().long(), tensor()),
            TypeError,
            "values must be strided floating-point, got torch.int64",
        ),
        (lambda: be.Gaussian(tensor(), tensor(), scale_bound=0.0), ValueError, "scale_bound must be None or positive"),
        (lambda: be.Gaussian(tensor(), tensor(), floor=2.0), ValueError, "floor must be None or a likelihood between"),
        (lambda: be.GaussianMixture(tensor(), tensor(), tensor()), TypeError, "weights must be a tensor, got None"),
        (
            lambda: be.GaussianMixture(*[tensor()] * 2, tensor(1, 3, 3, 4), tensor()),
            ValueError,
            "multiple of the values' 2",
        ),
        (lambda: be.GaussianMixture(*[tensor()] * 2, tensor(1, 4, 3, 4), tensor()), ValueError, "shape of the scales"),
        (lambda: be.Factorized(torch.nn.Linear(1, 1), tensor()), TypeError, "got Linear without matrices"),
        (lambda: be.Factorized(bottleneck(), tensor()), ValueError, "must have the 3 channels"),
        (lambda: be.Factorized(bottleneck(), tensor(1, 3, 2, 2)), ValueError, "must be torch.float64 on cpu"),
        (lambda: be.Factorized(bottleneck(), None), TypeError, "Factorized's values must be a tensor, got NoneType"),
        (lambda: be.Gaussian(tensor(), tensor(), floor="1e-9"), ValueError, "floor must be .*, got '1e-9'"),
        (lambda: be.Gaussian(tensor(), tensor(), scale_bound="no"), ValueError, "scale_bound must be .*, got 'no'"),
        (lambda: be.Laplace(tensor(), tensor(), scale_bound=math.nan), ValueError, "positive and finite, got nan"),
        (lambda: be.Factorized(prior(filters=(3, 0)), X), TypeError, r"positive whole numbers as filters, got \(3, 0"),
        (
            lambda: be.Factorized(prior(filters=(3, 3)), X),
            ValueError,
            r"must have 3 matrices, 3 biases and 2 factors for its filters \(3, 3\), got 5, 5, 4",
        ),
        (lambda: be.Factorized(prior(matrices=[]), X), ValueError, "must have 5 matrices, .*, got 0, 5, 4"),
        (
            lambda: be.Factorized(prior(matrices=[1.0] * 5), X),
            ValueError,
            r"matrices\[0\] must be a tensor .*, got fl",
        ),
        (
            lambda: be.Factorized(prior(quantiles=torch.zeros(3)), X),
            ValueError,
            r"entropy_bottleneck.quantiles must be a tensor \[3, 1, 3\], got \[3\]",
        ),
        (
            lambda: be.Factorized(prior(biases=[tensor(3, 3, 1).half()] * 4 + [tensor(3, 1, 1)]), X),
            ValueError,
            r"values must be torch.float16 on cpu like its entropy_bottleneck's biases\[0\], got torch.float32",
        ),
        (
            lambda: be.Factorized(prior(factors=[tensor(3, 3, 1, device="meta")] * 4), X),
            ValueError,
            r"values must be torch.float32 on meta like its entropy_bottleneck's factors\[0\], got torch.float32 on c",
        ),
        (
            lambda: be.Factorized(prior(biases=[tensor(2, 3, 1)] * 5), X),
            ValueError,
            r"biases\[0\] must be a tensor \[3, 3, 1\], got \[2, 3, 1\]",
        ),
    ],
)
def test_what_is_no_source(make, error, words):
    with pytest.raises(error, match=words):
        make()


PARTS = [
    *((kind, name) for kind in LOCATED for name in ("scales", "means")),
    *((be.GaussianMixture, name) for name in ("scales", "means", "weights")),
]


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_every_part_is_named(kind, part):
    """Of each source: no tensor, another shape, dtype, layout and device; and, where asked, what is not finite."""
    names = ("scales", "means", *(["weights"] if kind is be.GaussianMixture else []))
    whole = dict.fromkeys(names, tensor())
    what = f"{kind.__name__}'s {part} must"
    for wrong, error, words in (
        ("1", TypeError, "be a tensor, got str"),
        (tensor(1, 2, 3, 5), ValueError, r"have the shape of the (values|scales)"),
        (tensor(2, 2, 3, 4), ValueError, r"have the shape of the (values|scales)"),
        (tensor(2, 3), ValueError, r"be \[N, C, h, w\], got shape \[2, 3\]"),
        (tensor().double(), TypeError, "be torch.float32 like the values, got torch.float64; convert with"),
        (tensor().int(), TypeError, "be strided floating-point, got torch.int32"),
        (tensor().to_sparse(), TypeError, "be strided floating-point, got .* layout torch.sparse_coo"),
        (tensor(device="meta"), ValueError, "be on cpu like the values, got meta"),
    ):
        with pytest.raises(error, match=f"{what} {words}"):
            kind(tensor(), **{**whole, part: wrong})
    for wrong in (math.nan, math.inf, -math.inf):
        source = kind(tensor(), **{**whole, part: wrong * tensor()})
        for ask in (lambda s: be.rate({"y": s}, check=True), lambda s: be.bitrate_map({"y": s}, (8, 8), check=True)):
            with pytest.raises(ValueError, match=rf"likelihoods\['y'\].{part} must be finite"):
                ask(source)
    if part == "scales":
        for wrong, got in ((0.0, "0"), (-2.0, "-2")):
            bad = kind(tensor(), **{**whole, part: wrong * tensor()}, scale_bound=None)
            with pytest.raises(ValueError, match=f"scales must be positive, got {got}; give scale_bound="):
                be.rate(bad, check=True)
            be.rate(kind(tensor(), **{**whole, part: wrong * tensor()}), check=True)  # the bound takes them


def test_sources_of_different_batches_are_not_added():
    with pytest.raises(ValueError, match=r"likelihoods\['z'\] must have batch size 1 like the first, got 2"):
        be.rate({"y": be.Gaussian(tensor(), tensor()), "z": be.Laplace(tensor(2, 1, 1, 1), tensor(2, 1, 1, 1))})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda x: be.Gaussian(x, x / 0), r"likelihoods\['y'\].scales must be finite"),
        (lambda x: be.Gaussian(x * math.nan, x), r"\['y'\].values must be finite"),
        (
            lambda x: be.Laplace(x, 0 * x, scale_bound=None),
            r"\['y'\].scales must be positive, got 0; give scale_bound=",
        ),
        (lambda x: be.GaussianMixture(x, x, x, -x), r"\['y'\].weights must be at least 0, got -1; take a softmax"),
        (lambda x: be.GaussianMixture(x, x, x, 3 * x), r"\['y'\].weights must add up to 1 .*, got 3 to 3; take a soft"),
        (
            lambda _: be.Factorized(prior(biases=[t * math.nan for t in prior().biases]), X),
            r"\['y'\].entropy_bottleneck must have finite parameters, got NaN or infinity",
        ),
        (lambda _: be.Factorized(prior(), X / 0), r"\['y'\].values must be finite"),
    ],
)
def test_check_looks_at_values(source, words):
    with pytest.raises(ValueError, match=words):
        be.bitrate_map({"y": source(tensor())}, (8, 8), check=True)


def test_scales_that_are_none():
    """CompressAI's bound takes them all; without it they give NaN, where they are and nowhere else."""
    scales = torch.tensor([1.0, 0.0, -1.0, -math.inf, math.nan, math.inf]).reshape(1, 1, 1, 6)
    for kind in LOCATED:
        found = cost(kind(torch.zeros_like(scales), scales)).flatten()
        assert found.isfinite().tolist() == [True] * 4 + [False] * 2
        assert (found[1:4] < 0.1).all()
        free = cost(kind(torch.zeros_like(scales), scales, scale_bound=None)).flatten()
        assert free.isnan().tolist() == [False, True, True, True, True, False]
        assert free[5] == math.inf


def test_a_unit_goes_with_tensors():
    with pytest.raises(TypeError, match="bits must be tensors, got a Gaussian; leave out unit="):
        be.bitrate_map(be.Gaussian(tensor(), tensor()), (8, 8), unit="bits")
