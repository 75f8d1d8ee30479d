"""Many voices of SmolLM2-135M-Instruct: A(p) changes its top twelve layers, and it answers itself, a page before it.

    python -m train.universal configs/personal/smollm2_universal.py

196 businesses, twelve dialogues of each and all of four written by hand four times an epoch, the right page before 85%
of the questions. The states below the changed layers are kept on disk (600 MB); kernels are bf16, which on CPUs that
multiply in bf16 halves their time. Measured on two cores that some fifteen other processes shared: 450 CPU seconds for
the states, 4.5 a step of 8 rows, 3.9 - 4.3 GB. After 340 steps (2,720 rows) unseen generated tenants have .57 nats a
token with the right page and their own p, .69 with the mean p; after 120 steps those were 1.03 and 1.11. Longer was not
tried. The first 219 of the run of record's steps saw 6 pieces of what is known of a tenant, not 12: with 6, halves of
them often hold no answer, and p lacks what only answers tell.
"""

from jaxrec.data.feature_store import FeatureConfig
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.pages import PagesConfig
from jaxrec.models.personal.profile import ProfileEncoderConfig
from jaxrec.train.universal import UniversalConfig
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

WRITTEN = ("harbour_bakery", "northline_cycles", "fern_dental", "brightbyte_repairs")
# Neither these nor the tenants of smollm2_personalize are learned from; settings were chosen on these.
VALIDATION = (
    "music_school_044",
    "bookshop_049",
    "boat_hire_054",
    "toy_shop_059",
)

config = UniversalConfig(
    lfe="runs/smollm2/retrofit/lfe",
    tenants=("world:train",),
    held=tuple(f"world:{key}" for key in VALIDATION),
    dialogues=12,
    often=WRITTEN,
    times=4,
    pages=PagesConfig("right", length=80, share=0.85, beside=0.25),
    person="backbone",
    inside=DeltaConfig(norm=True, lora_rank=16, lora_sites="q|k|v|o|up|down"),
    depths=tuple(range(18, 30)),
    hyper_base="layer",
    d_p=64,
    encoder=ProfileEncoderConfig(centred=True),
    encoder_steps=256,
    question=120,
    answer=68,
    piece=32,
    pieces=12,
    examples=4,
    judged=0,
    quantise="bf16",
    rows=8,
    checked=4,
    opt=OptConfig(lr=2e-3, warmup=30),
    loop=LoopConfig(steps=340, eval_every=120, save_every=40, log_every=10, monitor="unseen_nll"),
    features=FeatureConfig("runs/smollm2/features"),
    out="runs/smollm2/universal",
)
