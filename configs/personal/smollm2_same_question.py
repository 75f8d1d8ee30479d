"""Three questions to the unseen businesses of smollm2_personalize, after a page that the conversation's words find.

python -m eval.same_question configs/personal/smollm2_same_question.py
"""

from jaxrec.dialogue.pages import PagesConfig
from jaxrec.eval.same_question import SameQuestionConfig

config = SameQuestionConfig(
    profile="runs/smollm2/personalize/profile",
    pages=PagesConfig("retrieved", length=180),
    question=256,
    quantise="bf16",
    out="runs/smollm2/voices",
)
