"""CompressAI 1.2.8's traps. Each test shows one on CompressAI itself, and fails where a later version has mended it:
then the work-around in ``traps.py`` or elsewhere can go."""

from __future__ import annotations

import copy
import faulthandler
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo

from bitrate_ext import BitrateMapper, CodingError
from bitrate_ext.models.compressai_quirks import apply_workarounds

ans = pytest.importorskip("compressai.ans")
entropy = pytest.importorskip("compressai.entropy_models")
zoo_image = pytest.importorskip("compressai.zoo.image")
pytestmark = pytest.mark.usefixtures("one_thread")
VARIABLE = ("bmshj2018-hyperprior-vbr", "mbt2018-mean-vbr")


def bits(p: Any) -> float:
    return float(-p.detach().double().log2().sum())


# Likelihoods of a variable-rate entropy bottleneck leave its step out.


def test_the_step_of_a_variable_bottleneck_is_left_out_by_compressai() -> None:
    module = entropy.EntropyBottleneckVbr(6).eval()
    z = 8 * torch.randn(2, 6, 5, 4)
    with torch.no_grad():
        z_hat, theirs = module(z, qs=torch.tensor(4.0))
        unit = module._likelihood(z_hat.transpose(0, 1).reshape(6, 1, -1))[0]
        step = module._likelihood_variable(z_hat.transpose(0, 1).reshape(6, 1, -1), qs=torch.tensor(4.0))[0]
    assert bits(theirs) == pytest.approx(bits(unit), rel=1e-6)
    assert bits(theirs) > 1.2 * bits(step)
    with torch.no_grad(), apply_workarounds(module) as notes:
        ours = module(z, qs=torch.tensor(4.0))[1]
        assert torch.equal(module(z, qs=torch.tensor(4.0))[0], z_hat)
        assert len(notes) == 2
        assert torch.equal(module(z)[1], module(z, qs=torch.tensor(1.0))[1])
        assert len(notes) == 2  # nothing to correct
    torch.testing.assert_close(ours.transpose(0, 1).reshape(6, 1, -1), step)
    assert torch.equal(module(z, qs=torch.tensor(4.0))[1], theirs)  # only within the block


@pytest.mark.parametrize("name", VARIABLE)
def test_the_estimate_of_variable_rate_models_is_corrected(name: str) -> None:
    model = zoo.coded_model(name)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.gayn2zqstep[-2].bias.fill_(2.5)
        theirs = model(x, s=7)["likelihoods"]["z"]
    rate = zoo.set_rate(model, 7)
    result = BitrateMapper(model, bits="coded", gap=True)(x, **rate)
    assert result.ledger is not None
    z = result.ledger.latents["z"]
    assert z.estimated is not None
    assert float(z.estimated) == pytest.approx(float(z.located + z.padding), rel=0.01)
    assert abs(bits(theirs) / float(z.estimated) - 1) > 0.1
    (note,) = [one for one in result.warnings if "quantisation step" in one]
    assert note.startswith("the likelihoods of model.entropy_bottleneck leave its quantisation step of 2.")
    estimated = BitrateMapper(model)(x, **rate)
    assert note in estimated.warnings
    assert float(estimated.latent_bits["z"].sum()) == pytest.approx(float(z.estimated), rel=1e-6)


# Tables.


def test_update_leaves_stale_tables_and_says_nothing() -> None:
    model = zoo.coded_model("mbt2018-mean")
    x = torch.rand(1, 3, 64, 64)
    gaussian = model.gaussian_conditional
    gaussian._quantized_cdf[0, int(gaussian._cdf_length[0]) :] = 7  # past its end, where no coder looks
    assert not BitrateMapper(model, bits="coded")(x).warnings
    with torch.no_grad():
        model.entropy_bottleneck.matrices[0].add_(0.5)
    before = model.entropy_bottleneck._quantized_cdf.clone()
    assert model.update() is False
    assert torch.equal(model.entropy_bottleneck._quantized_cdf, before)
    result = BitrateMapper(model, bits="coded")(x)
    assert result.ledger is not None
    assert result.ledger.closes.all()
    (warning,) = result.warnings
    assert warning.startswith(
        "the coder's tables in model.entropy_bottleneck are not those of its parameters: the file"
    )
    assert warning.endswith("call model.update(force=True)")
    assert model.update(force=True)
    assert not BitrateMapper(model, bits="coded")(x).warnings
    model.gaussian_conditional.scale_table *= 1.1
    (warning,) = BitrateMapper(model, bits="coded")(x).warnings
    assert "model.gaussian_conditional" in warning


