"""Floor 1: weights in 4 and 8 bits that stand in a float kernel's place.

    Nf4     4-bit NormalFloat with double quantisation (QLoRA, Dettmers 2023), 0.52 bytes a parameter
    Int8    8 bits with one scale for each output
    Bf16    16 bits, multiplied in 16 bits too and summed in 32: half the time of a frozen kernel where the CPU can

`layers.dense` finds `.matmul`; the rest of a model neither knows nor cares. A matrix becomes floats where it is
multiplied, one matrix of one layer at a time, and once more in the backward pass: what is kept for that is the code.
The gradient flows to x alone.

NF4 lies as [N, F, D/2]: blocks of 64 along D share a scale, so a shard of either axis falls on the edge of a block.
The scales (one for 64 weights) are themselves 8-bit numbers around their mean, with a float for each 256 of them in
the order of the matrix's rows. Where 64 divides D, the code is that of bitsandbytes bit for bit, and so are the scales
but for a few, which its CPU code rounds by one step more. A D that 64 does not divide is filled up with zeros, so that
blocks begin anew in each row (there they would run on into the next).
"""

from jaxrec.quant.kinds import (
    KINDS,
    NF4,
    Bf16,
    Int8,
    Nf4,
    QuantError,
    check_kind,
    dynamic_map,
    quantise,
    quantise_rows,
)
from jaxrec.quant.trees import (
    KERNELS,
    is_quantised,
    kinds_in,
    load,
    parameters,
    place,
    quantise_params,
    refuse_training,
    save,
    size_bytes,
    to_quantise,
    whole,
)

__all__ = [
    "KERNELS",
    "KINDS",
    "NF4",
    "Bf16",
    "Int8",
    "Nf4",
    "QuantError",
    "check_kind",
    "dynamic_map",
    "is_quantised",
    "kinds_in",
    "load",
    "parameters",
    "place",
    "quantise",
    "quantise_params",
    "quantise_rows",
    "refuse_training",
    "save",
    "size_bytes",
    "to_quantise",
    "whole",
]
