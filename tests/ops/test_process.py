"""What a long-lived process sees: memory, threads, forks, its own settings; and a package without the library."""

import concurrent.futures
import functools
import gc
import multiprocessing
import os
import pathlib
import shutil

import numpy as np
import pytest
import torch
from cases import MODES, bytes_of, likelihoods, random_case, scaled
from commands import in_new_process

import bitrate_ext

THREADS, CALLS = 16, scaled(1_000)
FORK_ROUNDS, CHILDREN, CHILD_CALLS = scaled(10), 8, 50
PACKAGE = pathlib.Path(bitrate_ext.__file__).parent


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.medium
def test_no_leak_in_forward_and_backward():
    """Calls over more shapes than the caches of bands hold; less than 100 bytes a call stay.

    In a process of its own: memory that other tests let go, or have let go, is not what these calls keep.
    """
    calls = max(2_000, scaled(10_000))
    code = f"""
        import gc, itertools, os, torch, bitrate_ext

        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        shapes = itertools.cycle([(1, 3, h, 5) for h in range(1, 20)])
        sizes = itertools.cycle([(h, 11) for h in range(3, 40)])

        def call(count):
            for shape, size in itertools.islice(zip(shapes, sizes), count):
                leaf = torch.full(shape, 0.3, requires_grad=True)
                bitrate_ext.bitrate_map({{"y": leaf}}, size).sum().backward()

        torch.set_num_threads(1)
        call(3_000)
        gc.collect()
        before = resident()
        call({calls})
        gc.collect()
        print(resident() - before)
    """
    assert int(in_new_process(code)) < 100 * calls


def test_projections_of_ones_own_are_let_go():
    """A thousand objects, each with its bands: the caches are bounded."""
    p = torch.rand(1, 1, 3, 3)

    class Mine(bitrate_ext.Projection):
        name = "mine"

        def rows(self, cells, pixels, cells_per_pixel, conserve):
            return np.minimum(np.arange(pixels), cells - 1), np.ones((1, pixels))

    for _ in range(1000):
        bitrate_ext.bitrate_map(p, (3, 3), projection=Mine())
    gc.collect()
    alive = sum(isinstance(o, Mine) for o in gc.get_objects())
    assert alive <= 2 * 256 + 2


def test_many_threads_at_once(rng, two_threads):
    """16 threads x 1,000 calls of mixed shapes: the bytes of a single thread."""
    work = []
    for _ in range(40):
        case = random_case(rng, elements=800, pixels=1500)
        leaves = [p.detach().requires_grad_() for p in case.likelihoods]
        out = case.run(leaves)
        work.append((case, bytes_of(out), [bytes_of(g) for g in torch.autograd.grad(out.sum(), leaves)]))

    def run(seed: int) -> int:
        for index in range(CALLS):
            case, out, grads = work[(index * 7 + seed) % len(work)]
            if index % 4:
                assert bytes_of(case.run()) == out, case
            else:
                leaves = [p.detach().requires_grad_() for p in case.likelihoods]
                got = torch.autograd.grad(case.run(leaves).sum(), leaves)
                assert [bytes_of(g) for g in got] == grads, case
        return seed

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run, seed) for seed in range(THREADS)]
        done = {future.result(timeout=600) for future in futures}
    assert done == set(range(THREADS))


@functools.cache
def large_and_small():
    """Return a latent for one thread and one for several, made before a fork, after which PyTorch may hang."""
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.rand(1, c, h, w, generator=generator).clamp_min(1e-6) for c, h, w in ((4, 3, 5), (64, 40, 60))]
    return [(p, (p.shape[2] * 3, p.shape[3] * 2 + 1)) for p in tensors]


