"""Floor 3: what language models are asked.

prompting    a question with role, context, passages, examples and history, as messages within a budget of tokens
templates    the wordings, each under a name with a number that never changes its meaning
roles        support, technician, sales, and those of a file of one's own
examples     few-shot examples by similarity and diversity
budget       what goes when there is no room, and in which order
items        what is asked about one item of a catalogue (explanations), as plain strings
generation   how texts are sampled
"""

from jaxrec.dialogue.prompts.budget import ORDER, BudgetConfig, Dropped
from jaxrec.dialogue.prompts.examples import Example, ExamplePool, word_vectors
from jaxrec.dialogue.prompts.generation import RATED_GENERATION, Generation, PromptError
from jaxrec.dialogue.prompts.prompting import (
    STRATEGIES,
    Prompt,
    Prompting,
    Strategy,
    answer_of,
    in_steps,
    parts_of,
)
from jaxrec.dialogue.prompts.roles import ROLES, Role, find_role, read_roles
from jaxrec.dialogue.prompts.templates import TEMPLATES

__all__ = [
    "ORDER",
    "RATED_GENERATION",
    "ROLES",
    "STRATEGIES",
    "TEMPLATES",
    "BudgetConfig",
    "Dropped",
    "Example",
    "ExamplePool",
    "Generation",
    "Prompt",
    "PromptError",
    "Prompting",
    "Role",
    "Strategy",
    "answer_of",
    "find_role",
    "in_steps",
    "parts_of",
    "read_roles",
    "word_vectors",
]
