"""`map_shards` on a real Ray cluster of two nodes, and with workers of its own; workers and a node die in mid-job."""

import contextlib
import functools
import gzip
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_jobs as jobs
import numpy as np
import pytest

from jaxrec.cluster import ClusterError, ShardError, connection, map_shards
from jaxrec.config import RunError

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install -e '.[cluster]'", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets, pipes and child processes to the garbage collector when it shuts down.
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LOST = "workers were lost"


# Reads a line for each second node that is wanted anew; ends everything where its input ends.
NODES = """
import sys
from ray.cluster_utils import Cluster
size = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "node_ip_address": "127.0.0.1"}
head = size | {"include_dashboard": False, "ray_client_server_port": int(sys.argv[1])}
cluster = Cluster(True, head_node_args=head)
second = cluster.add_node(**size)
print(cluster.address, cluster.head_node.node_id, flush=True)
for _ in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    second = cluster.add_node(**size)
    print("again", flush=True)
cluster.shutdown()
"""


class TwoNodes:
    """A head with one core and a second node with one core, in processes of their own."""

    def __init__(self) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # Ray gives a node thirty seconds to begin, which a very busy machine may need twice.
        for _ in range(3):
            # A group of its own, so that whatever Ray has started can be ended together.
            self.process = subprocess.Popen(
                [sys.executable, "-c", NODES, str(port)],
                env=environ(), start_new_session=True, **pipes,
            )  # fmt: skip
            if line := self.process.stdout.readline():
                self.address, self.head = line.split()
                break
            self.end()
        else:
            pytest.fail("Ray did not begin, three times")
        self.client = f"ray://127.0.0.1:{port}"

    def repair(self) -> None:
        """A second node, where the last one was killed."""
        with connected(self.address) as there:
            if sum(node["Alive"] for node in there.nodes()) == 2:
                return
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "again\n"

    def end(self) -> None:
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process.stdout.close()


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    with connection.connected(connection.Terms(connection.parse(address))) as there:
        yield there


@pytest.fixture(scope="module")
def environment() -> Iterator[str]:
    """What Ray finds in the environment: loopback, a token, a folder. Sockets' paths have 107 bytes: a short one."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="jr") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        yield folder


@pytest.fixture(scope="module")
def nodes(environment: str) -> Iterator[TwoNodes]:
    made = TwoNodes()
    yield made
    made.end()


@pytest.fixture
def address(nodes: TwoNodes) -> str:
    nodes.repair()
    return nodes.address


def drawn(found: list[dict[str, np.ndarray]]) -> list[list[float]]:
    return [one["drawn"].tolist() for one in found]


def test_the_same_results_in_order(address, capfd):
    assert list(map_shards(jobs.square, range(20), address=address)) == [x * x for x in range(20)]
    made = list(map_shards(jobs.count, iter(range(12)), setup=jobs.counter, address=address))
    assert [x for x, _, _ in made] == list(range(12))
    workers = {pid for _, pid, _ in made}
    assert os.getpid() not in workers
    assert sum(n == 1 for _, _, n in made) == len(workers)  # set up once each
    assert capfd.readouterr().out == ""


def test_from_outside_of_the_cluster(address, nodes):
    """By the client's port, as from another network; "auto" is the cluster that this machine is part of."""
    pytest.importorskip("grpc", reason="ray:// needs grpcio: pip install -e '.[cluster]'")
    assert list(map_shards(jobs.square, range(5), address=nodes.client)) == [0, 1, 4, 9, 16]
    with pytest.raises(ShardError, match=r"^shard 2: KeyError"):
        list(map_shards(jobs.raising, range(5), address=nodes.client))
    assert list(map_shards(jobs.square, range(5), address="auto")) == [0, 1, 4, 9, 16]


def test_a_worker_killed_in_mid_job(address, tmp_path, caplog):
    job = functools.partial(jobs.killed_once, str(tmp_path))
    found = list(map_shards(job, range(10), address=address))
    assert (tmp_path / "worker").exists()
    assert drawn(found) == drawn([jobs.draw(x) for x in range(10)])
    assert "shard 3: its worker died" in caplog.text and f"1 {LOST}" in caplog.text


