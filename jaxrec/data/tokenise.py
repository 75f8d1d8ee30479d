"""Turn data that does not fit into memory into a store of token rows, which every stage reads as it reads a file.

    python -m jaxrec.data.tokenise chats.jsonl --kind chats --model MODEL --length 512 --out runs/store
    python -m jaxrec.data.tokenise hf:OWNER/NAME --kind texts --tokenizer tokenizer.json --out s3://BUCKET/x --workers 8
    python -m jaxrec.data.tokenise pairs.parquet --kind pairs --model MODEL --out runs/pairs --part 2/16
    python -m jaxrec.data.tokenise pairs.parquet --kind pairs --model MODEL --out s3://B/x --workers 16 --cluster auto
    python -m jaxrec.data.tokenise people.parquet --kind histories --out runs/people
    python -m jaxrec.data.tokenise runs/store --check                      read it whole, compare checksums

SOURCE is what the stage itself would read (a file of chats, a folder of notes, world, sgd, hh_rlhf ...), a .parquet,
.arrow, .csv or a folder of them, or hf:OWNER/NAME[/CONFIG][:SPLIT] of the hub, streamed. A part that was killed goes
on by the same command, shard by shard. What is left out is counted, named and kept in OUT/store.json.

Histories are streamed where a row is a person, {"items": [numbers from 0], "times": [...], "ratings": [...]}; a table
of single events (orders.csv, ml-1m, with the flags of --data) is sorted by person in memory, once.

    python -m train.sft --data runs/store                                  also pretrain --texts, prefer --data
    python -m train.sft --data runs/store=0.7 runs/other=0.3               a mixture
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import re
import sys
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from jaxrec import config, results
from jaxrec.cluster import map_shards
from jaxrec.config import RunError
from jaxrec.data import text
from jaxrec.data.instructions import TooLong
from jaxrec.data.interaction_sets import DataConfig
from jaxrec.data.store import people, row_kinds, row_sources, writing
from jaxrec.data.store.events import people_shard
from jaxrec.data.store.manifest import Manifest, Plan
from jaxrec.data.store.place import Place

Kind = Literal["", "texts", "chats", "pairs", "histories"]
_STAGES = {
    "texts": ("pretrain", "--texts"),
    "chats": ("sft", "--data"),
    "pairs": ("prefer", "--data"),
    "histories": ("sequential", "--data.path"),
}


@dataclasses.dataclass(frozen=True)
class TokeniseConfig:
    """What becomes a store, and how. What decides what its rows are must be as the stage's own settings."""

    source: tuple[str, ...] = ()  # before all flags: files, folders, names, hf:OWNER/NAME
    out: str = ""  # a folder, s3://BUCKET/PREFIX (AWS_ENDPOINT_URL_S3: another server), gs://...
    kind: Kind = ""  # texts for pretrain, chats for sft, pairs for prefer, histories for sequential
    model: str = ""  # of chats and pairs: whose tokenizer and template; a folder or hub id
    tokenizer: str = ""  # of texts: a tokenizer.json (train.pretrain writes one into OUT/model)
    plain: bool = False  # no chat template, as train.sft --plain
    length: int = 256  # tokens a row, as the stage's own
    learn: Literal["last", "all"] = "all"  # of a conversation's answers
    too_long: TooLong = "left"  # how a conversation is cut that does not fit
    column: str = "text"  # of a table: where its texts stand
    hold_out_every: int = 0  # about one in so many is held out, by a hash of its prompt; 0: none
    strict: bool = False  # the first malformed row stops
    documents: int = 8192  # rows of the source that become one shard
    data: DataConfig = DataConfig()  # of a table of single events: how it is read
    workers: int = 1  # processes on this machine, or parts that a cluster's workers take one by one
    cluster: str = ""  # a Ray cluster (auto, HOST:PORT, ray://HOST:PORT, local:N) whose machines see SOURCE and OUT
    part: str = ""  # "I/N": of N machines this is number I, from 0; each takes every N-th shard
    check: bool = False  # SOURCE is a store: read it whole and compare every checksum


