"""A(p): from a person's vector p to a Delta of any kind, layer by layer.

Weights that make weights are Ha's (HyperNetworks, 2016); from a description to the adapter of a frozen language model
come HyperTuning (Phang 2023) and Text-to-LoRA (Charakorn 2025), whose layer codes these are.

    h = trunk(p)                                  once
    u = gelu(h W + code[layer])                   a layer: p meets the layer's embedding
    leaf = base[leaf] + u W[leaf]                 a leaf of the LayerDelta: its matrix is the site's part

`base` is what all tenants share (the multi-task delta), the last matrix starts at zero: before training A(p) is the
identity for every p, and mean p is what the shared part amounts to. The weights of a leaf are shared by all layers,
and so is its base, unless each layer has a base of its own: on a real backbone the shared part learns the task too.
Called, it gives *lazy* stacks, made inside the model's scan; `jaxrec.delta.materialise` makes them all at once.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec.structs import Delta, LayerDelta, LazyLayerDelta, OuterDelta


class Hypernet(nn.Module):
    """A(p) for a model with these `sites`, making the changes that `spec` names.

    Attributes:
        sites: where the model can be changed.
        spec: which changes are made.
        width: size of the trunk and of the layer codes.
        gain: multiplies what p adds (not the shared base), for a gentle start at high learning rates.
        base: whether all layers of a stack share one base, or each layer has a base of its own.
    """

    sites: deltas.Sites
    spec: deltas.DeltaConfig
    width: int = 64
    gain: float = 1.0
    base: Literal["stack", "layer"] = "stack"

    @nn.compact
    def __call__(self, p_BE: Float[Array, "B E"]) -> Delta:
        """The tenants' Delta, its stacks lazy. Rows of the result are the rows of `p_BE`."""
        whole, p_BE = deltas.shapes(self.sites, self.spec), meshes.put(p_BE, "rows")
        h_BE = nn.LayerNorm(name="trunk_norm")(nn.gelu(nn.Dense(self.width, name="trunk")(p_BE)))
        outer = self._leaves("outer", whole.outer, h_BE)
        stacks = {}
        for name in whole.stacks:
            code_NE = self.param(
                f"code_{name}",
                nn.initializers.normal(1.0),
                (self.sites.stacks[name].n_layers, self.width),
            )
            codes = code_NE
            if self.base == "layer":
                # A layer's bases travel with its code: the model's scan then cuts both.
                codes = {"code": code_NE, "bases": self._bases(name, whole.stacks[name])}
            # Called once per stack for the sake of its parameters, which are otherwise touched only inside the model.
            if self.is_initializing():
                self.layer(h_BE, jax.tree.map(lambda x: x[0], codes), name)
            # The lazy stack carries parameters, trunk and codes. A clone without a parent makes its layers later,
            # inside another module's scan, where this module's own scope is no longer open.
            stacks[name] = LazyLayerDelta(
                self.variables["params"], h_BE, codes, self.clone(parent=None, name=None), name
            )
        return Delta(stacks, outer)

    @nn.compact
    def layer(
        self,
        h_BE: Float[Array, "B E"],
        code_E: Float[Array, " E"] | Mapping[str, Any],
        stack: str,
    ) -> LayerDelta:
        """One layer's delta, from the trunk's output and the layer's code (with its bases, where it has its own).
        Leaves lead with B."""
        bases = None
        if self.base == "layer":
            code_E, bases = code_E["code"], code_E["bases"]
        per_layer = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
            deltas.shapes(self.sites, self.spec).stacks[stack],
        )
        # The code is added before the nonlinearity: behind it, layers would differ by a constant, not in what p does.
        u_BE = nn.gelu(nn.Dense(self.width, name=f"mix_{stack}")(h_BE) + code_E[None])
        return self._leaves(stack, per_layer, u_BE, bases)

    def _bases(self, stack: str, shapes: LayerDelta) -> dict[str, Array]:
        """The bases [N, ...] of all layers of a stack, by the name of the leaf."""
        found = {}
        for path, x in jax.tree_util.tree_leaves_with_path(shapes):
            name, leaf = _name_of(stack, path)
            if not leaf.startswith("scale_N"):
                found[name] = self.param(
                    f"{name}.base", _base_init(leaf), (x.shape[0], *x.shape[2:])
                )
        return found

    def _leaves(
        self,
        where: str,
        shapes: LayerDelta | OuterDelta,
        u_BE: Float[Array, "B E"],
        bases: Mapping[str, Array] | None = None,
    ):
        """base + u W for every leaf.

        where: a stack, or "outer". shapes: lead with a row axis of 1. u_BE: what p and the layer's code came to. bases:
        by the name of the leaf, where they are not of all layers.
        """

        def make(path, x):
            name, leaf = _name_of(where, path)
            size = x.shape[1:]
            # The scale of a LoRA is a setting (alpha / rank), not something to be made from p.
            if leaf.startswith("scale_N"):
                rank = self.spec.head_rank if where == "outer" else self.spec.lora_rank
                return jnp.full((u_BE.shape[0], *size), self.spec.scaling(rank))
            base = bases and bases[name]
            if base is None:
                base = self.param(f"{name}.base", _base_init(leaf), size)
            # Zero, so that everybody begins with `base`. Its gradient, u times the leaf's, does not vanish: of a LoRA
            # `b` has one from the first step, because `a` begins away from zero.
            weight = self.param(f"{name}.weight", nn.initializers.zeros, (u_BE.shape[1], *size))
            # One W for all layers of a stack, so A(p) does not grow with depth; the code tells the layers apart.
            return base[None] + self.gain * jnp.tensordot(u_BE, weight, axes=1)

        return jax.tree_util.tree_map_with_path(make, shapes)


_STRIP = str.maketrans("", "", "]'\"")


def _name_of(where: str, path: Any) -> tuple[str, str]:
    """(the name of a leaf's parameters, the field that it is)."""
    name = f"{where}{jax.tree_util.keystr(path)}".replace("[", ".").translate(_STRIP)
    return name, name.rsplit(".", 1)[-1]


def _base_init(leaf: str):
    """As `jaxrec.delta.init`: the identity at the start, with a gradient there."""
    if leaf.startswith("a_"):
        # in-features lie second to last, [D, R]
        return lambda key, shape: jax.random.uniform(
            key, shape, minval=-((3.0 / shape[-2]) ** 0.5), maxval=(3.0 / shape[-2]) ** 0.5
        )
    if leaf.startswith(("down_NBDA", "k_", "v_", "prompt_")):
        return nn.initializers.normal(0.02)
    return nn.initializers.zeros
