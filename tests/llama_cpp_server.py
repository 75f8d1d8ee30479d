"""A real llama.cpp in this process, to compare with: its next token's probabilities and its tokens of a text."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest


class Llama:
    """A llama.cpp on one thread: KV cache in f32, flash attention off."""

    def __init__(self, model: Path, adapter: Path | None = None):
        xl = pytest.importorskip("xllamacpp", reason="xllamacpp (llama.cpp) is not installed")
        p = xl.CommonParams()
        p.model.path, p.n_ctx, p.verbosity, p.warmup = str(model), 256, -1, False
        p.cache_type_k = p.cache_type_v = xl.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = xl.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        p.n_gpu_layers, p.fit_params, p.n_parallel = 0, False, 1
        if adapter is not None:
            p.lora_adapters = [xl.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self.server = xl.Server(p)

    def tokens(self, text: str) -> list[int]:
        """Its ids of a text, special tokens that the text spells out among them, and what it puts around each text."""
        asked = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.listening_address}/tokenize", asked, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["tokens"]

    def after(self, vocab: int, ordinary: int, **prompt) -> tuple[np.ndarray, int]:
        """(log-probabilities [V] of the next token, tokens of the prompt).

        What it would say is biased towards a plain letter: of a broken byte it reports nothing.
        """
        asked = {"n_probs": vocab, "temperature": 0.0, "cache_prompt": False, "n_predict": 1}
        asked["logit_bias"] = [[ordinary, 1000.0]]
        if "messages" in prompt:
            asked |= {"logprobs": True, "top_logprobs": vocab, "max_tokens": 1}
            reply = self.server.handle_chat_completions(asked | prompt)
        else:
            reply = self.server.handle_completions(asked | prompt)
        top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = np.full(vocab, np.nan)
        found[[t["id"] for t in top]] = [t["logprob"] for t in top]
        return found, reply["usage"]["prompt_tokens"]