def test_a_node_killed_in_mid_job(address, nodes, tmp_path, caplog):
    job = functools.partial(jobs.node_killed_once, str(tmp_path), nodes.head)
    found = list(map_shards(job, range(16), address=address))
    assert (tmp_path / "node").exists()
    assert drawn(found) == drawn([jobs.draw(x) for x in range(16)])
    assert LOST in caplog.text


def test_a_shard_that_kills_its_workers_is_given_up(address, caplog):
    with pytest.raises(
        ShardError, match=r"^part 4: 2 workers died over it, it is given up \(.+\)$"
    ):
        list(
            map_shards(
                jobs.deadly, range(8), address=address, attempts=2, name=lambda n, x: f"part {n}"
            )
        )


@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        (jobs.raising, {}, r"^shard 2: KeyError: 'colour' \(cluster_jobs.py:\d+\)$"),
        (jobs.count, {"setup": jobs.no_setup}, "^the weights are not installed$"),
        (lambda x: (y for y in [x]), {}, "^shard 0: it, or its result, can't travel"),
        (
            jobs.square,
            {"threads": 64, "patience": 3.0},
            "each takes 64 CPUs; the cluster has 2, of which 2 are free",
        ),
    ],
)
def test_what_goes_wrong_on_a_worker_is_one_line(job, options, said, address):
    with pytest.raises(RunError, match=said):
        list(map_shards(job, range(4), address=address, **options))


def test_few_shards_in_flight(address):
    read = []

    def shards() -> Iterator[int]:
        for x in range(30):
            read.append(x)
            yield x

    made = map_shards(jobs.square, shards(), address=address, in_flight=3)
    for x in range(30):
        assert next(made) == x * x
        assert len(read) <= x + 1 + 3
    assert list(made) == []


def test_goes_on_with_what_was_finished(address, tmp_path):
    keep = {"keep": tmp_path / "parts", "mark": "draw"}
    begun = map_shards(jobs.draw, range(10), address=address, **keep)
    first = [next(begun) for _ in range(4)]
    begun.close()  # as by Ctrl-C
    finished = len(list((tmp_path / "parts").glob("*.npz")))
    assert 4 <= finished < 10
    found = list(map_shards(jobs.draw, range(10), address=address, **keep))
    assert drawn(found) == drawn([jobs.draw(x) for x in range(10)])
    assert drawn(first) == drawn(found[:4])
    with pytest.raises(ClusterError, match="another job"):
        map_shards(jobs.draw, range(10), address=address, keep=tmp_path / "parts", mark="other")


def test_workers_know_their_cores_and_what_they_print_is_heard(address, caplog):
    (told,) = map_shards(jobs.settings, [0], address=address)
    assert told["OMP_NUM_THREADS"] == told["NPROC"] == "1"
    assert list(map_shards(jobs.chatty, [8], address=address)) == [4]
    assert "worker: half of 8 is left out" in caplog.text


# ---------------------------------------------------------------------------------------------- real jobs


