"""Floor 1: deltas. A `Delta` is data: described, made, indexed, scaled, added, merged, checked and counted here.

sites = Decoder.sites(cfg)                      what a model can be changed at
spec  = DeltaConfig(lora_rank=8)                which changes one wants; or method("dora")
delta = init(key, sites, spec)                  trainable, the identity at the start
rows  = take(bank, tenant_B)                    a tenant for each row of a batch
check(delta, sites)                             a misspelt site is an error, never ignored
"""

from jaxrec.delta.algebra import add, bank, batch_size, check, count, scale, size_bytes, take
from jaxrec.delta.config import METHODS, DeltaConfig, DeltaError, choose, method
from jaxrec.delta.layout import init, materialise, restack, shapes, with_dropout, zeros
from jaxrec.delta.magnitude import column_gain, column_norms, settle
from jaxrec.delta.merging import merge, merge_params
from jaxrec.sites import Sites, StackSites

__all__ = [
    "METHODS",
    "DeltaConfig",
    "DeltaError",
    "Sites",
    "StackSites",
    "add",
    "bank",
    "batch_size",
    "check",
    "choose",
    "column_gain",
    "column_norms",
    "count",
    "init",
    "materialise",
    "merge",
    "merge_params",
    "method",
    "restack",
    "scale",
    "settle",
    "shapes",
    "size_bytes",
    "take",
    "with_dropout",
    "zeros",
]
