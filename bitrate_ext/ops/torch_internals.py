"""What the operators need of PyTorch's private interface, for want of a public one.

``tests/ops/test_torch_internals.py`` holds each release to what is said here.
"""

from __future__ import annotations

import torch
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
