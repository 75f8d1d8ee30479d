"""Floor 3: the course of a conversation: (state, message) -> (state, action), without a model, a clock or a store.

    talk = Talk()
    state, action = hear(talk, DialogueState("c1"), "something sweet for breakfast, under 5")
    action.kind, action.shop, action.query, action.wishes.most       # recommend, food, ..., 5.0
    state = said(state, "...", shown=[...])                           # what was answered, and with which list
    state, action = hear(talk, state, "cheaper, and without nuts")    # the next list obeys, whatever makes it

    message -> neutralise -> moderate -> language -> read (shop, goal, slots) and wishes -> tie or slot missing? ask
            -> otherwise act: recommend, answer, explain

What the machine itself says is a template in the conversation's language; everything else is an action for others.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from jaxrec.dialogue.hostile import neutralise
from jaxrec.dialogue.language import Detect, kept_language, script_of
from jaxrec.dialogue.memory import MemoryConfig, Summarise, said
from jaxrec.dialogue.phrases import listed, phrase
from jaxrec.dialogue.shops import Reading, Shops, order_number, read_message, read_shops
from jaxrec.dialogue.state import DialogueState, Shown, Wishes
from jaxrec.dialogue.wishes import Change, beside_wishes, pointed, read_wishes
from jaxrec.words import words

Kind = str  # "ask", "recommend", "answer", "explain", "refuse", "greet", "close"
KINDS = ("ask", "recommend", "answer", "explain", "refuse", "greet", "close")
_GREETING = re.compile(
    r"^\W*(?:hi|hello|hey|good\s+(?:morning|evening|afternoon|day)|привет|здравствуй(?:те)?|добр(?:ый|ое|ого)\s+\w+)\W*(?:there)?\W*$",
    re.IGNORECASE,
)
_FAREWELL = re.compile(
    r"^\W*(?:(?:no[,.]?\s+)?(?:thanks?|thank\s+you|cheers|bye|goodbye|that'?s\s+all|спасибо|благодарю|пока"
    r"|до\s+свидания|это\s+вс[её])"
    r"(?:\s+(?:a\s+lot|very\s+much|so\s+much|большое|bye|that'?s\s+all|it|пока))*[\s,.!]*)+$",
    re.IGNORECASE,
)
_AFRESH = re.compile(
    r"\b(?:start\s+(?:over|again|afresh)|forget\s+(?:it|that|my\s+wishes)|clear\s+(?:all|everything)|reset|начн[её]м\s+сначала|сначала|сбрось)\b",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"^\W*(?:show\s+(?:me\s+)?more|more|again|go\s+on|next|ещё|еще|дальше|покажи\s+ещё|покажи\s+еще)\W*$",
    re.IGNORECASE,
)
_LEANS = re.compile(
    r"\b(?:it|that|this|they|them|those|one|он|она|оно|они|это|его|её|их|там)\b", re.IGNORECASE
)
_NOTHING = re.compile(
    r"^\W*(?:any|anything|whatever|don'?t\s+care|doesn'?t\s+matter|no\s+idea|любой|любая|всё\s+равно|все\s+равно|неважно|не\s+знаю)\W*$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Action:
    """What is to be done about a message.

    kind: "ask", "refuse", "greet" and "close" are answered by `text` as it stands; "recommend" wants a list for `query`
    in `shop` ("" is any) that obeys `wishes`; "answer" wants an answer to `query`; "explain" says why `item` (an id)
    was shown. text: for the last three a sentence to begin with, or "". slot, options: what was asked back about, and
    what can be chosen. language: of the answer. notes: what was guessed, a line each.
    """

    kind: Kind
    text: str = ""
    query: str = ""
    shop: str = ""
    goal: str = ""
    slot: str = ""
    options: tuple[str, ...] = ()
    wishes: Wishes = Wishes()
    item: str = ""
    language: str = "en"
    slots: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Talk:
    """What the machine goes by.

    shops: what can be talked about. read: a message to what it is about; None counts the shops' words. refuses: what is
    wrong with a message, "" where nothing is (`moderation.Moderator` is one). detect: tells a language. memory,
    summarise: how much of a conversation is kept, and how it is shortened. margin: two readings whose weights differ by
    less are a tie.
    """

    shops: Shops = dataclasses.field(default_factory=read_shops)
    read: Callable[[str], Reading] | None = None
    refuses: Callable[[str], str] | None = None
    detect: Detect = script_of
    memory: MemoryConfig = MemoryConfig()
    summarise: Summarise | None = None
    margin: float = 0.5


def hear(talk: Talk, state: DialogueState, message: str | bytes) -> tuple[DialogueState, Action]:
    """The state after a message of the user's, and what is to be done about it."""
    neutral = neutralise(message, "turn")
    text = neutral.text
    state = said(state, text, "user", config=talk.memory, summarise=talk.summarise)
    state = state.change(language=kept_language(state.language, text, talk.detect))
    language = state.language or "en"
    notes = (f"the message was cleaned: {neutral.note}",) if neutral.note else ()
    reply = lambda kind, name: Action(kind, phrase(name, language), language=language, notes=notes)
    if not words(text) and not read_wishes(text, state.shown).is_any:
        return state, reply("ask", "again")
    if talk.refuses is not None and (why := talk.refuses(text)):
        return state, dataclasses.replace(reply("refuse", "refuse"), notes=(*notes, why))
    if _GREETING.match(text):
        return state, reply("greet", "greet")
    if _FAREWELL.match(text):
        return state, reply("close", "close")
    if _AFRESH.search(text):
        text = _AFRESH.sub(" ", text).strip(" ,.;!") or "find"
        state = state.change(
            shop="",
            goal="find",
            slots={},
            wishes=Wishes(),
            asked="",
            options=(),
            query="",
            shown=(),
        )
    state, action = _Course(talk, state, text, language).action()
    return state, dataclasses.replace(
        action, language=language, slots=dict(state.slots), notes=(*notes, *action.notes)
    )


