"""`DataLoader`: texts or token ids to rows; `TrainingPipeline`: those rows to a trained change of a `PEFTModel`."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import mesh, objectives
from jaxrec.config import RunError
from jaxrec.data.instructions import encode_instructions, read_instructions
from jaxrec.data.permutation import Permutation
from jaxrec.data.source import ArraySource
from jaxrec.data.text import pad
from jaxrec.hub.weights import find
from jaxrec.losses.tokens import token_sums
from jaxrec.models.language.model_folder import chat_of
from jaxrec.models.language.tuned_lm import TunedLM
from jaxrec.structs import Tokens
from jaxrec.support.models import PEFTModel
from jaxrec.support.settings import Config
from jaxrec.training import gradients, partition, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig

_NOT_LEARNED = -100  # as PyTorch's losses and Hugging Face's collators mark it


class DataError(RunError, ValueError):
    """Rows that nothing can be learned from."""


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """What `create_dataloader` gives: token rows of one length; iterated, batches of `rows` of them in order."""

    tokens: Tokens
    rows: int

    def __len__(self) -> int:
        return -(-len(self.tokens.ids_BL) // self.rows)

    def __iter__(self) -> Iterator[Tokens]:
        for start in range(0, len(self.tokens.ids_BL), self.rows):
            yield jax.tree.map(lambda x, at=start: x[at : at + self.rows], self.tokens)


class DataLoader:
    """Rows for a `TrainingPipeline`. config: of the specification."""

    def __init__(self, config: Config | None = None):
        self.config = config or Config()

    def create_dataloader(
        self, input_ids: Any, attention_mask: Any, labels: Any = None
    ) -> TokenRows:
        """Token rows of ids that somebody else made.

        Args:
          input_ids: [B, L] integers: lists, numpy, or a tensor on the CPU.
          attention_mask: [B, L]: 1 where there is a token.
          labels: [B, L]: -100 where nothing is learned; by default every token but the first is.

        Raises DataError for other shapes, and for rows of which nothing is learned.
        """
        ids_BL, mask_BL = (
            _integers("input_ids", input_ids),
            _integers("attention_mask", attention_mask),
        )
        wanted_BL = ids_BL if labels is None else _integers("labels", labels)
        if ids_BL.shape != mask_BL.shape or ids_BL.shape != wanted_BL.shape:
            raise DataError(
                f"input_ids {ids_BL.shape}, attention_mask {mask_BL.shape} and labels {wanted_BL.shape} differ in shape"
            )
        if not np.isin(mask_BL, (0, 1)).all() or ids_BL.min(initial=0) < 0:
            raise DataError("attention_mask holds 0 and 1, and input_ids no number below 0")
        other_BL = (wanted_BL != ids_BL) & (wanted_BL != _NOT_LEARNED) & (mask_BL > 0)
        if other_BL.any():
            raise DataError(
                "labels are input_ids, or -100 where nothing is learned: they are shifted here, not before"
            )
        mask_BL = mask_BL.astype(bool)
        told_BL = mask_BL & (wanted_BL != _NOT_LEARNED)
        told_BL[:, 0] = False  # nothing stands before it
        if not told_BL.any():
            raise DataError("there is no token to learn: all are masked, or labelled -100")
        tokens = Tokens(ids_BL.astype(np.int32), mask_BL, told_BL.astype(np.float32))
        return TokenRows(tokens, self.config.training.rows)

    def load(self, *files: str | Path) -> tuple[TokenRows, TokenRows, TokenRows]:
        """(training, validation, test) rows of chats, written as the model's own template writes them.

        files: .jsonl of {"prompt", "completion"} or {"messages": [...]}. What is left out of them is printed. Raises
        DataError for too few rows to hold any out, and what the readers raise.
        """
        cfg = self.config.data
        chat = chat_of(find(self.config.model.name))
        chats = tuning.read_all(map(str, files), read_instructions)
        examples, skipped = encode_instructions(chat, chats, cfg.length, learn=cfg.learn)
        tuning.say("chats", skipped)
        count = len(examples)
        held, test = (math.ceil(part * count) for part in (cfg.validation, cfg.test))
        if count - held - test < 1 or not held:
            raise DataError(f"{count} chats are too few to train on some and measure on others")
        order = Permutation(count, cfg.seed)(np.arange(count))
        cuts = np.split(order, [count - held - test, count - test])
        width = max(len(one.ids) for one in examples)
        return tuple(
            TokenRows(
                Tokens(**pad([examples[i] for i in cut], width, chat.pad_id)),
                self.config.training.rows,
            )
            for cut in cuts
        )  # type: ignore[return-value]


class TrainingPipeline:
    """Fine-tunes a `PEFTModel` on token rows; checkpoints, logs and the best of the run lie in `config.training.out`.

    model: whose change is trained in place: afterwards it answers with what was learned. config: the model's where not
    given.
    """

    def __init__(self, model: PEFTModel, config: Config | None = None):
        self.model, self.config = model, config or model.config

    def train(self, train: TokenRows, val: TokenRows | None = None) -> dict[str, float]:
        """Trains, or goes on where the same run was stopped; gives nats a token and perplexity before and after.

        train: rows to learn from. val: rows to measure on while it learns; the best is kept, and it ends early when
        they get worse. Without them the training loss is looked at. Raises DataError for ids that the model does not
        have.
        """
        cfg, model, devices = self.config.training, self.model, self.model.devices
        tuned = model.tuned
        for rows in (train, val):
            if rows is not None and (top := int(rows.tokens.ids_BL.max())) >= tuned.cfg.vocab:
                raise DataError(
                    f"token {top} is none of the model's {tuned.cfg.vocab:,}: another tokenizer's ids?"
                )
        rule = "delta" if "delta" in tuned.tree else "backbone/.*"
        trained, frozen = tuning.parts(tuned.tree, rule)
        size = len(train.tokens.ids_BL)
        steps = cfg.steps or max(1, math.ceil(cfg.epochs * size / cfg.rows))
        told = _measure(tuned.lm, val, cfg.rows) if val is not None else None
        before = told(partition.merge(trained, frozen)) if told else {}
        share = mesh.process_rows(devices, cfg.rows)
        source = ArraySource(train.tokens, cfg.rows, seed=self.config.data.seed, share=share)
        fitted = tuning.tune(
            objectives.sft(TunedLM(tuned.model, lora_dropout=model.dropout)),
            trained,
            source,
            opt=OptConfig(
                lr=cfg.lr, warmup=min(cfg.warmup, steps // 4), weight_decay=cfg.weight_decay
            ),
            config=LoopConfig(
                steps=steps,
                eval_every=min(cfg.evaluate_every, steps),
                save_every=cfg.save_every,
                monitor="held_nll" if told else "train/loss",
                patience=cfg.patience if told else 0,
                seed=self.config.model.seed,
                progress=cfg.progress,
            ),
            mesh=devices,
            rows=cfg.rows,
            out=cfg.out,
            frozen=frozen,
            gradients=gradients.summed(cfg.accumulate),
            evaluate=(lambda params, _: told(partition.merge(params, frozen))) if told else None,
            resolved=self.config,
            title="support",
        )
        best = tuning.best_of(cfg.out, fitted.state.params)
        model.tuned = dataclasses.replace(tuned, tree=partition.merge(best, frozen))
        after = told(model.tuned.tree) if told else {}
        return {
            **{f"{name}_before": value for name, value in before.items()},
            **after,
            "steps": float(steps),
            "best_step": float(fitted.best or steps),
        }


def _measure(lm: TunedLM, val: TokenRows, rows: int) -> Callable[[Any], dict[str, float]]:
    """told(tree) -> nats a learned token and perplexity over all held-out rows."""
    short = -len(val.tokens.ids_BL) % rows
    # Rows of zeros fill the last batch: nothing of them counts, and there is one program.
    whole = jax.tree.map(lambda x: np.pad(x, ((0, short), (0, 0))), val.tokens)

    @jax.jit
    def sums(tree: Any, batch: Tokens):
        return token_sums(*lm.log_probs(tree, batch), batch.loss_BL)

    def told(tree: Any) -> dict[str, float]:
        nll = count = 0.0
        for batch in TokenRows(whole, rows):
            found = sums(tree, batch)
            nll, count = nll + float(found["nll"]), count + float(found["tokens"])
        return {"held_nll": nll / count, "perplexity": math.exp(nll / count)}

    return told


def _integers(name: str, values: Any) -> np.ndarray:
    """[B, L] integers of a list, an array or a tensor."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name} is no array of rows of one length: {error}") from None
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iub":
        raise DataError(
            f"{name} is [rows, tokens] of whole numbers, not {array.dtype} {array.shape}"
        )
    return array.astype(np.int64)
