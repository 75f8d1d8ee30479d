"""A store in a bucket, against a real server process on loopback: moto's, from an environment of its own.

moto needs an older python-dateutil than the project has, so it lies beside it: `make .venv-s3/moto`, or a `moto_server`
on the PATH. Without one these tests are skipped.
"""

import dataclasses
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import text, tokenise
from jaxrec.data.store import reading
from jaxrec.data.store.place import Place, StoreError
from jaxrec.data.tokenise import TokeniseConfig

ROOT = Path(__file__).resolve().parent.parent
WORDS = [f"{a} {b}" for a in ("red", "blue", "green", "pink") for b in ("cup", "car", "hat", "bag")]


def server_command() -> str:
    own = ROOT / ".venv-s3" / "bin" / "moto_server"
    found = os.environ.get("JAXREC_MOTO") or (
        str(own) if own.exists() else shutil.which("moto_server")
    )
    if not found:
        pytest.skip("no moto_server: make .venv-s3/moto, or JAXREC_MOTO=/path/to/moto_server")
    return found


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server's address, with a bucket `data`; credentials that it does not ask for are in the environment."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    command = [server_command(), "-H", "127.0.0.1", "-p", str(port)]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    plain["INITIAL_NO_AUTH_ACTION_COUNT"] = "100000"  # requests without credentials that it knows
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=plain, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=2).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        put(f"{address}/data")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def put(address: str) -> None:
    urllib.request.urlopen(urllib.request.Request(address, method="PUT"), timeout=10).close()


def test_a_bucket_holds_what_a_folder_holds_and_says_what_is_wrong(server, tmp_path, monkeypatch):
    tokenizer, texts = tmp_path / "tokenizer.json", tmp_path / "texts.jsonl"
    text.train_tokenizer(WORDS * 3, 290).save(tokenizer)
    texts.write_text("".join(f'{{"text": "{n} {w}"}}\n' for n, w in enumerate(WORDS)))
    cfg = TokeniseConfig(
        (str(texts),), str(tmp_path / "folder"), "texts", tokenizer=str(tokenizer), length=16,
        documents=5, hold_out_every=5,
    )  # fmt: skip
    tokenise.main(cfg)
    there = dataclasses.replace(cfg, out="s3://data/some/store")
    assert tokenise.main(dataclasses.replace(there, part="1/2")) is None
    with pytest.raises(StoreError, match="half written"):
        reading.open_stores([there.out], "texts", 16)
    tokenise.main(there)
    folder, bucket = (reading.open_stores([out], "texts", 16) for out in (cfg.out, there.out))
    rows = [opened.rows[np.arange(len(opened.rows))].ids_BL for opened in (folder, bucket)]
    np.testing.assert_array_equal(*rows)
    strip = lambda opened: [row for _, row in opened.held()]
    assert strip(folder) == strip(bucket) != []
    tokenise.main(TokeniseConfig((there.out,), check=True))

    name = "some/store/rows/000000/tokens/c/0/0/0"
    place = Place("s3://data")
    whole = place.read(name)
    place.write(name, whole[:-20])
    with pytest.raises(StoreError, match="damaged or cut short"):
        tokenise.main(TokeniseConfig((there.out,), check=True))
    for wrong, message in (
        ("s3://nowhere/store", "there is no such bucket"),
        ("s3://data/other", "there is no store at|holds no store"),
    ):
        with pytest.raises(StoreError, match=message):
            reading.open_stores([wrong], "texts", 16)
    with pytest.raises(StoreError, match="no such bucket"):
        tokenise.main(dataclasses.replace(cfg, out="s3://nowhere/store"))
    # moto's own switch: from here on it wants keys that it has given out.
    reset = urllib.request.Request(
        f"{server}/moto-api/reset-auth",
        data=b"0",
        method="POST",
        headers={"Content-Type": "text/plain"},
    )
    urllib.request.urlopen(reset, timeout=10).close()
    for ask in (
        lambda: reading.open_stores([there.out], "texts", 16),
        lambda: tokenise.main(dataclasses.replace(cfg, out="s3://data/denied")),
    ):
        with pytest.raises(StoreError, match="access"):
            ask()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="connect"):
        reading.open_stores(["s3://data/x"], "texts", 16)