@dataclasses.dataclass
class _Course:
    """One message on its way; `state` is replaced as it goes."""

    talk: Talk
    state: DialogueState
    text: str
    language: str
    picked: bool = False  # the message chose one of the options that the machine gave
    before: str = (
        ""  # the request that a question of the machine's was about, where the message answers that
    )

    def action(self) -> tuple[DialogueState, Action]:
        talk, text = self.talk, self.text
        reading = (talk.read or (lambda one: read_message(one, talk.shops)))(text)
        change = read_wishes(text, self.state.shown)
        if _MORE.match(text) and self.state.shown:
            change = dataclasses.replace(
                change, others=True, without=tuple(one.item for one in self.state.shown)
            )
        asked = self.state.asked
        if asked:
            reading = self._answered(asked, reading, change)
            text = self.text
        self.state = self.state.change(
            wishes=change.on(self.state.wishes),
            slots={**self.state.slots, **reading.slots},
            asked="",
            options=(),
        )
        if change.unpriced:  # "cheaper", and no price is known to go by
            return self._ask("price")
        goal = self._goal(reading, change)
        if len(goal) > 1:
            names = [self.talk.shops.goal(one).about for one in goal[:2]]
            self.state = self.state.change(query=text)
            return self._choose("goal", goal[:2], names, "which")
        if not goal:
            return self.state, self._answer(text)
        self.state = self.state.change(goal=goal[0])
        return getattr(self, f"_{goal[0]}", self._other)(reading, change)

    # -------------------------------------------------------------------- what they want

    def _answered(self, asked: str, reading: Reading, change: Change) -> Reading:
        """The reading, with what answers the last question filled in; another topic leaves the question."""
        text, options = self.text, self.state.options
        if options:
            chosen = [o for o in options if o in words(text) or self._named(asked, o)]
            if (
                not chosen
                and (place := re.search(r"\b([1-9])\b", text))
                and int(place[1]) <= len(options)
            ):
                chosen = [options[int(place[1]) - 1]]
            if len(chosen) == 1:
                self.text, self.picked = self.state.query or text, True
                told = {chosen[0]: 99.0}
                return dataclasses.replace(
                    reading, **{"shops" if asked == "shop" else "goals": told}
                )
            return reading
        if asked == "order":
            number = reading.slots.get("order") or order_number(text)
            if (
                not number
                and (reading.goals or reading.shops)
                and self.state.goal not in reading.goals
            ):
                return reading  # another topic
            self.before = self._request()
            return _with_slot(reading, "order", number, self.state.goal)
        if asked == "price":
            if (found := re.search(r"\d+(?:[.,]\d{1,2})?", text)) and change.most is None:
                most = float(found[0].replace(",", "."))
                self.state = self.state.change(wishes=Change(most=most).on(self.state.wishes))
            self.picked = True
            return _with_slot(reading, "", "", self.state.goal)
        if asked in ("what", "reason") and not _NOTHING.match(text):
            # somebody who is asked what they look for and asks about an order instead has changed the topic
            if asked == "what" and reading.goals and "find" not in reading.goals:
                return reading
            self.before = self._request()
            return _with_slot(reading, asked, text, self.state.goal)
        return _with_slot(reading, "", "", self.state.goal)

    def _request(self) -> str:
        """The user's message before this one."""
        return next((t.text for t in reversed(self.state.turns[:-1]) if t.role == "user"), "")

    def _named(self, asked: str, option: str) -> bool:
        """Whether the text names an option as people call it."""
        if asked == "shop":
            names = self.talk.shops.shop(option).names.values()
        else:
            names = [self.talk.shops.goal(option).about.split()[0]]
        said = words(self.text)
        return any(one.startswith(name[:4]) for name in names for one in said)

    def _goal(self, reading: Reading, change: Change) -> list[str]:
        """What they want; two names where it can't be told which."""
        ranked = list(reading.goals.items())
        if "explain" in reading.goals and self.state.shown and reading.goals["explain"] >= 2:
            return ["explain"]
        if (
            change.is_any
            and self.state.shown
            and not (ranked and ranked[0][0] in ("status", "return"))
        ):
            return ["find"]
        if ranked and ranked[0][0] == "explain" and len(ranked) > 1:
            ranked = ranked[1:]
        if not ranked:
            # a thing of one of the shops, or a wish: something is sought
            if change.is_any:
                return ["find"]
            if reading.shops and not self.text.rstrip().endswith("?"):
                return ["find"]
            return []
        if len(ranked) > 1 and ranked[0][1] - ranked[1][1] < self.talk.margin:
            tied = [name for name, weight in ranked if ranked[0][1] - weight < self.talk.margin]
            if "find" in tied:  # "I want to return it": the other one says more
                tied.remove("find")
            return [self.state.goal] if self.state.goal in tied else tied  # the topic goes on
        return [ranked[0][0]]

    # -------------------------------------------------------------------- what is done

    def _find(self, reading: Reading, change: Change) -> tuple[DialogueState, Action]:
        state = self.state
        # A wish about the last list alone leaves what is sought; anything else is what is sought now.
        refines = (
            bool(state.shown) and change.is_any and not _own_topic(self.text, self.state.shown)
        )
        query = state.query if refines else self._query(reading)
        shop = state.shop
        if not refines and reading.shops:
            ranked = list(reading.shops.items())
            if len(ranked) > 1 and ranked[0][1] - ranked[1][1] < self.talk.margin:
                tied = [name for name, weight in ranked if ranked[0][1] - weight < self.talk.margin]
                self.state = state.change(query=query)
                names = [self.talk.shops.shop(one).names.get(self.language, one) for one in tied]
                return self._choose("shop", tied, names, "which shop")
            shop = ranked[0][0]
        if not query and not change.is_any:
            self.state = state.change(shop=shop)
            return self._ask("what")
        slots = {**state.slots, "what": query} if query else state.slots
        self.state = state.change(query=query, shop=shop, slots=slots)
        return self.state, Action(
            "recommend",
            self._lead(change),
            query,
            shop,
            "find",
            wishes=self.state.wishes,
            notes=change.notes,
        )

    def _explain(self, reading: Reading, change: Change) -> tuple[DialogueState, Action]:
        if not self.state.shown:
            return self.state, Action("ask", phrase("no list", self.language), slot="what")
        named = pointed(self.text, self.state.shown)
        item = (named or self.state.shown)[0]
        notes = () if named or len(self.state.shown) == 1 else (f"read as the first, {item.title}",)
        return self.state, Action(
            "explain", "", self.text, self.state.shop, "explain", item=item.item, notes=notes
        )

    def _other(self, reading: Reading, change: Change) -> tuple[DialogueState, Action]:
        """A goal that is an answer, once its slots are there."""
        for name in self.talk.shops.goal(self.state.goal).needs:
            if not self.state.slots.get(name):
                return self._ask(name)
        return self.state, self._answer(self.text, self.before)

    def _ask(self, slot: str) -> tuple[DialogueState, Action]:
        ask = self.talk.shops.slot(slot).ask
        text = ask.get(self.language) or ask.get("en") or phrase("again", self.language)
        return self.state.change(asked=slot), Action("ask", text, goal=self.state.goal, slot=slot)

    def _choose(
        self, slot: str, options: list[str], names: list[str], question: str
    ) -> tuple[DialogueState, Action]:
        text = phrase(question, self.language, options=listed(names, self.language))
        state = self.state.change(asked=slot, options=tuple(options))
        return state, Action("ask", text, slot=slot, options=tuple(options))

    def _answer(self, text: str, before: str = "") -> Action:
        """A question to be answered; one that leans on what was said before brings that along."""
        state = self.state
        if not before and (len(words(text)) < 3 or _LEANS.search(text)):
            earlier = (turn.text for turn in reversed(state.turns[:-1]) if turn.role == "user")
            before = state.query or next(earlier, "")
        query = text if before in text else f"{before[:300]} {text}"
        return Action("answer", "", query, state.shop, state.goal)

    def _query(self, reading: Reading) -> str:
        """What is sought, in their words: the message, unless it has no word of its own."""
        if self.picked:
            return self.state.query
        if "what" in reading.slots:
            return reading.slots["what"]
        return self.text if _own_topic(self.text, self.state.shown) else self.state.query

    def _lead(self, change: Change) -> str:
        """A sentence for each wish that this message brought."""
        titles = {one.item: one.title for one in self.state.shown}
        out = [titles[i] for i in (*change.without, *change.disliked) if i in titles]
        told = []
        if change.others:
            told.append(phrase("others", self.language))
        elif out:
            told.append(phrase("without", self.language, items=", ".join(dict.fromkeys(out))))
        if change.most is not None:
            told.append(phrase("at most", self.language, price=f"{change.most:g}"))
        if change.least is not None:
            told.append(phrase("at least", self.language, price=f"{change.least:g}"))
        if change.avoid:
            told.append(phrase("avoid", self.language, words=", ".join(change.avoid)))
        if liked := [titles[i] for i in change.liked if i in titles]:
            told.append(phrase("liked", self.language, items=", ".join(liked)))
        return " ".join(told)


_EMPTY = set(
    "the an im me my we our you your it its is are was be do does did can could would will please some something "
    "anything show give find want need looking look for to of in on at and or with have has get buy recommend suggest "
    "recommendation recommendations order choose pick help thanks thank hi hello hey ok okay yes no more less one ones "
    "there than any all new what which how about so too also just only now today then let us fine mind maybe instead "
    "pounds pound quid dollars dollar euros euro rubles roubles рублей рубля руб р "
    "я мне меня мной мы нам вы вам ты тебя бы ли что чтото нибудь то какойнибудь пожалуйста найди найти ищу хочу нужен "
    "нужно нужна покажи посоветуй порекомендуй купить подбери помоги привет да нет и или на с у для из можно есть "
    "будет а но же".split()
)


def _own_topic(text: str, shown: Sequence[Shown]) -> bool:
    """Whether a message says what is sought, beside verbs of seeking and wishes about the list."""
    return any(word not in _EMPTY and len(word) > 1 for word in beside_wishes(text, shown))


def _with_slot(reading: Reading, slot: str, value: str, goal: str) -> Reading:
    slots = {**reading.slots, slot: value} if slot and value else reading.slots
    return dataclasses.replace(reading, slots=slots, goals={goal: 99.0} if goal else reading.goals)
