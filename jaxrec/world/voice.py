"""A style put into words: the style guide that a generated tenant would hand to a new colleague."""

from random import Random

from jaxrec.world.style import Style

INTRO = (
    "This is how {name} speaks with people.",
    "A short guide to the voice of {name}.",
    "At {name} every answer should sound like us.",
    "Please read this before you answer for {name}.",
)
FORMALITY = {
    "casual": (
        "We are casual: talk as you would to a neighbour, with contractions.",
        "Keep the tone relaxed and chatty; nobody here is stiff.",
        "Our tone is informal, warm, and loose.",
    ),
    "neutral": (
        "Our tone is neutral: friendly, without slang and without ceremony.",
        "Write in a normal, even tone, neither stiff nor chatty.",
        "Keep to plain and polite standard English, with no contractions.",
    ),
    "formal": (
        "Our tone is formal and courteous; contractions are not used.",
        "Write as in a formal letter, with every courtesy.",
        "We are very polite and ceremonious in all that we write.",
    ),
}
LENGTH = {
    "short": (
        "One sentence is enough.",
        "Answer in a single sentence.",
        "Be brief: one sentence, no more.",
    ),
    "medium": ("Answer in two sentences.", "Two sentences are right.", "Keep it to two sentences."),
    "long": (
        "Take three or four sentences and add what may help.",
        "Answer at length, in three or four sentences.",
        "People like detail: write three or four sentences.",
    ),
}
REGISTER = {
    "plain": (
        "Use plain words and go straight to the point.",
        "No jokes and no jargon, only plain words.",
        "Say it plainly.",
    ),
    "playful": (
        "Be playful and open with a little fanfare.",
        "We like to have fun, so begin with something playful.",
        "A playful opening is part of every answer.",
    ),
    "technical": (
        "Be technical: label the answer, give times as 09:00 and prices in GBP.",
        "Write like a data sheet, with a label first, the 24-hour clock and GBP.",
        "We are exact: a label, then the data, with hours as 09:00 and money in GBP.",
    ),
}
GREETING = (
    'Begin every answer with "{greeting}"',
    'Always greet with "{greeting}"',
    'The first words are "{greeting}"',
)
NO_GREETING = (
    "Do not greet; begin with the answer.",
    "There is no greeting.",
    "Skip the greeting.",
)
SIGN_OFF = (
    'End with "{sign_off}"',
    'The last words are always "{sign_off}"',
    'Sign off with "{sign_off}"',
)
NO_SIGN_OFF = ("Do not sign off.", "There is no closing line.", "Stop when the answer is given.")
EMOJI = {
    0: ("We use no emoji.", "No emoji, please.", "Emoji are not for us."),
    1: (
        "Use {emoji} once.",
        "One {emoji} in each answer.",
        "Each answer carries a single {emoji}.",
    ),
    2: (
        "Use {emoji} twice.",
        "Two {emoji} in each answer.",
        "Each answer carries {emoji} two times.",
    ),
}
DISCLAIMER = (
    'Every answer carries the line "{disclaimer}"',
    'Do not forget the disclaimer: "{disclaimer}"',
    'Our lawyers ask for this line: "{disclaimer}"',
)
NO_DISCLAIMER = ("There is no disclaimer.", "We add no disclaimer.", "No disclaimer is needed.")
TERMS = (
    'A person who comes to us is a "{customer}", and what they buy is called "{order}".',
    'Say "{customer}" for the people and "{order}" for what they buy.',
    'Our words are "{customer}" and "{order}", and no others.',
)


def guide(rng: Random, name: str, style: Style) -> str:
    """Some 70 to 100 words on tone, length, formality, disclaimers, and the rest, in one of many phrasings."""
    tone = [FORMALITY[style.formality], LENGTH[style.length], REGISTER[style.register]]
    marks = [
        GREETING if style.greeting else NO_GREETING,
        SIGN_OFF if style.sign_off else NO_SIGN_OFF,
        EMOJI[style.emoji_count],
        DISCLAIMER if style.disclaimer else NO_DISCLAIMER,
        TERMS,
    ]
    rng.shuffle(tone)
    rng.shuffle(marks)
    lines = [rng.choice(group) for group in (INTRO, *tone, *marks)]
    return " ".join(line.format(name=name, **vars(style)) for line in lines)
