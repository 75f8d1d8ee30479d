"""Floor 3: which of our parameters is which tensor of a GGUF file, as plain tables, for writing and reading.

Left: our path, `layer/` standing for any stack. Right: llama.cpp's name ({n}: the layer's number in the whole model).
Matrices lie as [out, in] there, so every path that ends in `kernel` is transposed.
"""

_SHARED = {
    "embed/table": "token_embd.weight",
    "layer/attn_norm/scale": "blk.{n}.attn_norm.weight",
    "layer/attn/q/kernel": "blk.{n}.attn_q.weight",
    "layer/attn/k/kernel": "blk.{n}.attn_k.weight",
    "layer/attn/v/kernel": "blk.{n}.attn_v.weight",
    "layer/attn/o/kernel": "blk.{n}.attn_output.weight",
    "layer/attn/q/bias": "blk.{n}.attn_q.bias",
    "layer/attn/k/bias": "blk.{n}.attn_k.bias",
    "layer/attn/v/bias": "blk.{n}.attn_v.bias",
    "layer/attn/o/bias": "blk.{n}.attn_output.bias",
    "layer/mlp/up/kernel": "blk.{n}.ffn_up.weight",
    "layer/mlp/down/kernel": "blk.{n}.ffn_down.weight",
    "layer/mlp/up/bias": "blk.{n}.ffn_up.bias",
    "layer/mlp/down/bias": "blk.{n}.ffn_down.bias",
    "norm/scale": "output_norm.weight",
    "head/kernel": "output.weight",
}
LLAMA = _SHARED | {
    "layer/mlp_norm/scale": "blk.{n}.ffn_norm.weight",
    "layer/mlp/gate/kernel": "blk.{n}.ffn_gate.weight",
    "layer/mlp/gate/bias": "blk.{n}.ffn_gate.bias",
}
QWEN3 = LLAMA | {
    "layer/attn/q_norm/scale": "blk.{n}.attn_q_norm.weight",
    "layer/attn/k_norm/scale": "blk.{n}.attn_k_norm.weight",
}
GEMMA3 = QWEN3 | {
    "layer/attn_post_norm/scale": "blk.{n}.post_attention_norm.weight",
    "layer/mlp_post_norm/scale": "blk.{n}.post_ffw_norm.weight",
}
PHI2 = _SHARED | {
    "layer/attn_norm/bias": "blk.{n}.attn_norm.bias",
    "norm/bias": "output_norm.bias",
    "head/bias": "output.bias",
}

# our family -> (llama.cpp's architecture, tensors)
ARCHITECTURES = {
    "llama": ("llama", LLAMA),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", QWEN3),
    "gemma3_text": ("gemma3", GEMMA3),
    "phi": ("phi2", PHI2),
}

# Rotary pairs are neighbours in llama.cpp's `llama`, halves of a head everywhere else: these rows change their order.
PERMUTED = {
    "llama": (
        "layer/attn/q/kernel",
        "layer/attn/k/kernel",
        "layer/attn/q/bias",
        "layer/attn/k/bias",
    )
}

# What is added to a norm's parameter on its way out: llama.cpp multiplies by it alone, where Gemma multiplies by 1 + w.
OFFSET = {"gemma3_text": 1.0}

FACTORS = "rope_freqs.weight"  # what Llama 3's rotary frequencies are divided by
FUSED = "blk.{n}.attn_qkv"  # q, k and v in one, as older files of Phi-2 have them
