"""llama.cpp's decoding (xllamacpp): the same weights in a GGUF file.

In f32 with its cache in f32 and without flash attention, so that answers are equal; other types of weights with
llama.cpp's own settings.

The wheel offers llama.cpp's server within the process: token ids go in as they are, each row has a slot of its own,
and slots are decoded together. Only the likeliest token is looked for.
"""

import os

from bench.race import shape
from bench.race.gguf_file import gguf_file, letter_of
from bench.race.worker import Work


def prepare(
    size: str = "30m", batch: int = 16, kind: str = "f32", prompt: int = 0, new: int = 0
) -> dict[str, Work]:
    """Reads `prompt` tokens and writes `new` ones to each (0: as `shape` says).

    kind: of the weights. The answer: centred logits after the prompt.
    """
    import importlib.metadata

    import numpy as np
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path, params.verbosity, params.warmup = str(gguf_file(size, kind)), -1, False
    length, new = prompt or shape.PROMPT, new or shape.NEW
    params.n_parallel, params.n_ctx = batch, batch * (length + new + 32)
    if kind == "f32":
        params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.fit_params = 0, False
    server = llama.Server(params)
    prompts, vocab = shape.prompts(size, batch, length).tolist(), shape.config(size)["vocab_size"]
    letter_id, rows = letter_of(size), shape.compared(size, batch)
    greedy = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
    asked = greedy | {"cache_prompt": False, "ignore_eos": True}

    def generate() -> None:
        reply = server.handle_completions(asked | {"prompt": prompts, "n_predict": new})
        ended = [choice["finish_reason"] for choice in reply["choices"]]
        if ended != ["length"] * batch:
            raise RuntimeError(f"llama.cpp ended otherwise: {reply}"[:300])

    def logits() -> np.ndarray:
        # Of a token that is no whole text it reports nothing: it is made to say a letter, after the probabilities.
        letter = {"temperature": 0.0, "cache_prompt": False, "logit_bias": [[letter_id, 1000.0]]}
        found = np.full((rows.stop, vocab), np.nan)
        for row, said in zip(found, prompts[rows], strict=True):
            one = letter | {"prompt": said, "n_predict": 1, "n_probs": vocab}
            reply = server.handle_completions(one)
            top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            row[[t["id"] for t in top]] = [t["logprob"] for t in top]
        return shape.centred(found)

    version = importlib.metadata.version("xllamacpp")
    return {"work": Work(generate, logits, {"xllamacpp": version})}
