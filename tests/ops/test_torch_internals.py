"""The private parts of PyTorch that the operators use are there, and mean what ``torch_internals`` says."""

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


def test_below_autograd_nothing_is_recorded():
    x = torch.ones(2, requires_grad=True)
    with torch_internals.BelowAutograd():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
