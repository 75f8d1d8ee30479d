"""DeepMF in torch: the specified network, tables under SparseAdam (or dense Adam, fused), batches of 1,024."""

import os

from bench.race import ratings
from bench.race.worker import Work


def prepare(optimizer: str = "sparse") -> dict[str, Work]:
    """`ratings.STEPS` training steps."""
    import torch
    from torch import nn

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    torch.manual_seed(0)
    sparse = optimizer == "sparse"
    people, items = (
        nn.Embedding(size, ratings.WIDTH, sparse=sparse) for size in (ratings.USERS, ratings.ITEMS)
    )
    nn.init.normal_(people.weight, 0, 0.01)
    nn.init.normal_(items.weight, 0, 0.01)
    decoder = nn.Sequential(
        nn.Linear(2 * ratings.WIDTH, 64), nn.ReLU(),
        nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 1), nn.Sigmoid(),
    )  # fmt: skip
    tables = [people.weight, items.weight]
    if sparse:
        steppers = [
            torch.optim.SparseAdam(tables, lr=1e-3),
            torch.optim.Adam(decoder.parameters(), lr=1e-3),
        ]
    else:
        every = [*tables, *decoder.parameters()]
        steppers = [torch.optim.Adam(every, lr=1e-3, fused=optimizer == "fused")]
    user_T, item_T, rating_T = (torch.from_numpy(x) for x in ratings.ratings())
    user_T, item_T = user_T.long(), item_T.long()
    at = 0

    def steps() -> None:
        nonlocal at
        for _ in range(ratings.STEPS):
            part = slice(at, at + ratings.BATCH)
            at = (at + ratings.BATCH) % (ratings.RATINGS - ratings.BATCH)
            pair = torch.cat([people(user_T[part]), items(item_T[part])], -1)
            told = decoder(pair)[:, 0] * 4 + 1
            ((told - rating_T[part]) ** 2).mean().backward()
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad()

    return {"work": Work(steps, None, {"torch": torch.__version__})}
