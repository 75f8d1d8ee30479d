"""Floor 3: which of our parameters is which tensor of a Hugging Face checkpoint, as plain tables.

Left: our path, `layer/` standing for any stack. Right: the tensor's name ({n}: the layer's number in the whole
model). Ours are [in, out], HF's linear weights [out, in]: every path that ends in `kernel`, and MPNet's bias table,
is transposed. A path that a config does not have (a bias, a head that is tied) is never looked for.
"""

_ROTARY_DECODER = {
    "embed/table": "model.embed_tokens.weight",
    "layer/attn_norm/scale": "model.layers.{n}.input_layernorm.weight",
    "layer/attn/q/kernel": "model.layers.{n}.self_attn.q_proj.weight",
    "layer/attn/k/kernel": "model.layers.{n}.self_attn.k_proj.weight",
    "layer/attn/v/kernel": "model.layers.{n}.self_attn.v_proj.weight",
    "layer/attn/q/bias": "model.layers.{n}.self_attn.q_proj.bias",
    "layer/attn/k/bias": "model.layers.{n}.self_attn.k_proj.bias",
    "layer/attn/v/bias": "model.layers.{n}.self_attn.v_proj.bias",
    "head/kernel": "lm_head.weight",
    "head/bias": "lm_head.bias",
}

LLAMA = _ROTARY_DECODER | {  # Llama 2 and 3, Qwen 2, 2.5 and 3
    "layer/attn/o/kernel": "model.layers.{n}.self_attn.o_proj.weight",
    "layer/attn/o/bias": "model.layers.{n}.self_attn.o_proj.bias",
    "layer/attn/q_norm/scale": "model.layers.{n}.self_attn.q_norm.weight",
    "layer/attn/k_norm/scale": "model.layers.{n}.self_attn.k_norm.weight",
    "layer/mlp_norm/scale": "model.layers.{n}.post_attention_layernorm.weight",
    "layer/mlp/gate/kernel": "model.layers.{n}.mlp.gate_proj.weight",
    "layer/mlp/up/kernel": "model.layers.{n}.mlp.up_proj.weight",
    "layer/mlp/down/kernel": "model.layers.{n}.mlp.down_proj.weight",
    "layer/mlp/gate/bias": "model.layers.{n}.mlp.gate_proj.bias",
    "layer/mlp/up/bias": "model.layers.{n}.mlp.up_proj.bias",
    "layer/mlp/down/bias": "model.layers.{n}.mlp.down_proj.bias",
    "norm/scale": "model.norm.weight",
}

GEMMA3 = (
    LLAMA
    | {  # four norms a block: HF's "post attention" is behind attention here, and not before the MLP
        "layer/attn_post_norm/scale": "model.layers.{n}.post_attention_layernorm.weight",
        "layer/mlp_norm/scale": "model.layers.{n}.pre_feedforward_layernorm.weight",
        "layer/mlp_post_norm/scale": "model.layers.{n}.post_feedforward_layernorm.weight",
    }
)

PHI = _ROTARY_DECODER | {
    "layer/attn_norm/bias": "model.layers.{n}.input_layernorm.bias",
    "layer/attn/o/kernel": "model.layers.{n}.self_attn.dense.weight",
    "layer/attn/o/bias": "model.layers.{n}.self_attn.dense.bias",
    "layer/mlp/up/kernel": "model.layers.{n}.mlp.fc1.weight",
    "layer/mlp/up/bias": "model.layers.{n}.mlp.fc1.bias",
    "layer/mlp/down/kernel": "model.layers.{n}.mlp.fc2.weight",
    "layer/mlp/down/bias": "model.layers.{n}.mlp.fc2.bias",
    "norm/scale": "model.final_layernorm.weight",
    "norm/bias": "model.final_layernorm.bias",
}

