"""Faults of the GPU kernels' bodies: backward.

``caught_by`` is a check of ``tests/kernels/kernel_checks.py`` or ``kernel_addresses.py``, which gets an executor with
the fault and has to fail.
"""

from __future__ import annotations

from . import Fault

BACKWARD, TENSORS = "csrc/core/project_backward.h", "csrc/core/tensors.h"

FAULTS = [
    Fault(
        "no barrier between pixel rows and columns",
        BACKWARD,
        "    ctx.barrier();\n    sum_pixel_columns",
        "    sum_pixel_columns",
        "gradients",
    ),
    Fault(
        "no barrier before the quotients",
        BACKWARD,
        "    ctx.barrier();\n    begin += p.chunk;",
        "    begin += p.chunk;",
        "gradients",
    ),
    Fault("each chunk starts again", BACKWARD, "first ? 0.0 : get(ctx, p.cells, item)", "0.0", "gradient_chunks"),
    Fault(
        "each chunk ends with the factor",
        BACKWARD,
        "last ? shared_gradient(p.term.latent.source, sum) : sum",
        "shared_gradient(p.term.latent.source, sum)",
        "gradient_chunks",
    ),
    Fault("row weights counted from the tile", BACKWARD, "* band.rows + cell_row)", "* band.rows + row)", "gradients"),
    Fault(
        "chunks all at the left",
        BACKWARD,
        "p.grad.width + chunk.begin + column;",
        "p.grad.width + column;",
        "gradients",
    ),
    Fault(
        "pixel rows past the band",
        BACKWARD,
        "there ? read(ctx, grad, at) : T(0)",
        "read(ctx, grad, at)",
        "gradients",
    ),
    Fault(
        "a pixel's offset in 32 bits",
        BACKWARD,
        "int64_t(image) * p.grad.height * p.grad.width",
        "int32_t(int64_t(image) * p.grad.height * p.grad.width)",
        "gradient_addresses",
    ),
    Fault(
        "an image of likelihoods in 32 bits",
        BACKWARD,
        "+ image * latent.batch_stride",
        "+ int32_t(image * latent.batch_stride)",
        "gradient_addresses",
    ),
    Fault(
        "one cell's gradient for four",
        BACKWARD,
        "p.channels_first ? cell[k] : cell[k] + v)",
        "cell[k])",
        "gradient_tiles",
    ),
    Fault(
        "cells and channels exchanged",
        BACKWARD,
        "p.channels_first ? item % fast * kWidth : item / fast",
        "p.channels_first ? item / fast : item % fast * kWidth",
        "gradients",
    ),
    Fault(
        "the gradient in the likelihoods' layout",
        BACKWARD,
        "+ row * term.row_stride",
        "+ row * latent.row_stride",
        "gradients",
    ),
    Fault(
        "the pitch of sums is the chunk's width",
        BACKWARD,
        "put(ctx, p.sums, row * p.chunk + column, sum);",
        "put(ctx, p.sums, row * columns + column, sum);",
        "gradient_chunks",
    ),
    Fault(
        "pixel columns left of the chunk",
        BACKWARD,
        "int32_t t = most(0, chunk.begin - start)",
        "int32_t t = 0",
        "gradient_chunks",
    ),
    Fault(
        "pixel columns right of the chunk",
        BACKWARD,
        "least(int32_t(band.taps), chunk.end - start)",
        "int32_t(band.taps)",
        "gradient_chunks",
    ),
    Fault("multiplied where it should be divided", BACKWARD, "shared / to_double", "shared * to_double", "gradients"),
    Fault(
        "gradients rounded as they come",
        BACKWARD,
        "Rounded<T>::from(shared / to_double(values[k].value[v]))",
        "Rounded<T>::from(Rounded<float>::from(shared) / to_double(values[k].value[v]))",
        "gradients",
    ),
    Fault(
        "the gradient of bits is a logarithm's",
        TENSORS,
        "source == Source::Bits ? cell_gradient :",
        "",
        "bit_gradients",
    ),
    Fault(
        "the gradient of bits in single precision",
        BACKWARD,
        "Rounded<T>::from(get(ctx, p.cells, cell))",
        "Rounded<T>::from(Rounded<float>::from(get(ctx, p.cells, cell)))",
        "bit_gradients",
    ),
    Fault(
        "the gradient of bits in their layout",
        BACKWARD,
        "(gradient, row * term.row_stride",
        "(gradient, row * term.latent.row_stride",
        "bit_gradients",
    ),
]
