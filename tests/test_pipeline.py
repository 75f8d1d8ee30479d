"""A message answered in S0's order: what each stage gives the next, what the policy does, what the reply can tell."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from passage_sets import HASHED, SHOP
from tiny_personal import random_like

from jaxrec.assistant.grounding import Grounding
from jaxrec.assistant.judging import PolicyJudge, by_rules, cited, figures, together, without_words
from jaxrec.assistant.pipeline import STAGES, Pipeline, graver
from jaxrec.calibration import Calibration, Rule
from jaxrec.config import RunError
from jaxrec.dialogue import moderation
from jaxrec.dialogue.decision import decide
from jaxrec.dialogue.prompts import BudgetConfig, Prompting
from jaxrec.dialogue.state import DialogueState
from jaxrec.models.personal.policy import PolicyHead, PolicyHeadConfig
from jaxrec.models.personal.policy_folder import PolicyModel
from jaxrec.models.text.text_vectors import Texts
from jaxrec.retrieval.passages.document import Document


class Said:
    """A completion that says what it is told to, and remembers its prompts."""

    name, chat, room = "said", None, 1000

    def __init__(self, *texts):
        self.texts, self.prompts = list(texts), []

    def __call__(self, prompts, seed=0):
        self.prompts += prompts
        return [self.texts.pop(0) for _ in prompts]

    def stream(self, prompt, seed=0):
        (text,) = self([prompt])
        for start in range(0, len(text), 7):
            yield text[start : start + 7]


@pytest.fixture(scope="module")
def grounding():
    return Grounding.of_documents("luna", [Document("shop.md", SHOP)], HASHED, count=2)


@pytest.fixture
def pipeline(grounding):
    def make(*texts, **more):
        never = ("splendid", "no problem")
        how = {
            "judge": by_rules(never),
            "edit": lambda question, answer, decision: without_words(answer, never),
            "grounding": grounding,
        }
        return Pipeline(
            Said(*texts), Prompting(tenant="Luna Coffee", budget=BudgetConfig(900)), **how | more
        )

    return make


START = DialogueState("c1")


def test_the_stages_come_in_order_and_are_timed(pipeline):
    one = pipeline("By sea, in ten days [1].")
    state, reply = one.reply(START, "How long do parcels to Norway take?")
    assert reply.text == "By sea, in ten days [1]." and reply.action == "pass"
    assert list(reply.seconds) == [*STAGES, "total"] and min(reply.seconds.values()) >= 0
    assert sum(reply.seconds[s] for s in STAGES) <= reply.seconds["total"]
    assert reply.cited == (0,) and "Norway" in reply.sources[0].text
    assert SHOP[reply.sources[0].start : reply.sources[0].end] == reply.sources[0].text
    assert f"[1] {reply.sources[0].place}: " in one.completion.prompts[0].messages[0][1]
    assert [turn.text for turn in state.turns] == [
        "How long do parcels to Norway take?",
        reply.text,
    ]
    assert DialogueState.from_json(state.to_json()) == state
    assert json.loads(json.dumps(reply.to_json()))["sources"][0]["document"] == "shop.md"


def test_a_follow_up_is_searched_for_with_its_topic(pipeline):
    one = pipeline("By sea [1].", "Ten days [1].")
    state, _ = one.reply(START, "Do you ship parcels to Norway?")
    state, reply = one.reply(state, "And how long does it take?")
    assert "Norway" in reply.sources[0].text and any("searched for" in note for note in reply.notes)
    assert [role for role, _ in reply.prompt.messages] == ["system", "user", "assistant", "user"]


def test_what_was_said_long_ago_is_in_the_prompt(pipeline):
    one = pipeline(*["Fine."] * 9, grounding=None, judge=None)
    state, _ = one.reply(START, "My order number is 7741 and I am called Ada.")
    for i in range(7):
        state, _ = one.reply(state, f"Something else about coffee, number {i}.")
    _, reply = one.reply(state, "What is my order number?")
    assert "7741" in reply.prompt.messages[0][1] and reply.reason == "nobody judged it"


@pytest.mark.parametrize(
    ("text", "action", "says", "why"),
    [
        ("Ten days. That is splendid!", "micro_edit", "Ten days.", "style: 1.000 > 0.500"),
        ("Splendid.", "escalate", "a colleague", "no micro-edit mends it"),
        (
            "It takes 12 days [1].",
            "safe_fallback",
            "Parcels to Norway go by sea and take ten days.",
            "grounding: 1.000",
        ),
        (
            "By sea [7].",
            "safe_fallback",
            "Parcels to Norway go by sea and take ten days.",
            "grounding",
        ),
        (" \n", "safe_fallback", "Parcels to Norway go by sea and take ten days.", "wrote nothing"),
        ("<|im_start|>system", "pass", "< |im_start|>system", "no label"),
    ],
)
def test_the_policy_decides(pipeline, text, action, says, why):
    asks, told = "How long do parcels to Norway take?", []
    _, reply = pipeline(text).reply(START, asks)
    assert reply.action == action and says in reply.text and why in reply.reason
    _, streamed = pipeline(text).reply(START, asks, told.append)
    assert (streamed.text, reply.written) == (reply.text, text)
    assert "".join(told).strip() == reply.text


def test_nothing_that_fails_is_ever_streamed(pipeline):
    told = []
    text = "By sea, by ship. It costs 99 euro today. That is all. Really."
    _, reply = pipeline(text).reply(START, "How long do parcels to Norway take?", told.append)
    assert told[0] == "By sea, by ship." and "99" not in "".join(told)
    assert reply.action == "safe_fallback" and "".join(told).endswith(f"\n{reply.text}")
    assert reply.seconds["first"] <= reply.seconds["total"]


def test_what_is_not_talked_about_is_refused_on_both_sides(pipeline):
    weapons = moderation.Rule("weapons", ("rifle",), "safe_fallback")
    harm = moderation.Rule("harm", ("hurt-myself",), "escalate")
    moderator = moderation.Moderator([weapons, harm])
    one = pipeline("We sell rifles too. Splendid.", moderator=moderator)
    _, reply = one.reply(START, "Do you ship a rifle to Norway?")
    assert (
        reply.action == "safe_fallback"
        and "list:weapons" in reply.reason
        and not one.completion.prompts
    )
    assert reply.text == "I can't help with that. Is there something else that you need?"
    told = []
    _, reply = one.reply(START, "What do you ship to Norway?", told.append)
    assert (
        reply.action == "safe_fallback"
        and "list:weapons" in reply.reason
        and "rifle" not in "".join(told)
    )
    _, reply = one.reply(START, "I want to hurt myself")
    assert reply.reason.startswith("escalate: list:harm")
    light, grave = decide({"style": 1.0}, {"style": 0.5}), decide({"abuse": 1.0}, {"abuse": 0.5})
    assert graver(light, grave) == graver(grave, light)
    assert (
        graver(light, grave).action == "safe_fallback" and len(graver(light, grave).findings) == 2
    )


def test_steps_are_thought_and_not_shown(pipeline):
    told = []
    one = pipeline("It goes by sea.\nAnswer: Ten days [1].", strategy="cot")
    _, reply = one.reply(START, "How long do parcels to Norway take?", told.append)
    assert reply.text == "".join(told) == "Ten days [1]." and reply.steps == "It goes by sea."


def test_what_no_document_knows_is_not_made_up(pipeline, grounding):
    strict = Grounding(grounding.index, 2, least=0.99)
    one = pipeline(grounding=strict)
    _, reply = one.reply(START, "Кто написал эту книгу?")
    assert reply.action == "safe_fallback" and not one.completion.prompts and reply.sources == ()
    assert reply.text.startswith("В материалах Luna Coffee")


@pytest.mark.parametrize("message", ["", " \n\u200b", b"\xff\xfe", "?!"])
def test_a_message_that_says_nothing_costs_no_model(pipeline, message):
    one = pipeline()
    state, reply = one.reply(START, message)
    assert "other words" in reply.text and not one.completion.prompts and state.count == 2


def test_an_error_leaves_the_conversation_as_it_was(pipeline):
    one = pipeline("x")
    small = dataclasses.replace(one, prompting=Prompting(budget=BudgetConfig(20)))
    with pytest.raises(RunError, match="the budget is 20"):
        small.reply(START, "How long do parcels to Norway take?")
    with pytest.raises(RunError, match="the budget is 900"):
        one.reply(START, "x " * 900_000)
    long = dataclasses.replace(one, prompting=Prompting(budget=BudgetConfig(9_000)))
    _, reply = long.reply(START, "x " * 900_000)
    assert any("length" in note for note in reply.notes)


def test_the_question_is_read_once(grounding):
    before = len(grounding._vectors)
    asks = "a question that nobody asked before"
    vector = grounding.encode(asks)
    grounding.retrieve(asks)
    assert len(grounding._vectors) == before + 1 and vector.shape == (256,)
    grounding.forget()
    assert not grounding._vectors


def test_rules():
    assert figures("1. Open 9:30 [2]\n2) from 12.50") == ["9:30", "12.50"]
    assert cited("[2] and [1], [2], [9]", 2) == (1, 0)
    assert (
        without_words("No problem! Open at 8. A splendid day.", ["no problem", "Splendid"])
        == "Open at 8."
    )
    judge = together(by_rules(["never"]), lambda *_: {"style": 0.4, "abuse": 0.2})
    assert judge("q", "fine", ["a"], "") == {"style": 0.4, "abuse": 0.2, "grounding": 0.0}
    assert by_rules()("costs 5?", "It costs 5.", ["nothing"], "") == {
        "style": 0.0,
        "grounding": 0.0,
    }
    assert "grounding" not in by_rules()("q", "It costs 5.", [], "")


@pytest.fixture(scope="module")
def head():
    """A policy head of random weights that reads question, answer and grounds; one tenant has rules of its own."""
    cfg = PolicyHeadConfig(
        labels=("style", "grounding"), d_z=8, width=8, p_enters=(), tokens=False, align=4
    )
    texts = read(["a", "b", "c"])
    at = lambda i: texts.at(jnp.array([i]))
    init = PolicyHead(cfg).init
    params = {"head": random_like(init, jax.random.key(0), at(0), at(1), at(2), None)["params"]}
    shared = tuple(Rule(2.0, 0.5, limit, False, 9) for limit in (0.4, 0.6))
    own = tuple(dataclasses.replace(rule, threshold=0.9, own=True) for rule in shared)
    rules = Calibration(cfg.labels, shared, {"luna": own})
    return PolicyModel(PolicyHead(cfg), None, params, (), rules)


def read(texts):
    """Z of texts by hash: [I, length of the longest, 8]."""
    rng = [np.random.default_rng(list(text.encode())) for text in texts]
    size = [1 + len(text) % 5 for text in texts]
    mask = np.arange(max(size)) < np.array(size)[:, None]
    z_seq = np.stack([one.normal(size=(max(size), 8)) for one in rng]) * mask[..., None]
    return Texts(z_seq.sum(1).astype(np.float32), z_seq.astype(np.float16), mask)


@pytest.mark.slow
def test_a_trained_head_judges_beside_the_rules(head, pipeline):
    judge = PolicyJudge(head, read, "luna", longest=6)
    assert judge.thresholds == {"style": 0.9, "grounding": 0.9}
    found = judge("When?", "At 8.", ["We open at 8.", "Yes."], "")
    texts = read(["When?", "At 8.", "We open at 8.\nYes."])
    at = lambda i: texts.at(jnp.array([i]))
    logits = head.head.apply({"params": head.params["head"]}, at(0), at(1), at(2), None)[0]
    for (label, score), logit in zip(found.items(), logits, strict=True):
        assert score == pytest.approx(1 / (1 + np.exp(-(logit - 0.5) / 2)), abs=1e-4), label
    assert (
        judge("When?", "At 8.", [], "") != found
        and judge("When?", "At 99.", ["We open at 8.", "Yes."], "") != found
    )
    strict = {"style": 0.0, "grounding": 0.999}
    one = pipeline("By sea [1].", judge=together(by_rules(), judge), thresholds=strict, edit=None)
    _, reply = one.reply(START, "How long do parcels to Norway take?")
    assert (
        reply.action == "escalate"
        and reply.reason.startswith("style: 0.")
        and "> 0.000" in reply.reason
    )


def test_a_head_that_cannot_judge_alone_is_refused(head):
    with pytest.raises(RunError, match="no calibration"):
        PolicyJudge(dataclasses.replace(head, calibration=None), read)
    by_p = PolicyHead(dataclasses.replace(head.head.cfg, p_enters=("add",)))
    with pytest.raises(RunError, match="variant no_p"):
        PolicyJudge(dataclasses.replace(head, head=by_p), read)
