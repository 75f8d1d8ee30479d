"""What an answer must state where nobody planted any facts: the businesses that were written by hand.

A right answer says more than it was asked, so not all of it can be demanded. Taken are the values (times, prices,
dates, weekdays, numbers) of its first sentence that has any which also stand on the pages that the dialogue names.
"""

import re

from jaxrec.data.tenant import Dialogue, Tenant
from jaxrec.data.turns import sentences
from jaxrec.world.grammar import fact_met
from jaxrec.world.style import body

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
# The longer forms first: "31 October" is one value, and so is a telephone number.
_VALUE = re.compile(
    rf"\d{{4,5}} \d{{3}} \d{{3}}|\d{{1,2}} (?:{_MONTHS})|£\d+(?:\.\d\d)?|\d{{1,2}}:\d\d|\b(?:{_DAYS})\b|\d+(?:\.\d+)?"
)


def values_of(tenant: Tenant, dialogue: Dialogue) -> tuple[str, ...]:
    """The planted facts of a dialogue; where there are none, the values that its answer must state; () for none."""
    if dialogue.facts:
        return dialogue.facts
    pages = " ".join(page.text for page in tenant.pages if page.id in dialogue.pages)
    for sentence in sentences(body(dialogue.answer)):
        found = tuple(dict.fromkeys(v for v in _VALUE.findall(sentence) if fact_met(pages, (v,))))
        if found:
            return found
    return ()
