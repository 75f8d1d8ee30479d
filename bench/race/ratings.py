"""What the DeepMF contenders train on: a million ratings, both sides Zipf-distributed. Needs numpy alone."""

import numpy as np

USERS, ITEMS, RATINGS, BATCH, WIDTH, STEPS = 60_000, 20_000, 1_000_000, 1024, 64, 200


def ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(people, items, ratings from 1 to 5), seeded."""
    rng = np.random.default_rng(0)
    people = (rng.zipf(1.2, RATINGS) % USERS).astype(np.int32)
    items = (rng.zipf(1.2, RATINGS) % ITEMS).astype(np.int32)
    return people, items, rng.uniform(1, 5, RATINGS).astype(np.float32)