_POST_NORM_ENCODER = {
    "embed/table": "embeddings.word_embeddings.weight",
    "positions/table": "embeddings.position_embeddings.weight",
    "embed_norm/scale": "embeddings.LayerNorm.weight",
    "embed_norm/bias": "embeddings.LayerNorm.bias",
    "layer/mlp/up/kernel": "encoder.layer.{n}.intermediate.dense.weight",
    "layer/mlp/up/bias": "encoder.layer.{n}.intermediate.dense.bias",
    "layer/mlp/down/kernel": "encoder.layer.{n}.output.dense.weight",
    "layer/mlp/down/bias": "encoder.layer.{n}.output.dense.bias",
    "layer/mlp_norm/scale": "encoder.layer.{n}.output.LayerNorm.weight",
    "layer/mlp_norm/bias": "encoder.layer.{n}.output.LayerNorm.bias",
}

BERT = _POST_NORM_ENCODER | {
    "types": "embeddings.token_type_embeddings.weight",
    "layer/attn/q/kernel": "encoder.layer.{n}.attention.self.query.weight",
    "layer/attn/q/bias": "encoder.layer.{n}.attention.self.query.bias",
    "layer/attn/k/kernel": "encoder.layer.{n}.attention.self.key.weight",
    "layer/attn/k/bias": "encoder.layer.{n}.attention.self.key.bias",
    "layer/attn/v/kernel": "encoder.layer.{n}.attention.self.value.weight",
    "layer/attn/v/bias": "encoder.layer.{n}.attention.self.value.bias",
    "layer/attn/o/kernel": "encoder.layer.{n}.attention.output.dense.weight",
    "layer/attn/o/bias": "encoder.layer.{n}.attention.output.dense.bias",
    "layer/attn_norm/scale": "encoder.layer.{n}.attention.output.LayerNorm.weight",
    "layer/attn_norm/bias": "encoder.layer.{n}.attention.output.LayerNorm.bias",
}

MPNET = _POST_NORM_ENCODER | {
    "distance_bias": "encoder.relative_attention_bias.weight",
    "layer/attn/q/kernel": "encoder.layer.{n}.attention.attn.q.weight",
    "layer/attn/q/bias": "encoder.layer.{n}.attention.attn.q.bias",
    "layer/attn/k/kernel": "encoder.layer.{n}.attention.attn.k.weight",
    "layer/attn/k/bias": "encoder.layer.{n}.attention.attn.k.bias",
    "layer/attn/v/kernel": "encoder.layer.{n}.attention.attn.v.weight",
    "layer/attn/v/bias": "encoder.layer.{n}.attention.attn.v.bias",
    "layer/attn/o/kernel": "encoder.layer.{n}.attention.attn.o.weight",
    "layer/attn/o/bias": "encoder.layer.{n}.attention.attn.o.bias",
    "layer/attn_norm/scale": "encoder.layer.{n}.attention.LayerNorm.weight",
    "layer/attn_norm/bias": "encoder.layer.{n}.attention.LayerNorm.bias",
}

NAMES = {
    # Qwen's tensors are named as Llama's; which biases and norms there are follows from the config.
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma3_text": GEMMA3,
    "phi": PHI,
    "bert": BERT,
    "mpnet": MPNET,
}

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi": "PhiForCausalLM",
    "bert": "BertModel",
    "mpnet": "MPNetModel",
}

# The wrapper's prefix, which a checkpoint of the bare backbone leaves out ("model.norm.weight" is "norm.weight" there)
# and which an encoder's names above leave out ("embeddings..." is "bert.embeddings..." in a larger model).
WRAPPERS = {
    "llama": "model.",
    "mistral": "model.",
    "qwen2": "model.",
    "qwen3": "model.",
    "gemma3_text": "model.",
    "phi": "model.",
    "bert": "bert.",
    "mpnet": "mpnet.",
}


def spellings(name: str, family: str) -> tuple[str, ...]:
    """The names under which a checkpoint may hold a tensor, the usual one first."""
    wrapper = WRAPPERS[family]
    return (name, name[len(wrapper) :]) if name.startswith(wrapper) else (name, wrapper + name)


def transposed(path: str) -> bool:
    """Whether our array at this path is the transpose of HF's tensor."""
    return path.endswith("kernel") or path == "distance_bias"