def main(cfg: TokeniseConfig) -> Manifest | None:
    """Writes the store, or this machine's part; gives the manifest where all of it is there now.

    Raises RunError for settings that say too little, and what the sources and the store raise.
    """
    if cfg.check:
        return checked(cfg)
    part, parts = part_of(cfg)
    plan, place = plan_of(cfg), Place(cfg.out)
    done = writing.begin(place, plan)
    if done is None:
        if cfg.kind == "texts":  # so that the store is enough to pretrain on
            place.write("tokenizer.json", Path(cfg.tokenizer).read_bytes())
        numbers = [part * cfg.workers + worker for worker in range(cfg.workers)]
        count = _in_processes(cfg, place, numbers, parts * cfg.workers)
        done = writing.finish(place, plan, count)
    if done is None:
        there = len(place.names("shards/"))
        print(f"{cfg.out}: {there} of {count} shards are there, the other parts are still to come")
        return None
    say(cfg.out, done)
    if not done.tokens:
        raise RunError(f"{cfg.out} holds nothing to learn from: no row of the source was usable")
    stage, flag = _STAGES[cfg.kind]
    base = ("--base", cfg.model) if cfg.model and cfg.kind != "texts" else ()
    results.conclude([cfg.out], ("jaxrec", "train", stage, *base, flag, cfg.out))
    return done


def checked(cfg: TokeniseConfig) -> None:
    """Reads the stores that SOURCE names and says that they are whole. Raises StoreError where one is not."""
    for source in cfg.source:
        say(source, writing.check(Place(source)))
        print(f"{source}: every checksum is right")


def say(where: str, found: Manifest) -> None:
    """Prints what a store holds and what was dropped."""
    told = found.as_dict()
    one, many = ("people", "events") if found.plan.kind == "histories" else ("rows", "tokens")
    print(
        f"{where}: {told['rows']:,} {one} with {told['tokens']:,} {many} in {len(found.shards)} shards,"
        f" of {told['read']:,} rows of the source; {told['held']:,} held out"
    )
    for line in told["dropped"]:
        print(f"{where}: {line}")


def part_of(cfg: TokeniseConfig) -> tuple[int, int]:
    """(this machine's number, of how many). Raises RunError for what is missing or out of range."""
    if not cfg.source:
        raise RunError(
            "name what is to become a store, before all flags: a file, a folder, hf:OWNER/NAME"
        )
    if not cfg.out or not cfg.kind:
        raise RunError(
            "say where the store goes (--out) and what it holds (--kind texts, chats, pairs or histories)"
        )
    if cfg.workers < 1 or cfg.documents < 1 or cfg.length < 2:
        raise RunError("--workers and --documents are at least 1, --length at least 2")
    found = re.fullmatch(r"(\d+)/(\d+)", cfg.part or "0/1")
    if found is None or int(found[1]) >= int(found[2]):
        raise RunError(
            f"--part {cfg.part}: I/N says which of N machines this is, from 0/N to N-1/N"
        )
    return int(found[1]), int(found[2])


def plan_of(cfg: TokeniseConfig) -> Plan:
    """What decides what stands in the store."""
    if cfg.kind == "histories":
        return people.plan_of(cfg.source, cfg.data, cfg.documents, cfg.strict)
    kind = kind_of(cfg)
    named = ("learn", "too_long", "plain") if cfg.kind == "chats" else ()
    settings = {
        name: getattr(cfg, name) for name in (*named, "hold_out_every", "documents", "strict")
    }
    tok = kind.tok if isinstance(kind, row_kinds.Texts) else kind.chat
    pad_id = tok.special["<pad>"] if isinstance(tok, text.BytePairTokenizer) else tok.pad_id
    about = row_sources.about(cfg.source)
    return Plan(cfg.kind, about, cfg.length, pad_id, row_kinds.writing_hash(tok), settings)


