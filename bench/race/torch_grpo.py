"""The peers' GRPO: TRL's GRPOTrainer with a PEFT LoRA, one update a rollout, fp32, with what a CPU likes switched on.

The trainer is one long run that stands still between two calls: each call lets it make one optimizer step.
"""

import threading
from typing import Any

from bench.race import rollouts, shape
from bench.race.torch_decode import base_model
from bench.race.worker import Work


def prepare(size: str = "30m", new: int = shape.NEW) -> dict[str, Work]:
    """One rollout of 16 texts to 4 prompts, and the update on it."""
    import numpy as np
    import peft
    import torch
    import transformers
    import trl
    from datasets import Dataset

    model = base_model(size)
    words = [rollouts.text_of(row) for row in rollouts.prompts(size)[:: rollouts.GROUP]]
    config = trl.GRPOConfig(
        output_dir=str(shape.CACHE / "trl"), use_cpu=True, bf16=False, report_to="none",
        per_device_train_batch_size=rollouts.ROWS, num_generations=rollouts.GROUP,
        gradient_checkpointing=False, max_completion_length=new, temperature=1.0, top_p=1.0,
        top_k=0, beta=rollouts.KL, learning_rate=rollouts.LR, lr_scheduler_type="constant",
        weight_decay=0.0, max_grad_norm=1.0, max_steps=1_000_000, save_strategy="no",
        disable_tqdm=True, logging_steps=1_000_000, generation_kwargs={"min_new_tokens": new},
    )  # fmt: skip
    sites = [path.rsplit(".", 1)[-1] for path in shape.SITES.values()]
    lora = peft.LoraConfig(
        r=rollouts.RANK, lora_alpha=2 * rollouts.RANK, target_modules=sites, lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    turns = Turns()
    trainer = trl.GRPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_dict({"prompt": words}),
        reward_funcs=lambda completions, **_: rollouts.reward(completions),
        processing_class=tokenizer(size), peft_config=lora, callbacks=[turns.callback()],
    )  # fmt: skip
    _put_loras(trainer.model, size)

    def first() -> np.ndarray:
        said, earned = rollouts.fixed(size, new)
        ids = torch.tensor(np.array(rollouts.prompts(size)))
        said, ones = torch.tensor(said), torch.ones
        grouped = torch.tensor(earned).view(-1, rollouts.GROUP)
        away = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
        both = torch.cat([ids, said], 1)
        score = lambda: trainer._get_per_token_logps_and_entropies(
            trainer.model, both, torch.ones_like(both), said.shape[1]
        )[0]
        with torch.no_grad():
            log_p = score()
            with trainer.model.disable_adapter():
                ref = score()
            inputs = {
                "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": said,
                "completion_mask": torch.ones_like(said), "advantages": away.flatten(),
                "ref_per_token_logps": ref, "num_items_in_batch": ones(()) * said.numel(),
            }  # fmt: skip
            trainer.model.eval()
            loss = float(trainer._compute_loss(trainer.model, inputs))
        return np.concatenate([[loss], log_p.numpy().ravel()])

    answer = first()
    turns.start(trainer.train)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"trl": trl.__version__, "peft": peft.__version__}
    return {"work": Work(turns.once, lambda: answer, versions)}


class Turns:
    """Lets a trainer's run, on a thread of its own, make one step at a time."""

    def __init__(self):
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None

    def callback(self) -> Any:
        """What the trainer calls around each of its steps."""
        from transformers import TrainerCallback

        turns = self

        class Waiting(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                turns.go.acquire()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                turns.done.release()

        return Waiting()

    def start(self, train: Any) -> None:
        """Begins the run; it waits before its first step."""

        def run() -> None:
            try:
                train()
            except BaseException as error:
                self.error = error
                self.done.release()

        threading.Thread(target=run, daemon=True).start()

    def once(self) -> None:
        """One step. Raises RuntimeError when the run has ended by an error."""
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise RuntimeError("the trainer stopped") from self.error


def tokenizer(size: str) -> Any:
    """Token 7 is written "t7"; words are kept apart by spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {f"t{i}": i for i in range(shape.SHAPES[size]["vocab_size"])}
    core = Tokenizer(models.WordLevel(known, unk_token="t3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="t0", eos_token="t2", padding_side="left"
    )
    made.backend_tokenizer.decoder = None
    return made


def _put_loras(model: Any, size: str) -> None:
    """The seeded LoRAs of `shape` into the trainer's own."""
    import torch

    with torch.no_grad():
        for site, (a, b) in shape.loras(size, 1, rollouts.RANK).items():
            for n, layer in enumerate(model.base_model.model.model.layers):
                module = layer.get_submodule(shape.SITES[site])
                module.lora_A["default"].weight.copy_(torch.tensor(a[n, 0].T))
                module.lora_B["default"].weight.copy_(torch.tensor(b[n, 0].T))