@pytest.mark.parametrize("name", VARIABLE)
def test_tables_of_another_rate_are_told(name: str) -> None:
    model = zoo.coded_model(name)
    with torch.no_grad():
        model.gayn2zqstep[-2].bias.fill_(2.0)
    rate = zoo.set_rate(model, 3)
    mapper = BitrateMapper(model, bits="coded")
    x = torch.rand(1, 3, 64, 64)
    assert not mapper(x, **rate).warnings
    with torch.no_grad():
        model.gayn2zqstep[-2].bias.fill_(3.0)
    (warning,) = mapper(x, **rate).warnings
    assert mapper(x, **rate).warnings == (warning,)
    assert warning.endswith("call model.update(force=True, scale=...) for each rate")
    assert "of its parameters at its quantisation step of 3." in warning
    rate = zoo.set_rate(model, 3)
    assert not mapper(x, **rate).warnings  # tables made anew are looked at anew


def test_a_model_without_tables() -> None:
    model = zoo.MODELS["mbt2018-mean"](8, 12).eval()
    with pytest.raises(ValueError, match=r"Uninitialized CDFs. Run update\(\) first"):
        model.compress(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"model.gaussian_conditional has no tables for the coder; call model.up"):
        BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64))


def damages() -> dict[str, Callable[[Any], None]]:
    def empty_bin(module: Any) -> None:
        module._quantized_cdf[0, 1] = module._quantized_cdf[0, 2]

    def low_end(module: Any) -> None:
        module._quantized_cdf[1, module._cdf_length[1] - 1] = 60000

    def too_long(module: Any) -> None:
        module._cdf_length[0] = module._quantized_cdf.shape[1] + 1

    def too_short(module: Any) -> None:
        module._cdf_length[0] = 1

    def late_start(module: Any) -> None:
        module._quantized_cdf[0, 0] = 1

    def no_offset(module: Any) -> None:
        module._offset = module._offset[1:]

    def fractions(module: Any) -> None:
        module._quantized_cdf = module._quantized_cdf.float()

    return {
        damage.__name__: damage
        for damage in (empty_bin, low_end, too_long, too_short, late_start, no_offset, fractions)
    }


@pytest.mark.medium
@pytest.mark.parametrize("damage", damages())
@pytest.mark.parametrize("part", ["entropy_bottleneck", "gaussian_conditional"])
def test_damaged_tables_never_reach_the_coder(damage: str, part: str) -> None:
    model = zoo.coded_model("mbt2018-mean")
    damages()[damage](getattr(model, part))
    with pytest.raises(
        CodingError, match=rf"the coder's tables in model.{part} are damaged; call model.update\(force=True"
    ):
        BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64))
    model.update(force=True)
    assert not BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64)).warnings


def ended(run: Callable[[], object], seconds: float) -> int | None:
    """Exit code of a call in a process of its own; None where it still runs after so many seconds."""

    def quiet() -> None:
        faulthandler.disable()
        run()

    process = multiprocessing.get_context("fork").Process(target=quiet)
    process.start()
    process.join(seconds)
    code = process.exitcode
    process.kill()
    process.join()
    return code


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_compressai_s_coder_crashes_or_hangs_on_what_is_refused() -> None:
    def code(symbol: int, cdf: list[int]) -> Callable[[], object]:
        return lambda: ans.RansEncoder().encode_with_indexes([0, symbol, 0], [0] * 3, [cdf], [len(cdf)], [0])

    assert ended(code(1, [0, 100, 65530, 65536]), 30.0) == 0
    assert ended(code(1, [0, 100, 100, 65530, 65536]), 30.0) not in (0, None)  # division by a frequency of zero
    assert ended(code(-(2**31), [0, 100, 65530, 65536]), 0.4) is None  # int() of what is not a number


