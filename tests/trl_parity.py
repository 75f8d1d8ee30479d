"""TRL's preference losses beside ours, on the same weights and the very batch that TRL's trainer makes.

Two tiny Llamas with random weights are written by `hub.save`: the policy and the reference. TRL gets them as
`transformers` models, we load the folders. Each function gives {kind: (TRL's loss, ours)}.
"""

from pathlib import Path

import jax
import numpy as np
from tiny_personal import random_like

from jaxrec import hub
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.objectives.prefer import prefer
from jaxrec.objectives.reference import with_reference
from jaxrec.structs import Pairs, Thumbs, Tokens
from jaxrec.training.gradients import example_keys

VOCAB = 64
CFG = DecoderConfig(vocab=VOCAB, d_model=32, layers=2, heads=4, groups=2, head_dim=8, d_ff=48)
LM = TunedLM(Decoder(CFG))


def dpo(folder: Path) -> dict[str, tuple[float, float]]:
    """DPOTrainer: sigmoid, sigmoid per token, robust, hinge, IPO."""
    from trl import DPOConfig, DPOTrainer

    policy, reference = models(folder)
    trainer = DPOTrainer(
        model=policy, ref_model=reference, args=DPOConfig(**_settings(folder)),
        train_dataset=pairs(), processing_class=tokenizer(),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    ids, mask, said = (batch[k].numpy() for k in ("input_ids", "attention_mask", "completion_mask"))
    half = len(ids) // 2
    rows = [
        tokens(*(x[part] for x in (ids, mask, said))) for part in (slice(half), slice(half, None))
    ]
    rows = with_references(folder, Pairs(*rows))
    found = {}
    kinds = {
        "sigmoid": PreferenceLoss("sigmoid", 0.3),
        "sigmoid_norm": PreferenceLoss("sigmoid", 0.3, length_normalised=True),
        "robust": PreferenceLoss("robust", 0.3, smoothing=0.2),
        "hinge": PreferenceLoss("hinge", 0.3),
        "ipo": PreferenceLoss("ipo", 0.3),
    }
    for name, how in kinds.items():
        trainer.loss_types, trainer.loss_weights = [name], [1.0]
        trainer.beta, trainer.label_smoothing = how.rate, how.smoothing
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        found[name] = float(theirs), ours(folder, how, rows)
    return found


def orpo(folder: Path) -> dict[str, tuple[float, float]]:
    """ORPOTrainer: the likelihood of prompt and chosen answer, and the odds ratio."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return _without_reference(
        folder, ORPOTrainer, ORPOConfig(beta=0.3, **_settings(folder)), PreferenceLoss("orpo", 0.3)
    )


def simpo(folder: Path) -> dict[str, tuple[float, float]]:
    """CPOTrainer with the SimPO loss, with and without label smoothing."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    found = {}
    for smoothing in (0.0, 0.2):
        how = PreferenceLoss("simpo", 2.0, gamma=0.7, smoothing=smoothing)
        args = CPOConfig(
            loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=0.7, label_smoothing=smoothing,
            **_settings(folder),
        )  # fmt: skip
        (pair,) = _without_reference(folder, CPOTrainer, args, how).values()
        found[f"simpo {smoothing}"] = pair
    return found


def kto(folder: Path) -> dict[str, tuple[float, float]]:
    """KTOTrainer: single answers and its baseline from mismatched ones."""
    from trl import KTOConfig, KTOTrainer

    policy, reference = models(folder)
    args = KTOConfig(beta=0.3, desirable_weight=1.0, undesirable_weight=1.5, **_settings(folder))
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=args,
        train_dataset=thumbs(),
        processing_class=tokenizer(),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    told = lambda prefix: [
        batch[prefix + k].numpy() for k in ("input_ids", "attention_mask", "completion_mask")
    ]
    rows = Thumbs(tokens(*told("")), tokens(*told("KL_")), batch["label"].numpy().astype(bool))
    rows = with_references(folder, rows)
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    return {
        "kto": (float(theirs), ours(folder, PreferenceLoss("kto", 0.3, up=1.0, down=1.5), rows))
    }


# ------------------------------------------------------------------------------------------------ what both get


def models(folder: Path):
    """The policy and the reference, as `transformers` loads what we saved."""
    import transformers

    made = []
    for seed, name in enumerate(("policy", "reference")):
        ids = np.zeros((1, 2), np.int32)
        params = random_like(LM.backbone.init, jax.random.key(0), ids, seed=seed)["params"]
        params = jax.tree.map(lambda x: x * 0.4, params)
        hub.save(folder / name, CFG, params)
        load = transformers.AutoModelForCausalLM.from_pretrained
        made.append(load(folder / name, dtype="float32", attn_implementation="eager"))
    return made


def weights(folder: Path, name: str):
    """Our tree of one of the two folders."""
    return {"backbone": hub.load(folder / name)[1]}


def with_references(folder: Path, rows):
    """The rows with the log-probabilities of the reference, by the code that training uses."""
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor")
    )
    return with_reference(LM, weights(folder, "reference"), rows, folder / "reference_p", mesh, 4)