def kind_of(cfg: TokeniseConfig) -> row_kinds.RowKind:
    """The kind of rows, with the tokenizer or chat format that writes them."""
    if cfg.kind == "texts":
        if not cfg.tokenizer:
            raise RunError("texts need a tokenizer: name a tokenizer.json with --tokenizer")
        return row_kinds.Texts(text.BytePairTokenizer.load(cfg.tokenizer), cfg.length, cfg.column)
    if not cfg.model:
        raise RunError(
            f"{cfg.kind} are written as a model writes them: name its folder with --model"
        )
    from jaxrec.hub.weights import find
    from jaxrec.models.language.model_folder import chat_of, part_of_run
    from jaxrec.models.language.tuned_folder import base_of, is_adapter

    folder = part_of_run(cfg.model, ("adapter", "model"))
    chat = chat_of(find(base_of(folder) if is_adapter(folder) else folder), cfg.plain)
    if cfg.kind == "chats":
        return row_kinds.Chats(chat, cfg.length, cfg.learn, cfg.too_long)
    return row_kinds.PairsOfAnswers(chat, cfg.length, cfg.strict)


def work(cfg: TokeniseConfig, part: int, parts: int, quiet: bool = True) -> int:
    """Makes the shards of one process; gives how many the whole source has.

    cfg: of the whole. part: of 0..parts - 1. quiet: no progress bar; another process has one.
    """
    if cfg.kind == "histories":
        blocks = people.blocks(cfg.source, cfg.data, cfg.documents)
        columns = people.plan_of(cfg.source, cfg.data, cfg.documents, cfg.strict).settings[
            "columns"
        ]
        make = people_shard(columns, cfg.strict)
    else:
        blocks = row_sources.blocks(cfg.source, cfg.kind, cfg.documents)
        make = writing.token_shard(kind_of(cfg), cfg.hold_out_every, cfg.strict)
    count = 0

    def counted():
        nonlocal count
        for block in blocks:
            count = block.number + 1
            yield block

    place = Place(cfg.out)
    with tqdm(unit="shard", desc=f"part {part} of {parts}", disable=quiet) as bar:
        tokens = 0
        for _, shard in writing.write_part(place, counted(), make, part, parts):
            tokens += shard.tokens if shard is not None else 0
            bar.set_postfix(numbers=f"{tokens:,}", refresh=False)
            bar.update()
    if not count:
        raise RunError(f"{' '.join(cfg.source)} holds no row")
    return count


def _in_processes(cfg: TokeniseConfig, place: Place, numbers: list[int], parts: int) -> int:
    """The parts of this machine, the first of them in this very process; how many shards the source has."""
    if cfg.cluster:
        made = map_shards(
            functools.partial(_part, cfg, parts),
            numbers,
            address=cfg.cluster,
            name=lambda _, number: f"part {number} of {parts}",
            progress="parts",
        )
        return max(made)  # each has counted the whole source
    if len(numbers) == 1:
        return work(cfg, numbers[0], parts, quiet=False)
    fresh = multiprocessing.get_context("spawn")  # threads of tensorstore do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(len(numbers) - 1, fresh) as pool:
        others = [pool.submit(work, cfg, number, parts) for number in numbers[1:]]
        count = work(cfg, numbers[0], parts, quiet=False)
        for other in others:
            try:
                other.result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise RunError(
                    "a process was killed (out of memory?): the same command goes on with what is missing"
                ) from error
    return count


def _part(cfg: TokeniseConfig, parts: int, number: int) -> int:
    return work(cfg, number, parts)


def words(argv: list[str]) -> list[str]:
    """The command line with its leading words as --source."""
    first = next((n for n, word in enumerate(argv) if word.startswith("-")), len(argv))
    return ["--source", *argv[:first], *argv[first:]] if first else argv


if __name__ == "__main__":
    from jaxrec.data import (
        tokenise,
    )  # workers find its functions by this name; `__main__` is another program there

    config.run(tokenise.main, tokenise.TokeniseConfig, __doc__, words(sys.argv[1:]))