def test_latents_that_are_not_numbers_are_refused() -> None:
    model = zoo.coded_model("mbt2018-mean")
    with torch.no_grad():
        model.g_a[-1].bias[0] = torch.nan
    with pytest.raises(
        CodingError, match=r"steps outside of its table, or not a number: CompressAI's coder would never"
    ):
        BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64))


# The estimate.


def test_train_mode_is_random_and_refused() -> None:
    model = zoo.coded_model("mbt2018-mean").train()
    x = torch.rand(1, 3, 64, 64)
    assert bits(model(x)["likelihoods"]["y"]) != bits(model(x)["likelihoods"]["y"])
    for source in ("estimated", "coded"):
        with pytest.raises(ValueError, match=r"model \(MeanScaleHyperprior\) is in train mode"):
            BitrateMapper(model, bits=source)(x)


def test_half_precision_has_no_floor() -> None:
    module = entropy.GaussianConditional(None).eval().half()
    y, scales = torch.full((1, 2, 1, 1), 90.0).half(), torch.ones(1, 2, 1, 1).half()
    assert torch.equal(module(y, scales)[1], torch.zeros(1, 2, 1, 1).half())
    model = zoo.coded_model("bmshj2018-factorized").half()
    result = BitrateMapper(model)(torch.rand(1, 3, 32, 32).half())
    assert any("the likelihoods of latent 'y' are float16, too coarse" in one for one in result.warnings)


def test_likelihoods_at_the_floor_are_counted() -> None:
    module = entropy.GaussianConditional(None).eval()
    assert bits(module(torch.full((1, 1, 1, 1), 500.0), torch.ones(1, 1, 1, 1))[1]) == pytest.approx(29.897, abs=1e-3)
    model = zoo.coded_model("mbt2018-mean")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        floored = int((model(x)["likelihoods"]["y"] <= 1.00001e-9).sum())
    assert floored > 0
    result = BitrateMapper(lambda x: model(x))(x)  # no module, whose entropy models could be seen
    assert result.sources == ()
    assert result.warnings[0].startswith(
        f"{floored} of 192 likelihoods of latent 'y' are at CompressAI's floor of 1e-9"
    )
    true = BitrateMapper(model)(x)
    assert true.sources == ("y", "z")
    (warning,) = true.warnings
    assert warning.startswith("16 of 16 cells of latent 'y' cost more than 29.9 bits for each of their symbols")
    assert true.total_bits > result.total_bits


def test_the_zoo_s_relu_model_has_gdn() -> None:
    model = zoo_image.bmshj2018_factorized_relu(1)
    assert type(model).__name__ == "FactorizedPrior"  # not FactorizedPriorReLU


def test_autoregressive_models_estimate_other_symbols_than_they_code() -> None:
    x = torch.rand(1, 3, 64, 64)
    off = {}
    for name in ("mbt2018", "mbt2018-mean"):
        model = zoo.coded_model(name)
        with torch.no_grad():
            coded = model.compress(x)
            decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
            agrees = torch.allclose(model(x)["x_hat"].clamp(0, 1), decoded, atol=1e-4)
        assert agrees == (name != "mbt2018")
        result = BitrateMapper(model, bits="coded", gap=True)(x)
        assert result.ledger is not None
        disagreement = result.ledger.latents["y"].disagreement
        assert disagreement is not None
        off[name] = float(disagreement)
        told = [one for one in result.warnings if "take the context of latent 'y' from values" in one]
        assert len(told) == (name == "mbt2018")
        assert all(one.endswith(f"the estimate is {100 * off[name]:.1f} % off") for one in told)
    faithful = BitrateMapper(zoo.coded_model("mbt2018-vbr"), bits="coded", gap=True)(x)
    assert not [one for one in faithful.warnings if "context" in one]


def test_a_copy_of_a_model_is_a_model() -> None:
    model = copy.deepcopy(zoo.coded_model("mbt2018-mean"))
    assert BitrateMapper(model, bits="coded")(torch.rand(1, 3, 64, 64)).ledger is not None
