"""Floor 0: the shape letters, and the plain types that need no jax.

Array names end in the letters of their axes wherever a shape is not obvious (`z_seq_BLD`); the same letters
stand in jaxtyping annotations (`Float[Array, "B L D"]`) and, in lower case, in einsum strings (`"bld,bdr->blr"`).

    B batch     L sequence   M memory (keys)   D model    F feed-forward   H heads   K head size    V vocabulary
    G key heads (grouped)    N layers          R rank     P prefix         A adapter E profile (p)  X distance buckets
    I items     U users      Q code levels     C codes per level           J shortlist              T turns
    S slots of the serving engine              W concatenated layers, or any width that is none of the above
"""
