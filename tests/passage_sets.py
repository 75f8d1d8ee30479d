"""Documents and an encoder without weights, which the tests of passages share."""

import zlib
from collections.abc import Sequence

import numpy as np

from jaxrec.retrieval.passages.document import Document
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.words import words

WIDTH = 256

SHOP = """# Luna Coffee

We roast on Tuesdays.

## Delivery

Orders leave on the day after roasting. Within the country a parcel takes two days.

### Abroad

Parcels to Norway go by sea and take ten days. Customs duties are yours to pay.

## Returns

Opened bags can't be sent back. An unopened one can, within fourteen days.

```sh
# this is code, not a heading
curl https://luna.example/returns
```
"""

RUSSIAN = """# Чайная «Полынь»

## Доставка

Заказы отправляем по средам. Посылки за границу идут десять дней.

## Возврат

Вскрытую пачку вернуть нельзя, невскрытую — в течение двух недель.
"""


def hashed(texts: Sequence[str]) -> np.ndarray:
    """A vector of each text's words by hash: texts that share words are alike."""
    out = np.full((len(texts), WIDTH), 1e-3, np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in words(text):
            row[zlib.crc32(word.encode()) % WIDTH] += 1
    return out


def hashed_tokens(texts: Sequence[str]) -> list[np.ndarray]:
    """A vector of each word, by its own hash."""
    return [hashed(words(text)) if words(text) else np.zeros((0, WIDTH)) for text in texts]


HASHED = TextEncoder("hashed", hashed)
LATE = TextEncoder("hashed", hashed, tokens=hashed_tokens)


def shop() -> list[Document]:
    """Two documents of a shop."""
    return [
        Document("shop.md", SHOP),
        Document("hours.txt", "Open from nine to five.", "Hours", "plain"),
    ]
