"""The peers' LoRA fine-tuning on dialogues of all lengths: padded to the longest of a batch, grouped, or packed."""

from typing import Any

from bench.race import mix
from bench.race.torch_decode import base_model, with_adapters
from bench.race.worker import Work


def prepare(layout: str = "grouped", size: str = "30m", rank: int = 16) -> dict[str, Work]:
    """An epoch over the dialogues. The answer: nats a learned token over all of them, before any step."""
    import numpy as np
    import peft
    import torch
    import transformers

    model = with_adapters(base_model(size), size, 1, rank).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    found = mix.examples(size)
    if layout == "packed":
        made = packed(found)
    else:
        made = [padded(b) for b in mix.batches(found, mix.ROWS, grouped=layout == "grouped")]
    learned = [int((batch["labels"] != -100).sum()) for batch in made]

    def epoch() -> None:
        for batch in made:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    @torch.inference_mode()
    def start_loss() -> float:
        losses = [float(model(**batch).loss) for batch in made]
        return sum(n * x for n, x in zip(learned, losses, strict=True)) / sum(learned)

    at_start = start_loss()  # the worker warms up by an epoch, which moves the adapter
    first_loss: Any = lambda: np.array([at_start])

    places = sum(batch["input_ids"].numel() for batch in made)
    info = {"fill": round(mix.TOKENS / places, 3), "steps": len(made)}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"work": Work(epoch, first_loss, versions | {"peft": peft.__version__}, info)}


def padded(some: list[mix.Example]) -> dict[str, Any]:
    """A batch as HF's collator makes it: as long as its longest example, labels -100 where nothing is learned."""
    import torch

    length = max(len(ids) for ids, _ in some)
    batch = {
        "input_ids": torch.zeros(len(some), length, dtype=torch.long),
        "attention_mask": torch.zeros(len(some), length, dtype=torch.long),
        "labels": torch.full((len(some), length), -100),
    }
    for i, (ids, weights) in enumerate(some):
        n = len(ids)
        batch["input_ids"][i, :n] = torch.tensor(ids)
        batch["attention_mask"][i, :n] = 1
        batch["labels"][i, :n] = labels(ids, weights)
    return batch


def packed(found: list[mix.Example]) -> list[dict[str, Any]]:
    """Batches of rows of several examples, first fit by falling length; positions restart, and a 4-D mask keeps the
    examples apart, as TRL's packing does where there is no flash attention."""
    import torch

    rows: list[list[mix.Example]] = []
    for one in sorted(found, key=lambda e: -len(e[0])):
        fits = (r for r in rows if sum(len(e[0]) for e in r) + len(one[0]) <= mix.LONGEST)
        row = next(fits, None)
        if row is None:
            rows.append([one])
        else:
            row.append(one)
    made, length = [], mix.LONGEST
    for start in range(0, len(rows), mix.PACKED_ROWS):
        some = rows[start : start + mix.PACKED_ROWS]
        ids, target = (
            torch.zeros(len(some), length, dtype=torch.long),
            torch.full((len(some), length), -100),
        )
        places, owner = torch.zeros_like(ids), torch.zeros_like(ids)
        for b, row in enumerate(some):
            at = 0
            for k, (own, weights) in enumerate(row, 1):
                span = slice(at, at + len(own))
                ids[b, span], places[b, span] = torch.tensor(own), torch.arange(len(own))
                target[b, span], owner[b, span] = labels(own, weights), k
                at += len(own)
        same = (owner[:, None, :] == owner[:, :, None]) & torch.ones(length, length).tril().bool()
        mask = torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)[:, None]
        made.append(
            {"input_ids": ids, "position_ids": places, "attention_mask": mask, "labels": target}
        )
    return made


def labels(ids: list[int], weights: list[float]) -> Any:
    """The ids that are learned; the model shifts them itself."""
    import torch

    return torch.where(torch.tensor(weights) > 0, torch.tensor(ids), -100)
