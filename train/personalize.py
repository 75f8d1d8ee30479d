"""Onboard tenants of one's own: fit each one's p (or a Delta of its own) to what is known of it, all else frozen.

    python -m train.personalize --model runs/universal/model --tenants my_shops          # a folder of tenants
    python -m train.personalize --model runs/universal/model --tenants my_shops --by encoder        # nothing trained
    python -m train.personalize --model runs/universal/model --tenants my_shops --by lora           # a LoRA each
    python -m train.personalize configs/personal/personalize_sample.py --examples 5
    python -m train.personalize configs/personal/personalize_sample.py --tenants world:kestrel_travel

What tenants may look like is said in jaxrec.data.tenants. All are fitted at once, each by its own examples alone. p
starts from what the profile encoder infers. Writes OUT/profile: p_encoder and p [U, E] (or the bank of deltas),
facts.json naming the tenants; `python -m jaxrec.answer --model OUT --tenant KEY` then speaks for them.
"""

import dataclasses
from pathlib import Path

from jaxrec import config, elastic, processes, results
from jaxrec.assistant.fitting import OnboardConfig, onboard
from jaxrec.config import RunError
from jaxrec.data.tenants import read_tenants
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.models.personal.profile_folder import save_profile
from jaxrec.processes import HostsConfig
from jaxrec.training import tuning


@dataclasses.dataclass(frozen=True)
class PersonalizeConfig(OnboardConfig):
    """Onboarding of some tenants to a finished universal model."""

    model: str = ""  # a universal stage's OUT/model
    tenants: tuple[str, ...] = ()  # sources: see jaxrec.data.tenants
    quantise: str = ""  # "nf4", "int8" or "bf16" kernels of the backbone
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/personalize"


def main(cfg: PersonalizeConfig) -> dict[str, float]:
    """Fits and saves OUT/profile; gives how many tenants there are. Raises RunError for what is missing."""
    if not cfg.model:
        raise RunError("personalize: name a universal stage's OUT/model with --model")
    tenants, skipped = read_tenants(cfg.tenants)
    tuning.say("tenants, left out", skipped)
    processes.start(cfg.hosts)
    devices, _ = elastic.arrange(cfg.mesh, cfg.rows)
    model = load_personal(cfg.model, devices, cfg.quantise)
    found = onboard(model, tenants, cfg, devices=devices, out=cfg.out, name=cfg.model)
    facts = {**found.facts, "sources": list(cfg.tenants)}
    folder = Path(cfg.out) / "profile"
    save_profile(folder, dataclasses.replace(found, facts=facts))
    more = f" and {len(tenants) - 5} more" if len(tenants) > 5 else ""
    print(f"{', '.join(found.tenants[:5])}{more}: onboarded", flush=True)
    results.conclude(
        [folder], ("jaxrec", "answer", "--model", cfg.out, "--tenant", found.tenants[0])
    )
    return {"tenants": float(len(tenants))}


if __name__ == "__main__":
    config.run(main, PersonalizeConfig, __doc__)
