"""Floor 3: what the machine itself says, in English and Russian. `{...}` are filled in; a language has all or none."""

from collections.abc import Mapping

from jaxrec.config import RunError

LANGUAGES = ("en", "ru")
_PHRASES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "greet": "Hello! Tell me what you are looking for, or ask about an order.",
        "close": "You are welcome. Until next time!",
        "again": "I did not get that. Could you say it in other words?",
        "which": "Do you mean {options}?",
        "or": " or ",
        "which shop": "Where shall I look: {options}?",
        "which item": "Which of them: {options}?",
        "refuse": "I can't help with that. Is there something else that you need?",
        "no list": "There is no list yet. What are you looking for?",
        "without": "Without {items}.",
        "at most": "At most {price}.",
        "at least": "From {price} on.",
        "avoid": "Nothing with {words}.",
        "liked": "Noted that you like {items}.",
        "others": "Some others.",
        "none left": "Nothing is left that fits: {limits}. Shall I drop one of these wishes?",
        "list": "How about these?",
        "not said": "I would rather not answer that without looking it up.",
        "escalate": "I would rather have a colleague answer this. I have passed your question on.",
        "nothing found": "I find nothing about that in what {business} has written down. Shall I ask a colleague?",
        "quoted": "I am not sure of an answer of my own. This is what {business} has written down: {text}",
    },
    "ru": {
        "greet": "Здравствуйте! Скажите, что вы ищете, или спросите о заказе.",
        "close": "Пожалуйста. До встречи!",
        "again": "Я не понял. Скажите, пожалуйста, другими словами.",
        "which": "Вы имеете в виду {options}?",
        "or": " или ",
        "which shop": "Где искать: {options}?",
        "which item": "Какой из них: {options}?",
        "refuse": "С этим я помочь не могу. Нужно что-то ещё?",
        "no list": "Списка ещё нет. Что вы ищете?",
        "without": "Без {items}.",
        "at most": "Не дороже {price}.",
        "at least": "От {price}.",
        "avoid": "Исключаю: {words}.",
        "liked": "Запомнил, что вам нравится {items}.",
        "others": "Вот другие.",
        "none left": "Ничего подходящего не осталось: {limits}. Убрать одно из условий?",
        "list": "Как вам эти?",
        "not said": "Лучше я не буду отвечать на это наугад.",
        "escalate": "Пусть лучше ответит мой коллега. Я передал ему ваш вопрос.",
        "nothing found": "В материалах {business} об этом ничего нет. Спросить коллегу?",
        "quoted": "В своём ответе я не уверен. Вот что написано у {business}: {text}",
    },
}


def phrase(name: str, language: str, **filled: str) -> str:
    """A sentence by its name; in English for a language that has none. Raises RunError for no such name."""
    told = _PHRASES.get(language, _PHRASES["en"])
    if name not in told:
        raise RunError(f"there is no sentence {name!r}: only {', '.join(told)}")
    return told[name].format(**filled)


def listed(names: list[str], language: str) -> str:
    """Names as "a, b or c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])}{phrase('or', language)}{names[-1]}"
