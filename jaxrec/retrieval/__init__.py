"""Floor 2: finding things by their vectors: indexes, diversity, caches, trending items, combined rankings.

Vectors come in as arrays, or by a callable `embed(texts) -> vectors` that the caller brings: this room knows no model.
jax and FAISS are imported inside the functions that need them.
"""
