"""`InferencePipeline`: a model and the prompting strategies, one question or many, and how good the answers are."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxrec.config import by_path
from jaxrec.data.message import Message
from jaxrec.dialogue.prompts import (
    BudgetConfig,
    Example,
    ExamplePool,
    Prompt,
    PromptError,
    Prompting,
    answer_of,
    find_role,
    read_roles,
    word_vectors,
)
from jaxrec.dialogue.prompts.examples import Embed
from jaxrec.dialogue.prompts.roles import ROLES
from jaxrec.files import read_json_lines
from jaxrec.support.models import PEFTModel
from jaxrec.support.settings import Config
from jaxrec.text_metrics import rouge

Metric = Callable[[str, str], float]  # (answer, reference) -> a number


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer and how it came about. steps: what the model thought before it; seconds: of prompt and text."""

    text: str
    steps: str
    prompt: Prompt
    seconds: float


class InferencePipeline:
    """Answers questions by a strategy: zero_shot, few_shot, cot, role_context or combined.

    model: of `support.models`. config: of the specification; the model's where not given. A role that a strategy
    has not asked for is not used, and an example is shown by the strategies that show examples.
    """

    def __init__(self, model: PEFTModel, config: Config | None = None):
        self.model, self.config = model, config or model.config
        cfg = self.config.prompt
        self.roles = read_roles(cfg.roles) if cfg.roles else ROLES
        self.role = find_role(cfg.role, self.roles)
        self.examples = ExamplePool(embedding(cfg.embed))

    def add_few_shot_example(self, question: str, answer: str) -> None:
        """Takes up an example to choose from."""
        self.examples.add(Example(question, answer))

    def read_few_shot_examples(self, path: str | Path) -> int:
        """Takes up those of a .jsonl of {"question", "answer"} and gives their number; others are refused."""
        try:
            rows = read_json_lines(path)
            found = [Example(row["question"], row["answer"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PromptError(
                f"{path}: examples are rows of question and answer ({error})"
            ) from None
        self.examples.add(*found)
        return len(found)

    def set_role(self, name: str) -> None:
        """The role of the strategies role_context and combined. Raises PromptError, with the nearest, for no role."""
        self.role = find_role(name, self.roles)

    def prompting(self) -> Prompting:
        """How questions become prompts now."""
        cfg, completion = self.config.prompt, self.model.completion
        return Prompting(
            completion.chat,
            cfg.tenant,
            self.role,
            self.examples,
            cfg.examples,
            1.0 - cfg.diversity,
            BudgetConfig(min(cfg.tokens, completion.room)),
        )

    def generate_response(
        self,
        query: str,
        strategy: str = "zero_shot",
        user_context: Mapping[str, object] | None = None,
        *,
        passages: Sequence[str] = (),
        history: Sequence[Message] = (),
    ) -> str:
        """What the customer reads: of an answer that was thought step by step the last line alone.

        Args:
          query: the question.
          strategy: of the five.
          user_context: what is known of the customer, by name; for role_context and combined.
          passages: texts to answer from, the best first.
          history: the conversation before it, as (role, text).

        Raises PromptError for a strategy, context or question that no prompt can be made of.
        """
        return self.respond([query], strategy, user_context, passages=passages, history=history)[
            0
        ].text

    def generate_batch(
        self,
        queries: Sequence[str],
        strategy: str = "zero_shot",
        user_context: Mapping[str, object] | None = None,
    ) -> list[str]:
        """An answer to each question, `config.training.rows` at a time; the same ones as asked one by one.

        queries, strategy, user_context: as of `generate_response`.
        """
        return [one.text for one in self.respond(queries, strategy, user_context)]

    def respond(
        self,
        queries: Sequence[str],
        strategy: str = "zero_shot",
        user_context: Mapping[str, object] | None = None,
        *,
        passages: Sequence[str] = (),
        history: Sequence[Message] = (),
    ) -> list[Response]:
        """`generate_response` of several questions, with prompts, steps and seconds (of the whole batch, shared out).

        queries, strategy, user_context, passages, history: as of `generate_response`.
        """
        began, how = time.perf_counter(), self.prompting()
        prompts = [
            how.prompt(query, strategy, passages=passages, history=history, context=user_context)
            for query in queries
        ]
        texts = self.model.generate(prompts)
        each = (time.perf_counter() - began) / max(len(texts), 1)
        thought = strategy in ("cot", "combined")
        said = [answer_of(text) if thought else (text.strip(), "") for text in texts]
        return [
            Response(text, steps, prompt, each)
            for (text, steps), prompt in zip(said, prompts, strict=True)
        ]

    def evaluate(
        self,
        queries: Sequence[str],
        references: Sequence[str],
        strategy: str = "zero_shot",
        *,
        user_context: Mapping[str, object] | None = None,
        metrics: Sequence[str | Metric] = ("rouge1", "rougeL", "similarity"),
    ) -> dict[str, float]:
        """The mean of each measure over all questions, with seconds and prompt tokens a question beside.

        Args:
          queries: questions.
          references: the right answer to each.
          strategy, user_context: as of `generate_response`.
          metrics: "rouge1", "rouge2", "rougeL" (F1), "similarity" (cosine, by `config.prompt.embed`), a callable of
            (answer, reference), or one by its path ("my.module:fn").

        Raises PromptError without questions, or with another number of references.
        """
        if not queries or len(queries) != len(references):
            raise PromptError(
                f"{len(queries)} questions and {len(references)} references: one each, one at least"
            )
        made = self.respond(queries, strategy, user_context)
        answers = [one.text for one in made]
        found = {_name(one): self._measure(one, answers, references) for one in metrics}
        found["seconds"] = float(np.mean([one.seconds for one in made]))
        found["prompt_tokens"] = float(np.mean([one.prompt.tokens for one in made]))
        return found

    def _measure(
        self, metric: str | Metric, answers: Sequence[str], references: Sequence[str]
    ) -> float:
        pairs = list(zip(answers, references, strict=True))
        if metric == "similarity":
            a_ND, b_ND = (
                _unit(self.examples.embed(list(texts))) for texts in (answers, references)
            )
            return float(np.mean(np.sum(a_ND * b_ND, axis=1)))
        if isinstance(metric, str) and metric.startswith("rouge"):
            return float(np.mean([rouge(a, b, (metric,))[metric].f1 for a, b in pairs]))
        measure = by_path(metric) if isinstance(metric, str) else metric
        return float(np.mean([measure(a, b) for a, b in pairs]))


def embedding(name: str) -> Embed:
    """How texts are compared: "words" by their words alone, "minilm" or another encoder by its name or folder."""
    if name == "words":
        return word_vectors
    from jaxrec.models.text.sentence import SentenceEncoder

    return SentenceEncoder.load(None if name == "minilm" else name)


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-9)


def _name(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
