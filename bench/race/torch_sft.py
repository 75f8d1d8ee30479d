"""The peers' LoRA training step: torch autograd through a PEFT model, AdamW, fp32; eager or compiled."""

import os
import shutil

from bench.race import chip, shape
from bench.race.torch_decode import base_model, with_adapters
from bench.race.worker import Work


def prepare(
    size: str = "30m",
    batch: int = 8,
    length: int = 256,
    rank: int = 16,
    compiled: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Work]:
    """One step on `batch` x `length` tokens, all of which count in the loss. `compiled`: by torch.compile."""
    if compiled and not shutil.which(os.environ.get("CXX", "g++")):
        raise ModuleNotFoundError("torch.compile needs it", name="a C++ compiler")
    import numpy as np
    import peft
    import torch
    import transformers

    model = with_adapters(base_model(size, dtype, device), size, 1, rank).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    ids = torch.tensor(shape.prompts(size, batch, length), device=device)
    losses: list[float] = []
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    def first_losses() -> np.ndarray:
        while len(losses) < 3:
            step()
        return np.array(losses[:3])

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"peft": peft.__version__}
    flops = chip.sft_flops(shape.config(size), batch, length, rank)
    info = {"chip": chip.peers(device), "flops": flops}
    return {"work": Work(step, first_losses, versions, info, memory=chip.peers_memory(device))}
