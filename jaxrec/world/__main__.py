"""`python -m jaxrec.world`: what is in the sample world, with examples, floors, and oracles."""

from dataclasses import dataclass
from random import Random

import tyro

from jaxrec.world.businesses import read_businesses
from jaxrec.world.floors import overlap, shop_rows, tenant_rows
from jaxrec.world.instructions import FAMILIES, instructions
from jaxrec.world.records import WorldTenant
from jaxrec.world.shops import SHOPS, Shops, make_shops
from jaxrec.world.tenants import generate


@dataclass(frozen=True)
class Config:
    """Which world to look at."""

    seed: int = 0
    """Seed of the generated tenants, the instructions, and the shops."""
    tenants: int = 240
    """How many tenants to generate."""
    examples: int = 4
    """How many tenants to show in full."""


def main(cfg: Config) -> None:
    """Print the report."""
    generated, written = generate(cfg.seed, cfg.tenants), read_businesses()
    groups = {
        "generated, trained": [t for t in generated if not t.held_out],
        "generated, held out": [t for t in generated if t.held_out],
        "by hand, trained": [t for t in written if not t.held_out],
        "by hand, held out": [t for t in written if t.held_out],
    }
    groups = {name: tenants for name, tenants in groups.items() if tenants}
    print("TENANTS")
    _table(_counts(groups))
    rng = Random(cfg.seed)
    for tenant in rng.sample(generated, min(cfg.examples, len(generated))) + written:
        _show(tenant, rng)
    print("\nFLOORS AND ORACLES of the held-out dialogues (shares)")
    _table(tenant_rows(groups))
    print("\nN-GRAM OVERLAP: share of the held-out answers' n-grams that stand in training answers")
    _table(_overlaps(groups))
    traces = instructions(cfg.seed)
    print(f"\nINSTRUCTIONS: {len(traces)} traces of {len(FAMILIES)} families")
    for trace in traces[: len(FAMILIES)]:
        print(f"  {trace.family:13s}", " | ".join(turn.text for turn in trace.turns))
    _shops(make_shops(cfg.seed))


def _counts(groups: dict[str, list[WorldTenant]]) -> list[dict]:
    return [
        {
            "group": name,
            "tenants": len(tenants),
            "pages": sum(len(t.pages) for t in tenants),
            "onboarding": sum(len(t.onboarding) for t in tenants),
            "preferences": sum(len(t.preferences) for t in tenants),
            "held-out dialogues": sum(len(t.heldout) for t in tenants),
        }
        for name, tenants in groups.items()
    ]


def _overlaps(groups: dict[str, list[WorldTenant]]) -> list[dict]:
    """Against the tenant's own onboarding, and against that of all tenants that are trained on."""
    trained = [t for tenants in groups.values() for t in tenants if not t.held_out]
    everything = [d.answer for t in trained for d in t.onboarding]
    rows = []
    for name, tenants in groups.items():
        own = [
            overlap([d.answer for d in t.heldout], [d.answer for d in t.onboarding])
            for t in tenants
        ]
        mean = {k: sum(getattr(o, k) for o in own) / len(own) for k in ("four", "eight", "exact")}
        rows.append({"group": name, "against": "own onboarding", **mean})
        among = overlap([d.answer for t in tenants for d in t.heldout], everything)
        rows.append({"group": name, "against": "all trained tenants", **vars(among)})
    return rows


def _show(tenant: WorldTenant, rng: Random) -> None:
    s = tenant.style
    print(
        f"\n{tenant.name} ({tenant.key}; {tenant.trade}; {tenant.temper}){' HELD OUT' * tenant.held_out}"
    )
    print(f"  style: {s.formality}, {s.length}, {s.register}; {s.customer}, {s.order}")
    print(f"  guide: {tenant.guide}")
    for dialogue in [*rng.sample(tenant.onboarding, 2), rng.choice(tenant.heldout)]:
        for turn in dialogue.turns:
            print(f"  {turn.role:>9s}: {turn.text}")
    pair = rng.choice(tenant.preferences)
    print(
        f"   question: {pair.question}\n     chosen: {pair.chosen}\n   rejected: {pair.rejected} ({pair.why})"
    )


def _shops(shops: Shops) -> None:
    events = sum(len(p.items_T) for p in shops.people)
    print(
        f"\nSHOPS: {len(shops.catalog)} items of {len(SHOPS)} shops, {len(shops.people)} people, {events} events, "
        f"{len(shops.cold)} people cold in one shop"
    )
    for item in range(0, len(shops.catalog), 60):
        print(
            f"  {shops.catalog.shop[item]:8s} {shops.catalog.price_I[item]:7.2f}  {shops.catalog.text(item)}"
        )
    print("\nRECALL@10 (leave-one-out, full ranking, history masked)")
    _table(shop_rows(shops))


def _table(rows: list[dict]) -> None:
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    cells.insert(0, list(rows[0]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
