"""Floor 2: the profile of everybody in a file of reviews, as Parquet.

    python -m jaxrec.people.build --reviews reviews.parquet --columns.user reviewerID --columns.item asin
    python -m jaxrec.people.build --reviews reviews.parquet --out profiles.parquet --cluster auto

Texts are read 8,192 reviews at a time, by the workers of a Ray cluster where one is named (auto, HOST:PORT,
ray://HOST:PORT, or local:2 for two of this machine), with the same profiles. A run that was killed goes on from
OUT.parts, by the same command.
"""

import dataclasses
import shutil
from pathlib import Path

from jaxrec import config, files, results
from jaxrec.config import ConfigError
from jaxrec.people.profiles import ProfileConfig, Profiles
from jaxrec.people.reviews import ReviewColumns


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """Whose reviews, and what of them."""

    reviews: str = ""  # a Parquet or Arrow (Feather) file
    columns: ReviewColumns = ReviewColumns()  # what its columns are called
    profile: ProfileConfig = ProfileConfig()  # how much a profile lists
    out: str = "profiles.parquet"
    cluster: str = (
        ""  # the workers that read: auto, HOST:PORT, ray://HOST:PORT, local:N; "": this process
    )


def main(cfg: BuildConfig) -> Profiles:
    """Builds and writes the profiles, and gives them. Raises ReviewsError, ClusterError, ConfigError without a file."""
    if not cfg.reviews:
        raise ConfigError("which reviews? --reviews FILE.parquet")
    if not Path(cfg.reviews).is_file():
        raise ConfigError(f"there is no file of reviews {cfg.reviews}")
    parts = f"{cfg.out}.parts"
    mark = files.content_hash(files.file_hash(cfg.reviews), repr((cfg.columns, cfg.profile)))
    made = Profiles.build(
        cfg.reviews, cfg.columns, cfg.profile,
        address=cfg.cluster, keep=parts, mark=mark, progress=True,
    )  # fmt: skip
    if not len(made):
        raise ConfigError(f"{cfg.reviews} holds no review of anybody")
    fresh = Path(f"{cfg.out}.new")
    made.write(fresh)
    fresh.replace(cfg.out)
    shutil.rmtree(parts)
    print(f"{len(made):,} people")
    results.conclude([cfg.out])
    return made


if __name__ == "__main__":
    config.run(main, BuildConfig, __doc__)
