"""Texts with planted private words: templates, and numbers and names that fill them; all written for this.

Two groups of templates with names of their own: "tuning" is what the finders were made better by, "test" is what is
measured. A template says what stands where; decoys (order numbers, prices, dates) stand there too and are not private.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence

from jaxrec.privacy.documents import snils_is_valid
from jaxrec.privacy.spans import Span


@dataclasses.dataclass(frozen=True)
class Planted:
    """A text, what is private in it, and which template of which language and group it came from."""

    text: str
    spans: tuple[Span, ...]
    language: str
    group: str
    template: int


def planted(language: str, group: str, count: int, seed: int = 0) -> list[Planted]:
    """`count` texts from the templates of a language ("en", "ru") and group ("tuning", "test"), each as often."""
    draw = random.Random(f"{language} {group} {seed}")
    templates = TEMPLATES[language, group]
    return [_filled(language, group, i % len(templates), draw) for i in range(count)]


def _filled(language: str, group: str, template: int, draw: random.Random) -> Planted:
    made, spans, at = [], [], 0
    who = draw.choice(PEOPLE[language, group])
    for i, piece in enumerate(re.split(r"\{(\w+)\}", TEMPLATES[language, group][template])):
        if i % 2:
            kind, piece = _piece(piece, language, who, draw)
            if kind:
                spans.append(Span(at, at + len(piece), kind))
        made.append(piece)
        at += len(piece)
    return Planted("".join(made), tuple(spans), language, group, template)


def _piece(name: str, language: str, who: Sequence[str], draw: random.Random) -> tuple[str, str]:
    """(kind or "" for a decoy, the words)."""
    if name in FORMS[language]:
        return "NAME", FORMS[language][name](who)
    if name == "city":
        return "PLACE", draw.choice(CITIES[language])
    if name in DECOYS:
        return "", DECOYS[name](draw)
    kind, make = NUMBERS[name]
    return kind, make(draw)


# ---------------------------------------------------------------------------------------------- numbers


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def _card(draw: random.Random) -> str:
    body = draw.choice(["4", "51", "53", "55", "2200", "2202", "2204"])
    body += _digits(draw, 15 - len(body))
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(body)]
    whole = body + str(-sum(d - 9 * (d > 9) for d in doubled) % 10)
    return draw.choice(["", " ", "-"]).join(whole[i : i + 4] for i in range(0, 16, 4))


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=True))


def _inn_person(draw: random.Random) -> str:
    body = f"{draw.randint(1, 79):02d}" + _digits(draw, 8)
    body += str(_weighted(body, (7, 2, 4, 10, 3, 5, 9, 4, 6, 8)) % 11 % 10)
    return body + str(_weighted(body, (3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8)) % 11 % 10)


def _inn_firm(draw: random.Random) -> str:
    body = f"{draw.randint(1, 79):02d}" + _digits(draw, 7)
    return body + str(_weighted(body, (2, 4, 10, 3, 5, 9, 4, 6, 8)) % 11 % 10)


def _ogrn(draw: random.Random) -> str:
    body = f"{draw.choice('15')}{draw.randint(2, 25):02d}{draw.randint(1, 79):02d}" + _digits(
        draw, 7
    )
    return body + str(int(body) % 11 % 10)


def _ogrnip(draw: random.Random) -> str:
    body = f"3{draw.randint(4, 25):02d}{draw.randint(1, 79):02d}" + _digits(draw, 9)
    return body + str(int(body) % 13 % 10)


def _snils(draw: random.Random) -> str:
    while True:
        body = f"{draw.randint(2, 199):03d}" + _digits(draw, 6)
        whole = next(f"{body}{i:02d}" for i in range(100) if snils_is_valid(f"{body}{i:02d}"))
        parts = whole[:3], whole[3:6], whole[6:9], whole[9:]
        return draw.choice(["{}-{}-{} {}", "{} {} {} {}", "{}{}{}{}", "{}-{}-{}-{}"]).format(*parts)


def _passport(draw: random.Random) -> str:
    series = f"{draw.randint(1, 79):02d}", f"{draw.randint(0, 24):02d}"
    return draw.choice(["{} {} {}", "{}{} {}", "{}{} № {}", "{}{}{}"]).format(
        *series, _digits(draw, 6)
    )


def _phone_ru(draw: random.Random) -> str:
    code = draw.choice(
        ["903", "905", "912", "916", "921", "926", "950", "961", "977", "985", "495", "812"]
    )
    rest = draw.randint(200, 999), draw.randint(10, 99), draw.randint(10, 99)
    form = [
        "+7 {} {}-{}-{}",
        "8 ({}) {}-{}-{}",
        "8{}{}{}{}",
        "+7{}{}{}{}",
        "8-{}-{}-{}-{}",
        "8 {} {} {} {}",
    ]
    return draw.choice(form).format(code, *rest)


def _phone_en(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return draw.choice(["+44 20 7946 {:04d}", "020 7946 {:04d}", "+44 7700 90{:04d}"]).format(
            draw.randint(0, 999)
        )
    code = draw.choice(["212", "312", "415", "503", "617", "702", "206", "305"])
    form = ["({}) {}-{:04d}", "{}-{}-{:04d}", "+1 {} {} {:04d}", "{}.{}.{:04d}", "+1-{}-{}-{:04d}"]
    return draw.choice(form).format(code, draw.randint(220, 989), draw.randint(0, 9999))


def _email(draw: random.Random) -> str:
    name = draw.choice(
        ["k.morozov", "ann_lee", "j-carter", "olga1987", "support.me", "nnk", "v.pavlova+shop"]
    )
    host = draw.choice(
        ["mail.example.com", "post.example.org", "pochta.ru", "firm.co.uk", "box.example.net"]
    )
    return f"{name}{draw.randint(1, 99)}@{host}"


def _iban(draw: random.Random) -> str:
    body = _digits(draw, 18)
    check = 98 - int(body + "131400") % 97  # D is 13, E is 14
    whole = f"DE{check:02d}{body}"
    return whole if draw.random() < 0.5 else " ".join(whole[i : i + 4] for i in range(0, 22, 4))


def _ssn(draw: random.Random) -> str:
    return f"{draw.randint(101, 665):03d}-{draw.randint(10, 99)}-{draw.randint(1000, 9899)}"


def _address_en(draw: random.Random) -> str:
    street = draw.choice(
        ["Maple", "Oak Hill", "Station", "Queen Anne", "Harbour", "Elm", "St. John's"]
    )
    kind = draw.choice(["Street", "St", "Avenue", "Rd", "Lane", "Drive", "Close"])
    unit = draw.choice(["", ", Apt 4B", ", Flat 2", " #12"])
    end = draw.choice(["", ", Portland, OR 97205", ", Leeds LS1 4DY", ", Boston"])
    return f"{draw.randint(2, 980)} {street} {kind}{unit}{end}"


def _address_ru(draw: random.Random) -> str:
    street = draw.choice(
        ["Ленина", "Баумана", "Садовая", "Мира", "Лесная", "Карла Маркса", "8 Марта"]
    )
    form = draw.choice(
        ["ул. {s}, д. {n}, кв. {m}", "улица {s}, {n}", "пр-т {s}, дом {n}, квартира {m}", "г. {c}, ул. {s}, {n}-{m}",
         "пер. {s}, д. {n}/2", "{i}, г. {c}, ул. {s}, д. {n}, корп. 2, кв. {m}"]
    )  # fmt: skip
    return form.format(
        s=street, n=draw.randint(1, 140), m=draw.randint(1, 300), c=draw.choice(CITIES["ru"]), i=f"6{_digits(draw, 5)}"
    )  # fmt: skip


Make = Callable[[random.Random], str]
NUMBERS: Mapping[str, tuple[str, Make]] = {
    "card": ("CARD", _card),
    "inn": ("INN", _inn_person),
    "inn_firm": ("INN", _inn_firm),
    "ogrn": ("OGRN", _ogrn),
    "ogrnip": ("OGRN", _ogrnip),
    "snils": ("SNILS", _snils),
    "passport": ("PASSPORT", _passport),
    "phone_ru": ("PHONE", _phone_ru),
    "phone_en": ("PHONE", _phone_en),
    "email": ("EMAIL", _email),
    "iban": ("ACCOUNT", _iban),
    "account": ("ACCOUNT", lambda draw: "40817810" + _digits(draw, 12)),
    "ssn": ("SSN", _ssn),
    "ip": ("IP", lambda draw: f"{draw.randint(11, 99)}.{draw.randint(0, 255)}.14.{draw.randint(1, 254)}"),
    "address_en": ("ADDRESS", _address_en),
    "address_ru": ("ADDRESS", _address_ru),
}  # fmt: skip
DECOYS: Mapping[str, Make] = {
    "order": lambda draw: draw.choice(["#{}", "{}", "A-{}", "{}-02"]).format(_digits(draw, 7)),
    "date": lambda draw: f"{draw.randint(1, 28):02d}.{draw.randint(1, 12):02d}.2026",
    "price": lambda draw: draw.choice(["{}.99", "{} 500", "{},90"]).format(draw.randint(1, 90)),
    "sku": lambda draw: f"SKU-{_digits(draw, 5)}-{draw.choice('ABX')}",
    "count": lambda draw: str(draw.randint(2, 40)),
}

# ---------------------------------------------------------------------------------------------- people

PEOPLE = {
    ("en", "tuning"): [
        ("John", "Carter"), ("Maria", "Lopez"), ("Priya", "Nair"), ("Tom", "O'Neill"), ("Wei", "Zhang"),
        ("Emma", "Wright"), ("Ahmed", "Hassan"), ("Grace", "Okafor"), ("Lukas", "Meyer"), ("Sofia", "Rossi"),
    ],
    ("en", "test"): [
        ("Daniel", "Brooks"), ("Hannah", "Fischer"), ("Arjun", "Mehta"), ("Chloe", "Dubois"), ("Samuel", "Adeyemi"),
        ("Laura", "McKenzie"), ("Kenji", "Tanaka"), ("Olivia", "Bennett"), ("Omar", "Farouk"), ("Ingrid", "Larsen"),
        ("Peter", "Novak"), ("Rosa", "Delgado"),
    ],
    # nominative, genitive, dative, instrumental
    ("ru", "tuning"): [
        ("Анна Смирнова", "Анны Смирновой", "Анне Смирновой", "Анной Смирновой"),
        ("Иван Петров", "Ивана Петрова", "Ивану Петрову", "Иваном Петровым"),
        ("Ольга Кузнецова", "Ольги Кузнецовой", "Ольге Кузнецовой", "Ольгой Кузнецовой"),
        ("Тимур Галиев", "Тимура Галиева", "Тимуру Галиеву", "Тимуром Галиевым"),
        ("Сергей Волков", "Сергея Волкова", "Сергею Волкову", "Сергеем Волковым"),
        ("Марина Ким", "Марины Ким", "Марине Ким", "Мариной Ким"),
    ],
    ("ru", "test"): [
        ("Екатерина Орлова", "Екатерины Орловой", "Екатерине Орловой", "Екатериной Орловой"),
        ("Дмитрий Соколов", "Дмитрия Соколова", "Дмитрию Соколову", "Дмитрием Соколовым"),
        ("Алсу Хабибуллина", "Алсу Хабибуллиной", "Алсу Хабибуллиной", "Алсу Хабибуллиной"),
        ("Павел Гончаренко", "Павла Гончаренко", "Павлу Гончаренко", "Павлом Гончаренко"),
        ("Наталья Белова", "Натальи Беловой", "Наталье Беловой", "Натальей Беловой"),
        ("Артём Захаров", "Артёма Захарова", "Артёму Захарову", "Артёмом Захаровым"),
        ("Вера Цой", "Веры Цой", "Вере Цой", "Верой Цой"),
        (
            "Михаил Юрьевич Лебедев", "Михаила Юрьевича Лебедева",
            "Михаилу Юрьевичу Лебедеву", "Михаилом Юрьевичем Лебедевым",
        ),
    ],
}  # fmt: skip
Form = Callable[[Sequence[str]], str]
FORMS: Mapping[str, Mapping[str, Form]] = {
    "en": {
        "name": lambda who: " ".join(who),
        "first": lambda who: who[0],
        "last": lambda who: who[1],
        "lower": lambda who: " ".join(who).lower(),
    },
    "ru": {
        "name": lambda who: who[0],
        "gen": lambda who: who[1],
        "dat": lambda who: who[2],
        "ins": lambda who: who[3],
        "first": lambda who: who[0].split()[0],
        "lower": lambda who: who[0].lower(),
    },
}
CITIES = {
    "en": ["London", "Chicago", "Leeds", "Dublin", "Boston", "Sydney"],
    "ru": ["Казань", "Самара", "Томск", "Пермь", "Тула", "Омск"],
}

TEMPLATES = {
    ("en", "tuning"): [
        "Hi, this is {name}. My order {order} has not arrived, please call me on {phone_en}.",
        "I was charged {price} twice on card {card}. {name}",
        "my name is {lower} and i can't log in, my email is {email}",
        "Please send the replacement for {sku} to {address_en}. The recipient is {name}.",
        "The account belongs to {name}, SSN {ssn}. We moved from {city} on {date}.",
        "Could you refund {price} to IBAN {iban}? It was paid by my husband, {name}.",
        "I talked to {first} from your team yesterday about {count} chairs, order {order}.",
        "Dear Ms {last}, thank you for your letter of {date}. Your new address is {address_en}.",
        "Somebody logged in from {ip}, and it wasn't me. Reach me at {email} or {phone_en}.",
        "Do you deliver {sku} on {date}? It costs {price} and I need {count} of them.",
    ],
    ("en", "test"): [
        "Hello, {name} here. The parcel {order} was left with my neighbour, ring {phone_en} before you come.",
        "Can you remove the card {card} from my profile? I only use PayPal now. Thanks, {first}",
        "my full name is {lower}, the invoice should go to {email} please",
        "I'd like {count} of {sku} delivered to {address_en} before {date}.",
        "We spoke with {name} in your {city} shop, who promised a refund of {price}.",
        "For the tax form: {name}, social security number {ssn}, living at {address_en}.",
        "Transfer the deposit of {price} to my account {iban}, the holder is {name}.",
        "My sister {first} ordered from {ip} by mistake; her number is {phone_en} and her mail {email}.",
        "Mr {last} asked whether order {order} can be changed to {count} pieces.",
        "Is {sku} in stock in {city}? The site says {price} until {date}.",
        "Payment with {card} failed twice, so {name} paid with {card} instead.",
    ],
    ("ru", "tuning"): [
        "Здравствуйте, меня зовут {name}, заказ {order} не пришёл. Позвоните по номеру {phone_ru}.",
        "Паспорт {passport}, СНИЛС {snils}. Договор оформлен на {gen}.",
        "Мой ИНН {inn}, почта {email}. С карты {card} дважды списали {price} руб.",
        "Доставьте {sku} по адресу: {address_ru}. Получатель: {name}.",
        "ООО «Ромашка», ИНН {inn_firm}, ОГРН {ogrn}, р/с {account}.",
        "Передайте {dat}, что посылка будет {date}, тел. {phone_ru}",
        "Я разговаривал с {ins} из вашего магазина, город {city}, про {count} стульев.",
        "добрый день, меня зовут {lower}, не могу войти, пишите на {email}",
        "ИП, ОГРНИП {ogrnip}. Возврат {price} на карту {card}.",
        "Есть ли {sku} в наличии? Нужно {count} штук к {date}, на сайте {price}.",
    ],
    ("ru", "test"): [
        "Добрый день! Это {name}. Курьер не дозвонился, мой телефон {phone_ru}, заказ {order}.",
        "Для пропуска: {name}, серия и номер паспорта {passport}.",
        "Номер СНИЛС: {snils}, ИНН: {inn}. Чек пришлите на {email}.",
        "Живу по адресу {address_ru}, привезите {count} коробки {date}.",
        "Реквизиты: ИНН {inn_firm}, ОГРН {ogrn}, счёт {account}. Директор {name}.",
        "Верните {price} рублей на карту {card}, владелец {name}.",
        "Заказ {order} забирал муж, {first}, его номер {phone_ru}.",
        "Прошу перевыпустить договор на имя {gen}, паспорт {passport}, адрес: {address_ru}.",
        "Менеджер обещал {dat} скидку на {sku}, мы из города {city}.",
        "мое имя {lower}, карта {card} не проходит",
        "Предприниматель {name}, ОГРНИП {ogrnip}, тел. {phone_ru}.",
        "Сколько стоит доставка {sku} в {date}? В корзине {count} товаров на {price} руб.",
    ],
}
