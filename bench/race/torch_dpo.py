"""The peers' DPO step: TRL's own loss and collator, torch autograd through a PEFT model, AdamW, fp32."""

import tempfile

from bench.race import chip, shape
from bench.race.torch_decode import base_model
from bench.race.worker import Work

BETA = 0.1


def prepare(
    size: str = "30m",
    pairs: int = 8,
    length: int = 256,
    rank: int = 16,
    reference: str = "switched",
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Work]:
    """One step on `pairs` pairs of `length` tokens each. reference: "switched" (in the step) or "batch" (given)."""
    import numpy as np
    import peft
    import torch
    import transformers
    import trl
    from datasets import Dataset

    model = base_model(size, dtype, device)
    sites = [path.rsplit(".", 1)[-1] for path in shape.SITES.values()]
    lora = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=sites, task_type="CAUSAL_LM", lora_dropout=0.0
    )
    chosen, rejected, start = shape.answered(size, pairs, length)
    words = lambda ids: " ".join(f"w{i}" for i in ids)
    rows = [
        {
            "prompt": words(c[:start]) + " ",
            "chosen": words(c[start:-1]),
            "rejected": words(r[start:-1]),
        }
        for c, r in zip(chosen, rejected, strict=True)
    ]
    args = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=pairs, max_length=length, beta=BETA, report_to=[],
        use_cpu=device == "cpu", bf16=False, activation_checkpointing=False, dataloader_pin_memory=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer(size),
        peft_config=lora,
    )  # fmt: skip
    batch = next(iter(torch.utils.data.DataLoader(
        trainer.train_dataset, batch_size=pairs, collate_fn=trainer.data_collator
    )))  # fmt: skip
    batch = {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}
    if not np.array_equal(batch["input_ids"].cpu().numpy(), np.concatenate([chosen, rejected])):
        raise ValueError("the tokens are not those of the other side")
    with torch.no_grad():
        for site, (a, b) in shape.loras(size, 1, rank).items():
            for n, layer in enumerate(trainer.model.base_model.model.model.layers):
                module = layer.get_submodule(shape.SITES[site])
                module.lora_A["default"].weight.copy_(torch.tensor(a[n, 0].T))
                module.lora_B["default"].weight.copy_(torch.tensor(b[n, 0].T))
    if reference == "batch":
        told = trainer.compute_ref_log_probs(trainer.model, batch)
        batch |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), told, strict=True))
        trainer.precompute_ref_logps = True
    trainer.model.train()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    losses: list[float] = []

    def step() -> None:
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))

    def first_losses() -> np.ndarray:
        while len(losses) < 3:
            step()
        return np.array(losses[:3])

    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, trl)}
    memory = chip.peers_memory(device)
    info = {"chip": chip.peers(device)}
    return {"work": Work(step, first_losses, versions, info, memory=memory)}


def tokenizer(size: str):
    """Word "w17" is token 17; what ends a text is token 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<unk>"]
    names += [f"w{i}" for i in range(4, shape.SHAPES[size]["vocab_size"])]
    rust = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{k}_token": f"<{k}>" for k in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=rust, **special)
