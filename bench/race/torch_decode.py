"""The peers' decoding: `transformers` generate, plain, with one PEFT adapter, or with one adapter a row."""

import os
from typing import Any

from bench.race import chip, shape
from bench.race.worker import Work


def prepare(
    size: str = "30m",
    batch: int = 16,
    adapters: int = 0,
    rank: int = 16,
    dtype: str = "float32",
    device: str = "cpu",
    prompt: int = 0,
    new: int = 0,
) -> dict[str, Work]:
    """Reads `prompt` tokens and writes `new` ones (0: as `shape` says).

    adapters: 0 for the plain model, or the number of LoRAs, which the rows take in turn.
    """
    import numpy as np
    import torch
    import transformers

    model = base_model(size, dtype, device).eval()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    more = {}
    if adapters:
        import peft

        model = with_adapters(model, size, adapters, rank)
        more = (
            {"adapter_names": [f"row{i % adapters}" for i in range(batch)]} if adapters > 1 else {}
        )
        versions["peft"] = peft.__version__
    ids = torch.tensor(shape.prompts(size, batch, prompt or shape.PROMPT), device=device)
    new, rows = new or shape.NEW, shape.compared(size, batch)

    @torch.inference_mode()
    def generate() -> Any:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            **more,
        )

    @torch.inference_mode()
    def logits() -> np.ndarray:
        said = model(input_ids=ids, logits_to_keep=1, **more).logits[:, -1]
        return shape.centred(said.float().cpu().numpy())[rows]

    info = {"chip": chip.peers(device)}
    if not adapters and size in shape.SHAPES:
        sizes = shape.SHAPES[size], batch, shape.PROMPT, shape.NEW, model.dtype.itemsize
        info |= {"moved": chip.decoding_bytes(*sizes)}
    return {"work": Work(generate, logits, versions, info, memory=chip.peers_memory(device))}


def base_model(size: str, dtype: str = "float32", device: str = "cpu") -> Any:
    """The model of `shape.model_folder`, its attention fused (SDPA), on all the threads it was given."""
    import torch
    import transformers

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        shape.model_folder(size), dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    return model.to(device)


def with_adapters(model: Any, size: str, adapters: int, rank: int) -> Any:
    """The model under PEFT, its adapters holding `shape.loras`."""
    import peft
    import torch

    sites = [path.rsplit(".", 1)[-1] for path in shape.SITES.values()]
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=sites, task_type="CAUSAL_LM", lora_dropout=0.0
    )
    model = peft.get_peft_model(model, config, adapter_name="row0")
    for i in range(1, adapters):
        model.add_adapter(f"row{i}", config)
    with torch.no_grad():
        for site, (a, b) in shape.loras(size, adapters, rank).items():
            for n, layer in enumerate(model.base_model.model.model.layers):
                module = layer.get_submodule(shape.SITES[site])
                for i in range(adapters):
                    module.lora_A[f"row{i}"].weight.copy_(torch.tensor(a[n, i].T))
                    module.lora_B[f"row{i}"].weight.copy_(torch.tensor(b[n, i].T))
    return model.eval()
