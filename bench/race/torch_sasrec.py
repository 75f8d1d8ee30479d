"""SASRec in plain torch at its best: whole histories, people of like length together; an epoch over Beauty, or
one step.

All positions of a history are predicted at once; the cross-entropy over all items reads the real positions alone.
"""

import os

from bench.race import beauty
from bench.race.worker import Work


def prepare(what: str = "epoch", compiled: bool = False) -> dict[str, Work]:
    """Full cross-entropy: one "epoch", or one "step" on the fixed batch of full histories."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    torch.manual_seed(0)
    width, heads, rate = beauty.WIDTH, beauty.HEADS, beauty.DROPOUT

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.norm_1, self.norm_2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
            self.up, self.down = nn.Linear(width, beauty.INNER), nn.Linear(beauty.INNER, width)
            self.drop = nn.Dropout(rate)

        def forward(self, x):
            b, length, _ = x.shape
            split = lambda t: t.view(b, length, heads, -1).transpose(1, 2)
            q, k, v = (split(t) for t in self.qkv(x).chunk(3, -1))
            o = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, dropout_p=rate if self.training else 0.0
            )
            x = self.norm_1(x + self.drop(self.out(o.transpose(1, 2).reshape(b, length, width))))
            return self.norm_2(x + self.drop(self.down(F.gelu(self.up(x)))))

    class SASRec(nn.Module):
        def __init__(self, items: int):
            super().__init__()
            self.items = nn.Embedding(items + 1, width)
            self.places = nn.Embedding(beauty.LENGTH, width)
            self.norm, self.drop = nn.LayerNorm(width, 1e-12), nn.Dropout(rate)
            self.blocks = nn.ModuleList(Block() for _ in range(beauty.LAYERS))
            for weight in self.parameters():
                if weight.ndim > 1:
                    nn.init.normal_(weight, 0, 0.02)

        def forward(self, ids, targets):
            x = self.items(ids) + self.places(torch.arange(ids.shape[1]))
            x = self.drop(self.norm(x))
            for block in self.blocks:
                x = block(x)
            real = targets > 0  # padding stands at the end, so a causal mask is all that is needed
            return F.cross_entropy(x[real] @ self.items.weight.T, targets[real], reduction="sum")

    fixed = what == "step"
    people = list(beauty.full_batch()) if fixed else beauty.training()
    rows = [row[-(beauty.LENGTH + 1) :] for row in people]
    order = np.argsort([len(row) for row in rows], kind="stable")
    batches = []
    for start in range(0, len(order), beauty.PEOPLE):
        group = [rows[i] for i in order[start : start + beauty.PEOPLE]]
        longest = max(map(len, group)) - 1
        ids = np.zeros((len(group), longest), np.int64)
        targets = np.zeros_like(ids)
        for i, row in enumerate(group):
            ids[i, : len(row) - 1], targets[i, : len(row) - 1] = row[:-1], row[1:]
        batches.append((torch.from_numpy(ids), torch.from_numpy(targets)))
    model = SASRec(beauty.ITEMS if fixed else beauty.items()).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=beauty.RATE)
    forward = torch.compile(model, dynamic=True) if compiled else model
    shuffle, losses = np.random.default_rng(0), []

    def epoch() -> None:
        total, count = 0.0, 0
        for i in shuffle.permutation(len(batches)):
            ids, targets = batches[i]
            loss = forward(ids, targets)
            weight = int((targets > 0).sum())
            (loss / weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + float(loss.detach()), count + weight
        losses.append(total / count)

    info = {"parameters": sum(p.numel() for p in model.parameters())}
    info |= {"nats_by_step" if fixed else "nats_by_epoch": losses}
    first_loss = (lambda: np.array(losses[:1])) if fixed else None
    return {"work": Work(epoch, first_loss, {"torch": torch.__version__}, info)}
