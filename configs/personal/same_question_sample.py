"""Three questions to the two hand-written unseen businesses of the sample world and to four generated ones.

    python -m eval.same_question configs/personal/same_question_sample.py

Some 20 seconds on two cores, once `jaxrec.train.personalize configs/personal/personalize_sample.py` has run.
"""

from jaxrec.eval.same_question import SameQuestionConfig

config = SameQuestionConfig(profile="runs/sample/personalize/profile", out="results/same_question")
