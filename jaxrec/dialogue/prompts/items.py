"""Floor 3: what a language model is asked about an item, and the answers that it learns from. Plain strings.

    query/1    for somebody who asks: their query, the item, its category and rating (GenRec, phase 4)
    rating/1   for training and PPO: a persona, the item, the rating (GenRec, phase 6), word for word
    rating/2   rating/1 with the item's attributes in a line of their own. An answer that should name attributes which
               its prompt does not tell teaches a model to invent them

A prompt ends with "Response:", and an answer begins with a space. The name of a template never changes its meaning:
another wording gets another number.
"""

import math
from collections.abc import Sequence
from typing import Literal

from jaxrec.dialogue.prompts.generation import PromptError

Template = Literal["query/1", "rating/1", "rating/2"]
TEMPLATES: tuple[Template, ...] = ("query/1", "rating/1", "rating/2")
TASK = "Generate a one-sentence recommendation explaining why this item matches the user's needs."
LONGEST = 700  # characters of one field
LIKED, FITTING = 4.5, 3.5  # ratings from which the first and the second answer are given


def query_prompt(query: str, title: str, metadata: str) -> str:
    """query/1. metadata: the category and the rating, or whatever is known of the item ("" leaves the line out).

    Raises PromptError without a query or a title.
    """
    lines = [
        "Instruction: You are a recommendation assistant.",
        f"User: {_needed('query', query)}",
        f"Item: {_needed('title', title)}",
    ]
    if told := one_line(metadata):
        lines.append(f"Metadata: {told}")
    return "\n".join([*lines, f"Task: {TASK}", "", "Response:"])


def metadata(category: str, features: Sequence[str], rating: float | None) -> str:
    """query/1's line about the item: its kind, its attributes and its mean rating, as far as they are known."""
    rated = [] if rating is None else [f"rated {_checked(rating):.1f}"]
    return ", ".join(part for part in [category, *features, *rated] if part)


def rating_prompt(
    persona: str,
    title: str,
    category: str,
    rating: float | None,
    features: Sequence[str] = (),
    template: Template = "rating/2",
) -> str:
    """rating/1 or rating/2. A rating that is not known leaves its line out, and so do no features.

    persona: the person's group in words. title, category: of the item ("" leaves the category out). rating: from 0 to
    5. features: the item's attributes, which rating/2 alone has. template: which of the two.

    Raises PromptError without a persona or a title, for a rating that is no number from 0 to 5, for another template.
    """
    if template not in ("rating/1", "rating/2"):
        raise PromptError(f"no rating-aware template is called {template!r}: rating/1, rating/2")
    kind = one_line(category)
    lines = [
        "Instruction: Generate a personalized recommendation.",
        f"User: {_needed('persona', persona)}",
        f"Item: {_needed('title', title)}" + (f" ({kind})" if kind else ""),
    ]
    if features and template == "rating/2":
        lines.append(f"Metadata: {one_line(', '.join(features))}")
    if rating is not None:
        lines.append(f"Rating: {_checked(rating):g}/5")
    return "\n".join([*lines, "", "Response:"])


def rating_response(
    rating: float | None, keywords: Sequence[str], category: str, features: Sequence[str]
) -> str:
    """The answer to a rating-aware prompt: one of three, by the rating (phase 6); begins with a space.

    rating: from 0 to 5. keywords: what the person is interested in. category: of the item ("" says "item"). features:
    its attributes. Something taken without a rating counts as what fits. Raises PromptError
    for a rating that is no number from 0 to 5, and for a favourite without keywords or features.
    """
    kind = one_line(category) or "item"
    if rating is None or FITTING <= _checked(rating) < LIKED:
        return f" Based on your history, this item aligns well with your typical {kind} purchases."
    if rating < FITTING:
        return f" This might not meet your usual expectations for {kind}."
    if not keywords or not features:
        raise PromptError("the answer to a favourite names interests and features: there are none")
    return (
        " Perfect match for your preferences! Based on your interest in "
        f"{one_line(join_words(keywords))}, this {kind} offers {one_line(join_words(features))}."
    )


def template_reason(
    title: str, interests: Sequence[str], category: str, features: Sequence[str]
) -> str:
    """The reason that needs no model, in the words of GenRec's data flow; it tells nothing but what it was given.

    title: of the item. interests: of the person, those that the item meets. category: of the item, "" unknown.
    features: its attributes. Of interests and features the first three are named.
    """
    reason = f"You might enjoy {_needed('title', title)}"
    if interests:
        reason += f" because it matches your interest in {one_line(join_words(interests[:3]))}"
    kind, told = one_line(category), one_line(join_words(features[:3]))
    offer = " with ".join(part for part in (kind and f"a choice of {kind}", told) if part)
    return f"{reason}: {offer}." if offer else f"{reason}."


def join_words(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def one_line(text: str) -> str:
    """A field as a template takes it: no line breaks (they would read as another field), not longer than LONGEST."""
    told = " ".join(text.split())
    return told if len(told) <= LONGEST else told[:LONGEST].rsplit(" ", 1)[0]


def _needed(name: str, text: str) -> str:
    told = one_line(text)
    if not told:
        raise PromptError(f"a prompt needs a {name}, and this one is empty")
    return told


def _checked(rating: float) -> float:
    if not (math.isfinite(rating) and 0 <= rating <= 5):
        raise PromptError(f"a rating lies from 0 to 5, not {rating}")
    return rating
