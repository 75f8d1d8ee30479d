"""llama.cpp's decoding (xllamacpp): the same weights in f32 in a GGUF file, KV cache in f32, flash attention off.

The wheel offers llama.cpp's server within the process: token ids go in as they are, each row has a slot of its own,
and slots are decoded together. Only the likeliest token is looked for.
"""

import os

from bench.race import shape
from bench.race.gguf_file import LETTER, gguf_file
from bench.race.worker import Work


def prepare(size: str = "30m", batch: int = 16) -> dict[str, Work]:
    """Reads the prompts and writes `shape.NEW` tokens to each. The answer: centred logits after the prompt."""
    import importlib.metadata

    import numpy as np
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path, params.verbosity, params.warmup = str(gguf_file(size)), -1, False
    params.n_parallel, params.n_ctx = batch, batch * (shape.PROMPT + shape.NEW + 32)
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.fit_params = 0, False
    server = llama.Server(params)
    prompts, vocab = shape.prompts(size, batch).tolist(), shape.SHAPES[size]["vocab_size"]
    greedy = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
    asked = greedy | {"cache_prompt": False, "ignore_eos": True}

    def generate() -> None:
        reply = server.handle_completions(asked | {"prompt": prompts, "n_predict": shape.NEW})
        ended = [choice["finish_reason"] for choice in reply["choices"]]
        if ended != ["length"] * batch:
            raise RuntimeError(f"llama.cpp ended otherwise: {reply}"[:300])

    def logits() -> np.ndarray:
        # Of a token that is no whole text it reports nothing: it is made to say a letter, after the probabilities.
        letter = {"temperature": 0.0, "cache_prompt": False, "logit_bias": [[LETTER, 1000.0]]}
        found = np.full((batch, vocab), np.nan)
        for row, prompt in zip(found, prompts, strict=True):
            one = letter | {"prompt": prompt, "n_predict": 1, "n_probs": vocab}
            reply = server.handle_completions(one)
            top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            row[[t["id"] for t in top]] = [t["logprob"] for t in top]
        return shape.centred(found)

    version = importlib.metadata.version("xllamacpp")
    return {"work": Work(generate, logits, {"xllamacpp": version})}
