"""QLoRA of Qwen2.5-0.5B-Instruct on one's own chats (a .jsonl of `messages`), by its own chat template.

    python -m train.sft configs/language/sft_qwen.py --data my_chats.jsonl
    python -m train.sft configs/language/sft_qwen.py --data my_chats.jsonl --base meta-llama/Llama-2-7b-hf --remat full

Needs a network (or the model in the hub's cache) and an accelerator; not run here. The specification's LoRA: r 16,
alpha 32, dropout 0.1 on q, k, v and o.
"""

from jaxrec.delta import DeltaConfig
from jaxrec.models.language.sampled import SampleConfig
from jaxrec.train.sft import SftConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

config = SftConfig(
    base="Qwen/Qwen2.5-0.5B-Instruct",
    data=("my_chats.jsonl",),
    delta=DeltaConfig(lora_rank=16, lora_alpha=32.0, lora_sites="q|k|v|o"),
    lora_dropout=0.1,
    quantise="nf4",
    dtype="bfloat16",
    frozen_dtype="bfloat16",
    length=1024,
    rows=8,
    accum=2,
    opt=OptConfig(lr=2e-4, warmup=30, schedule="cosine"),
    loop=LoopConfig(steps=1000, eval_every=100, save_every=100, monitor="held_nll", patience=5),
    samples=SampleConfig(every=200, new=60, temperature=0.7, top_p=0.9),
    out="runs/sft_qwen",
)