@pytest.fixture
def two_threads():
    """The pool of threads is in use, whatever a worker of the tests is given."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def use(count: int) -> bytes:
    """Return the bytes of several calls, with work for several threads."""
    parts = []
    for index in range(count):
        p, size = large_and_small()[index % 25 == 0]
        leaf = p.detach().requires_grad_(index % 2 == 0)
        parts.append(bytes_of(bitrate_ext.bitrate_map(leaf, size, projection=MODES[index % 3])))
    return b"".join(parts)


def in_forked_child(expected: bytes) -> None:
    """Fork a child that ends with 0 where the child's bytes are the parent's."""
    os._exit(0 if use(CHILD_CALLS) == expected else 3)


@pytest.mark.medium
def test_fork_after_use(two_threads):
    """Children of a process that has used its thread pool: no hang, same bytes."""
    expected = use(CHILD_CALLS)
    context = multiprocessing.get_context("fork")
    for _ in range(FORK_ROUNDS):
        children = [context.Process(target=in_forked_child, args=(expected,)) for _ in range(CHILDREN)]
        for child in children:
            child.start()
        try:
            for child in children:
                child.join(timeout=120)
            assert [child.exitcode for child in children] == [0] * CHILDREN, "None: hung; 3: other bytes"
        finally:
            for child in children:
                if child.is_alive():
                    child.kill()


def used_in_spawned_process(count: int) -> bytes:
    return use(count)


@pytest.mark.medium
def test_spawn(two_threads):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map_async(used_in_spawned_process, [CHILD_CALLS] * 2).get(timeout=300)
    assert results == [use(CHILD_CALLS)] * 2


class Maps(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        p = torch.rand(1, 6, 5, 7, generator=torch.Generator().manual_seed(index))
        return bitrate_ext.bitrate_map(p, (20, 28))[0]


@pytest.mark.medium
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_workers_of_a_data_loader(context, two_threads):
    loader = torch.utils.data.DataLoader(
        Maps(), batch_size=4, num_workers=2, multiprocessing_context=context, timeout=300
    )
    for first, batch in zip(range(0, 24, 4), loader, strict=True):
        expected = torch.stack([Maps()[index] for index in range(first, first + 4)])
        assert bytes_of(batch) == bytes_of(expected)


@pytest.mark.medium
def test_state_of_the_process_is_left_alone():
    """Subnormals, rounding, locale, threads, signal handlers, printing and seeds: as before import and use."""
    in_new_process("""
        import ctypes, ctypes.util, decimal, locale, os, random, signal, sys, warnings
        import numpy as np
        import torch

        libm = ctypes.CDLL(ctypes.util.find_library("m"))

        def state():
            tiny = np.float64(5e-324)
            small = torch.tensor([1e-40]) * torch.tensor([0.5])
            return {
                "subnormals": (float(tiny * 1.0), float(np.float32(1e-40) * np.float32(0.5)), small.item(),
                               5e-324 * 1.0, (torch.full((4096,), 1e-40) * 0.5).sum().item()),
                "rounding": (libm.fegetround(), 1.0 + 2.0**-53, 1.0 + 3 * 2.0**-53, -1.0 - 3 * 2.0**-53),
                "locale": locale.setlocale(locale.LC_ALL),
                "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
                "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
                "torch": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed(),
                          torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
                          torch.backends.cudnn.benchmark),
                "random": (torch.get_rng_state().tolist(), random.getstate()[1][:5], np.random.get_state()[1].tolist()),
                "printing": (np.get_printoptions(), torch._tensor_str.PRINT_OPTS.precision, np.geterr()),
                "environment": dict(os.environ), "directory": os.getcwd(), "path": list(sys.path),
                "hooks": (sys.excepthook, sys.stdout, sys.stderr), "recursion": sys.getrecursionlimit(),
                "umask": (lambda old: (os.umask(old), old)[1])(os.umask(0)),
            }

        before = state()
        filters = list(warnings.filters)
        import bitrate_ext
        after_import = state()
        for threads in range(2):
            p = torch.full((2, 64, 40, 60), 1e-40).requires_grad_()
            for projection in ("nearest", "bilinear", "area"):
                bitrate_ext.bitrate_map(p, (500, 700), projection=projection).sum().backward()
        after_use = state()
        for name in before:
            assert before[name] == after_import[name], ("import", name)
            assert before[name] == after_use[name], ("use", name)
        assert filters == list(warnings.filters)
    """)


@pytest.mark.medium
def test_flushed_subnormals_of_the_caller_are_survived():
    """A caller in flush-to-zero mode gets finite maps of ordinary likelihoods, and keeps the mode."""
    in_new_process("""
        import torch, bitrate_ext
        p = torch.rand(1, 9, 5, 33).clamp_min(1e-9)
        expected = bitrate_ext.bitrate_map(p, (10, 66))
        if torch.set_flush_denormal(True):
            assert torch.equal(bitrate_ext.bitrate_map(p, (10, 66)), expected)
            assert (torch.tensor([1e-40], dtype=torch.float32) * 0.5).item() == 0.0
    """)


@pytest.mark.medium
def test_import_is_quiet_and_does_no_work():
    out = in_new_process("""
        import sys, threading, torch
        before, threads = set(sys.modules), threading.active_count()
        import bitrate_ext
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        assert threading.active_count() == threads
        assert not new & {"matplotlib", "compressai", "torchvision", "PIL", "tqdm", "scipy"}, new
    """)
    assert out == ""


@pytest.fixture(scope="module")
def without_library(tmp_path_factory):
    """Return a copy of the Python files alone."""
    folder = tmp_path_factory.mktemp("reference_only")
    shutil.copytree(PACKAGE, folder / "bitrate_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__", "data"))
    assert not list(folder.rglob("*.so"))
    return str(folder)


@pytest.mark.medium
def test_without_the_library_the_reference_serves(without_library):
    out = in_new_process(
        """
        import math, warnings, torch, bitrate_ext
        warnings.simplefilter("always")
        p = torch.rand(1, 2, 3, 4).clamp_min(0.01)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first = bitrate_ext.bitrate_map(p, (6, 8))
            second = bitrate_ext.bitrate_map({"y": p}, scale_factor=2)
            bitrate_ext.latent_bits(p)
        assert [w.category for w in caught] == [RuntimeWarning], [str(w.message) for w in caught]
        assert "reference" in str(caught[0].message) and "no compiled library" in str(caught[0].message)
        assert torch.equal(first, second)
        assert math.isclose(first.sum().item(), -p.log2().sum().item(), rel_tol=1e-5)
        try:
            bitrate_ext.bitrate_map(p, (6, 8), impl="native")
        except RuntimeError as error:
            assert "no compiled library" in str(error), error
        else:
            raise AssertionError("impl='native' must raise")
        q = p.double().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda t: bitrate_ext.bitrate_map(t, (5, 7)), [q])
        assert torch.autograd.gradcheck(lambda t: bitrate_ext.bitrate_map(t, (5, 7)), [q])
        grad = torch.func.grad(lambda t: bitrate_ext.bitrate_map(t, (6, 8)).sum())(p)
        torch.testing.assert_close(grad, -1 / (p * math.log(2)), rtol=1e-5, atol=0)
        batch = torch.rand(3, 1, 2, 3, 4).clamp_min(0.01)
        mapped = torch.func.vmap(lambda t: bitrate_ext.bitrate_map(t, (6, 8)))(batch)
        torch.testing.assert_close(mapped, torch.stack([bitrate_ext.bitrate_map(t, (6, 8)) for t in batch]))
        out = torch.empty(1, 1, 6, 8)
        assert bitrate_ext.bitrate_map(p, (6, 8), out=out) is out and torch.equal(out, first)
        print(bitrate_ext.__file__)
        """,
        without_library,
    )
    assert out.startswith(without_library)


@pytest.mark.medium
def test_a_library_that_does_not_load(without_library, tmp_path):
    shutil.copytree(pathlib.Path(without_library), tmp_path / "broken")
    (tmp_path / "broken" / "bitrate_ext" / "_ops_cpu.abi3.so").write_bytes(b"not a library")
    in_new_process(
        """
        import warnings, torch, bitrate_ext
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bitrate_ext.bitrate_map(torch.rand(1, 1, 2, 2), (4, 4))
        assert len(caught) == 1 and "does not load" in str(caught[0].message)
        """,
        str(tmp_path / "broken"),
    )


@pytest.mark.medium
def test_warnings_point_at_the_caller(without_library):
    out = in_new_process(
        """
        import warnings, torch, bitrate_ext
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bitrate_ext.bitrate_map(torch.rand(1, 1, 2, 2), (4, 4))
        print(caught[0].filename)
        """,
        without_library,
    )
    assert out.strip() == "<string>"


def test_large_maps_are_not_kept(rng):
    """The kernel's own buffers go when the call ends."""
    p = likelihoods(rng, (1, 2, 100, 150), kind="uniform")
    out = torch.empty(1, 1, 1600, 2400)
    bitrate_ext.bitrate_map(p, (1600, 2400), out=out)
    gc.collect()
    before = resident_bytes()
    for _ in range(50):
        bitrate_ext.bitrate_map(p, (1600, 2400), out=out)
    assert resident_bytes() - before < 4e6