def embedded(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    from jaxrec.hub.config import ModelMissing
    from jaxrec.models.text.sentence import SentenceEncoder
    from jaxrec.retrieval.catalog_vectors import embed_catalog

    try:
        SentenceEncoder.load()
    except ModelMissing as missing:
        pytest.skip(str(missing))
    texts = [f"thing {i} of the shop" + ", blue" * (i % 7) for i in range(70)]
    load = (
        functools.partial(jobs.mortal_encoder, str(tmp_path)) if address else SentenceEncoder.load
    )
    options = {"encoder": "MiniLM", "dim": 384, "block": 10, "load": load}
    made = embed_catalog(texts, None, at, dtype="float32", address=address, **options)
    assert not address or (tmp_path / "encoder").exists()
    return [made.read().tobytes()]


def profiles(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    import pyarrow as pa

    from jaxrec.people.profiles import Profiles

    rows = [
        {"user": f"u{i % 17}", "item": f"i{i % 5}", "rating": i % 5 + 1.0, "text": f"a {w} pan"}
        for i, w in enumerate(["lovely", "broken", "plain", "heavy"] * 40)
    ]
    made = Profiles.build(pa.Table.from_pylist(rows).to_batches(30), address=address)
    return [one.tobytes() for one in made.state().values()]


def shards(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    from jaxrec.retrieval.index_choice import IndexConfig
    from jaxrec.retrieval.sharded import build_shards, search_folder

    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.standard_normal((3000, 32)).astype(np.float32))
    q_BD = rng.standard_normal((5, 32)).astype(np.float32)
    config = IndexConfig(kind="ivf", code="sq8", nlist=8, nprobe=2)
    build_shards(tmp_path / "v.npy", at, 4, config, address=address)
    found = search_folder(at, q_BD, 10, address=address)
    return [found.items_BJ.tobytes(), found.scores_BJ.tobytes()]


def pairs(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    from jaxrec.rewards import instruction_pairs as made

    if not os.environ.get("JAXREC_DATA"):
        pytest.skip("JAXREC_DATA is not set (the folder of the public data sets)")
    cfg = made.PairsConfig(("amazon18-gift-cards",), xrec=False, out=str(at), cluster=address)
    made.main(cfg)
    return [gzip.decompress(path.read_bytes()) for path in sorted(at.glob("*.gz"))]


def tokens(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    from jaxrec.data import text, tokenise

    rows = [{"text": f"{i} red cups" * (i % 5 + 1)} for i in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = tmp_path / "tokenizer.json"
    if not tokenizer.exists():
        text.train_tokenizer(["red cups"] * 3, 276).save(tokenizer)
    cfg = tokenise.TokeniseConfig(
        (str(tmp_path / "t.jsonl"),), str(at), "texts", tokenizer=str(tokenizer), length=16,
        documents=7, workers=3, cluster=address,
    )  # fmt: skip
    made = tokenise.main(cfg)
    return [json.dumps(made.as_dict(), default=str).encode()]


def answers(at: Path, address: str, tmp_path: Path) -> list[bytes]:
    import tiny_assistant

    from jaxrec import answer

    if not (tmp_path / "model").exists():
        tiny_assistant.make(tmp_path)
    rows = [{"question": f"is it {n}?", "tenant": "trained"} for n in range(7)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = answer.AnswerConfig(
        str(tmp_path / "model"), "trained", questions=str(tmp_path / "q.jsonl"), limit=6, rows=2,
        temperature=1.0, out=str(at), cluster=address,
    )  # fmt: skip
    assert answer.main(cfg) == 7
    return [at.read_bytes()]


@pytest.mark.parametrize("job", [embedded, profiles, shards, pairs, tokens, answers])
def test_a_real_job_gives_the_same(job, address, tmp_path):
    assert job(tmp_path / "cluster", address, tmp_path) == job(tmp_path / "here", "", tmp_path)


SCRIPT = """
import sys
import cluster_jobs as jobs
from jaxrec.cluster import map_shards
print(sum(map_shards(jobs.square, range(10), address=sys.argv[1])))
"""


def test_workers_of_ones_own_end_with_the_job(environment):
    """A process that starts two workers of its own: nothing of Ray is left behind it, no folder and no process."""
    with tempfile.TemporaryDirectory(prefix="jr") as folder:
        words = [sys.executable, "-c", SCRIPT, "local:2"]
        options = {
            "cwd": Path(__file__).parent,
            "capture_output": True,
            "text": True,
            "timeout": 240,
        }
        done = subprocess.run(words, env=environ(TMPDIR=folder), **options)
        assert done.stdout == "285\n", done.stderr
        assert done.returncode == 0 and list(Path(folder).iterdir()) == []
        left = [
            p
            for p in Path("/proc").glob("[0-9]*/cmdline")
            if folder.encode() in quietly(p.read_bytes)
        ]
        assert not left


def environ(**more: str) -> dict[str, str]:
    here = Path(__file__).resolve().parent
    return os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}"} | more


def quietly(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except OSError:  # it ended meanwhile
        return b""
