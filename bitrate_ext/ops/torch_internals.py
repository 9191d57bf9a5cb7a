"""What the operators need of PyTorch's private interface, for want of a public one.

``tests/ops/test_torch_internals.py`` holds each release to what is said here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

# How many dispatch modes are on, such as fake tensors or tracing: they must see the operator, not what it runs.
dispatch_modes = torch._C._len_torch_dispatch_stack

# Inside of ``torch.func`` transforms, which must see an ``autograd.Function``. Not to be asked while compiling.
in_function_transform = torch._C._are_functorch_transforms_active

# A context in which operators run below autograd.
BelowAutograd = torch._C._AutoDispatchBelowAutograd


def in_forward_mode() -> bool:
    """Tell whether a level of forward-mode differentiation is open; ``unpack_dual`` would cost each call more."""
    return forward_ad._current_level >= 0


def are_eager(tensors: Iterable[Tensor]) -> bool:
    """Tell whether these are plain tensors, outside of any compiler, mode and transform."""
    if torch.compiler.is_compiling() or in_function_transform() or dispatch_modes():
        return False
    return all([type(t) is Tensor for t in tensors])


def current_stream_id(device: torch.device) -> int:
    """Return the id of a CUDA device's current stream, 0 of the default one; sooner than ``current_stream``."""
    return int(torch._C._cuda_getCurrentStream(device.index)[0])