def ours(folder: Path, how: PreferenceLoss, rows) -> float:
    """Our objective's value on these rows."""
    objective = prefer(LM, how)
    keys = example_keys(jax.random.key(0), len(jax.tree.leaves(rows)[0]))
    value = jax.jit(
        lambda p, rows: objective.loss(p, {}, None, rows, objective.weigh(rows), keys)[0]
    )
    return float(value(weights(folder, "policy"), rows))


def tokens(ids: np.ndarray, mask: np.ndarray, said: np.ndarray) -> Tokens:
    """Rows as TRL's collators pad them."""
    return Tokens(ids.astype(np.int32), mask.astype(bool), said.astype(np.float32))


def tokenizer():
    """A word of two letters a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, VOCAB))]
    rust = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{k}_token": f"<{k}>" for k in ("pad", "bos", "eos", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=rust, **special)


def _words(rng: np.random.Generator, low: int, high: int) -> str:
    return " ".join(f"w{i}" for i in rng.integers(4, VOCAB, rng.integers(low, high)))


def pairs(count: int = 4):
    """Prompts with two answers of unequal length."""
    from datasets import Dataset

    rng = np.random.default_rng(0)
    row = lambda: {
        "prompt": _words(rng, 3, 6) + " ",
        "chosen": _words(rng, 2, 9),
        "rejected": _words(rng, 2, 9),
    }
    return Dataset.from_list([row() for _ in range(count)])


def thumbs(count: int = 4):
    """Prompts with one answer, every third one disliked."""
    from datasets import Dataset

    rng = np.random.default_rng(1)
    return Dataset.from_list(
        [
            {"prompt": _words(rng, 3, 6) + " ", "completion": _words(rng, 2, 9), "label": i % 3 > 0}
            for i in range(count)
        ]
    )


def _settings(folder: Path) -> dict:
    return {
        "output_dir": str(folder / "trl"), "per_device_train_batch_size": 4, "max_length": 32, "report_to": [],
        "use_cpu": True, "bf16": False, "dataloader_pin_memory": False,
        "disable_tqdm": True, "seed": 0,
    }  # fmt: skip


def _without_reference(
    folder: Path, trainer, args, how: PreferenceLoss
) -> dict[str, tuple[float, float]]:
    policy, _ = models(folder)
    made = trainer(model=policy, args=args, train_dataset=pairs(), processing_class=tokenizer())
    batch = next(iter(made.get_train_dataloader()))
    theirs, _ = made.get_batch_loss_metrics(made.model, batch)
    sides = []
    length = max(batch[f"{side}_input_ids"].shape[1] for side in ("chosen", "rejected"))
    for side in ("chosen", "rejected"):
        ids, mask, labels = (
            batch[f"{side}_{k}"].numpy() for k in ("input_ids", "attention_mask", "labels")
        )
        wide = lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1])))
        sides.append(tokens(wide(ids), wide(mask), wide((labels != -100).astype(int))))
    return {how.kind: (float(theirs), ours(folder, how, Pairs(*sides)))}
