"""Floor 0: one function over many shards, in this process or by the workers of a Ray cluster, with the same results.

    for vectors_ID in map_shards(embed_block, blocks, setup=load_encoder, address="auto"): ...

    ADDRESS   ""                   here, in this process, one shard after the other
              "local:2"            two workers on this machine, begun with the call and ended with it
              "auto"               the cluster that this machine is part of (`ray start`, or RAY_ADDRESS)
              "host:6379"          a cluster by its head, from a machine that is part of it
              "ray://host:10001"   a cluster by its client port, from anywhere

A shard's result may depend on the shard alone: what is drawn is drawn from a seed that is made of the shard's number,
never of the worker. Then neither the number of workers nor the death of one is seen in the results. Every machine of
a cluster has this version of jaxrec, and the same folders where a job reads or writes files by itself.
"""

from jaxrec.cluster.job import ClusterError, ShardError
from jaxrec.cluster.mapping import map_shards

__all__ = ["ClusterError", "ShardError", "map_shards"]
