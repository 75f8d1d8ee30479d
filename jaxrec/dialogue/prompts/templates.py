"""The wordings that prompts are put together of, each under a name with a number.

A name never changes its meaning: another wording gets another number, and the old one stays, so that a model that was
tuned or measured on one is asked by it ever after (a test holds the hash of each). A template is a plain text with
{fields}; who speaks and which special tokens stand between is the chat format's business.
"""

import difflib
import re
from collections.abc import Mapping

from jaxrec.dialogue.prompts.generation import PromptError

TEMPLATES: Mapping[str, str] = {
    # Whom the model speaks for. {name} may be a shop or a person.
    "tenant/1": "You write for {name}.",
    # How the tenant wants to sound, in its own words.
    "guide/1": "Write as this guide says: {guide}",
    # Tenant and page as personal models are trained with them (`dialogue.pages.system_text`).
    "page/1": "You write for {name}. Answer from this page: {pages}",
    # What is known of whoever asks; {facts} are lines "- name: value".
    "context/1": "What is known of the customer:\n{facts}",
    # What was said before the turns that follow; {lines} are lines "- ...".
    "memory/1": "Said earlier in this conversation:\n{lines}",
    # Retrieved passages; {passages} are lines "[1] ...".
    "passages/1": (
        "Answer from these passages and name the ones that you use by their numbers, as [1]. What they do not say you"
        " do not know, and you say so.\n{passages}"
    ),
    # In front of examples, which follow as turns of their own.
    "examples/1": "The first {count} exchanges are examples of how you answer; they are not part of the conversation.",
    # Chain of thought (Wei et al. 2022), its steps told apart from what the customer reads.
    "steps/1": (
        "Think before you answer. Write down, each in a line of its own: what is asked; what you know about it;"
        ' what has to be done, step by step. Then write a last line that begins with "Answer:" and holds only what the'
        " customer should read."
    ),
    # The parts of a question that asks several things; {parts} are numbered lines.
    "parts/1": "The question has {count} parts. Think about each, and answer all of them:\n{parts}",
    # Least-to-most prompting (Zhou et al. 2023), its first half: what has to be known first.
    "decompose/1": (
        "Split the customer's question into the smaller questions that have to be answered first: {most} at most, the"
        " easiest first, one a line, numbered. Answer none of them."
    ),
    # Its second half: what was found out stands in front of what is asked next.
    "solved/1": "These smaller questions are answered already:\n{solved}",
}
_FIELD = re.compile(r"\{(\w+)\}")


def fill(name: str, /, **fields: object) -> str:
    """A template with its fields filled in. Braces in a field stay as they are.

    name: of `TEMPLATES`. fields: exactly those that the template has. Raises PromptError for a template that is not
    there, with the nearest, and for a field that is missing or that it does not have.
    """
    if name not in TEMPLATES:
        close = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(TEMPLATES)}"
        raise PromptError(f"no template is called {name!r}; {hint}")
    wanted = set(_FIELD.findall(TEMPLATES[name]))
    if wanted != set(fields):
        raise PromptError(
            f"template {name} has the fields {', '.join(sorted(wanted)) or '(none)'}, not"
            f" {', '.join(sorted(fields)) or '(none)'}"
        )
    return _FIELD.sub(lambda found: str(fields[found[1]]), TEMPLATES[name])
