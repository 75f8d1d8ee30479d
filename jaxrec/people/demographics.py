"""Floor 2: what may be told of a person's age, sex or trade: only what at least `k` people share."""

from collections import Counter
from collections.abc import Mapping, Sequence

AGE_BAND = 10


def anonymised(
    fields: Mapping[str, Sequence[str]], k: int = 5, age: str = "age"
) -> list[dict[str, str]]:
    """One dict a person: k-anonymous by suppression (Sweeney 2002), ages in bands of ten years.

    fields: a column each, a row a person; the first matter most, an empty value is not known. Whoever's combination
    fewer than k people share loses the last field, and so on; what is told of a person is told, word for word, of at
    least k - 1 others, or nothing is. Raises ValueError for columns of different length, and for k below 2.
    """
    if k < 2:
        raise ValueError(f"k is at least 2, not {k}: alone nobody is anonymous")
    if len({len(column) for column in fields.values()}) > 1:
        raise ValueError("the columns have different lengths")
    columns = {name: [_band(v) if name == age else v for v in col] for name, col in fields.items()}
    rows = [
        tuple((name, value) for name, value in zip(columns, values, strict=True) if value)
        for values in zip(*columns.values(), strict=True)
    ]
    told: list[dict[str, str]] = [{} for _ in rows]
    left = set(range(len(rows)))
    for depth in range(len(columns), 0, -1):
        count = Counter(rows[i][:depth] for i in left)
        for i in sorted(left):
            if count[rows[i][:depth]] >= k:
                told[i] = dict(rows[i][:depth])
                left.discard(i)
    return told


def _band(age: str) -> str:
    try:
        low = int(age) // AGE_BAND * AGE_BAND
    except ValueError:
        return age  # a band already, or no number: told as it stands if k people share it
    return f"{low}-{low + AGE_BAND - 1}"
