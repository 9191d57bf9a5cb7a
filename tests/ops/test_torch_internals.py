"""The private parts of PyTorch that the operators use are there, and mean what ``torch_internals`` says."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from bitrate_ext.ops import torch_internals


def test_modes_and_transforms_are_told():
    assert not torch_internals.dispatch_modes()
    with FakeTensorMode():
        assert torch_internals.dispatch_modes()
    assert not torch_internals.dispatch_modes()

    seen = []

    def look(x):
        seen.append(torch_internals.in_function_transform())
        return x.sum()

    torch.func.grad(look)(torch.ones(2))
    torch.func.vmap(look)(torch.ones(2, 2))
    look(torch.ones(2))
    assert seen == [True, True, False]

    assert not torch_internals.in_forward_mode()
    with forward_ad.dual_level():
        assert torch_internals.in_forward_mode()
    assert not torch_internals.in_forward_mode()


def test_eager_tensors_are_plain_and_outside_of_everything():
    x, seen = torch.ones(2), []
    assert torch_internals.are_eager([x, x])
    assert not torch_internals.are_eager([x, torch.nn.Parameter(x)])
    with FakeTensorMode():
        assert not torch_internals.are_eager([x])

    def look(x):
        seen.append(torch_internals.are_eager([]))
        return x.sum()

    torch.func.grad(look)(x)
    torch.compile(look, backend="eager", fullgraph=False)(x)
    look(x)
    assert seen[0] is False
    assert seen[-1] is True


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the id of a stream is unchecked")
def test_a_stream_is_told_by_its_id():
    device = torch.device("cuda", 0)
    assert torch_internals.current_stream_id(device) == 0
    with torch.cuda.stream(torch.cuda.Stream(device)) as stream:
        assert torch_internals.current_stream_id(device) == torch.cuda.current_stream(device).stream_id != 0
    assert stream is None or torch_internals.current_stream_id(device) == 0


def test_below_autograd_nothing_is_recorded():
    x = torch.ones(2, requires_grad=True)
    with torch_internals.BelowAutograd():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
