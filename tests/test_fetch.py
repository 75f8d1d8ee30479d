"""Fetching, against a server on this machine: resumed, refused, checked, unpacked whole or not at all."""

import hashlib
import http.server
import io
import threading
import zipfile
from functools import partial

import pytest

from jaxrec.data import fetch as module
from jaxrec.data.fetch import FetchError, fetch, listing, main, unpack
from jaxrec.data.hosts import SETS, PublicFile, PublicSet

BODY = bytes(range(256)) * 4000  # a megabyte


class Host(http.server.BaseHTTPRequestHandler):
    """Serves `files` with ranges and ETags; cuts an answer short while `cuts` says so."""

    def __init__(self, files, cuts, asked, *args):
        self.files, self.cuts, self.asked = files, cuts, asked
        super().__init__(*args)

    def do_GET(self):
        body, tag = self.files.get(self.path, (None, ""))
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((self.path, start))
        if body is None:
            self.send_error(404)
            return
        if self.headers.get("If-Range") != tag:
            start = 0
        if start > len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        end = self.cuts.pop() if self.cuts else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def host():
    files, cuts, asked = {}, [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, files, cuts, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.files, server.cuts, server.asked = files, cuts, asked
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def one(host, body=BODY, tag='"1"', **sums):
    host.files["/a.bin"] = body, tag
    file = PublicFile(f"{host.url}/a.bin", "inner/a.bin", **sums)
    return {"set": PublicSet("a set", "free", (file,))}


def zipped(members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return held.getvalue()


def test_a_set_comes_whole_and_is_checked_later(host, tmp_path):
    sets = one(host, sha256=hashlib.sha256(BODY).hexdigest())
    folder = fetch("set", tmp_path, sets)
    assert (folder / "inner/a.bin").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    asked = len(host.asked)
    assert fetch("set", tmp_path, sets) == folder and len(host.asked) == asked
    (folder / "inner/a.bin").write_bytes(b"changed")
    with pytest.raises(FetchError, match="not what was fetched"):
        fetch("set", tmp_path, sets)


def test_a_broken_connection_is_taken_up_where_it_stopped(host, tmp_path):
    sets = one(host, sha256=hashlib.sha256(BODY).hexdigest())
    host.cuts[:] = [700_000, 400_000]  # the last one first
    fetch("set", tmp_path, sets, pause_s=0.0)
    assert [start for _, start in host.asked] == [0, 400_000, 700_000]


def test_a_later_run_goes_on_and_a_changed_file_starts_anew(host, tmp_path):
    sets = one(host)
    host.cuts[:] = [400_000] * module.TRIES
    with pytest.raises(FetchError, match="400,000 of 1,024,000 bytes; run the same command again"):
        fetch("set", tmp_path, sets, pause_s=0.0)
    assert not (tmp_path / "set").exists()
    new = BODY[::-1]
    sets = one(host, new, '"2"')
    folder = fetch("set", tmp_path, sets, pause_s=0.0)
    assert (folder / "inner/a.bin").read_bytes() == new


def test_a_wrong_sum_is_said_and_thrown_away(host, tmp_path):
    sets = one(host, sha256="0" * 64)
    for _ in range(2):  # the second run does not go on with the bad part
        with pytest.raises(FetchError, match=r"sha256 is .* it should be 0000"):
            fetch("set", tmp_path, sets)
    assert [start for _, start in host.asked] == [0, 0]
    host.files["/a.bin.md5"] = f"MD5 (a.bin) = {'0' * 32}".encode(), '"m"'
    with pytest.raises(FetchError, match="md5 is"):
        fetch("set", tmp_path, one(host, md5_url=f"{host.url}/a.bin.md5"))
    host.files["/a.bin.md5"] = f"{hashlib.md5(BODY).hexdigest()}  a.bin".encode(), '"m"'
    assert fetch("set", tmp_path, one(host, md5_url=f"{host.url}/a.bin.md5")).is_dir()


def test_archives_lose_their_top_folder(host, tmp_path):
    host.files["/z.zip"] = zipped({"ml/u.data": "1\t2\t3\t4\n", "ml/more/x": "y"}), '"z"'
    file = PublicFile(f"{host.url}/z.zip", unpack=True)
    folder = fetch("z", tmp_path, {"z": PublicSet("", "", (file,))})
    assert (folder / "u.data").read_text() == "1\t2\t3\t4\n" and (folder / "more/x").is_file()


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "c:\\out", "c:/out"])
def test_archives_that_lead_out_are_refused_before_anything_is_written(tmp_path, name):
    archive = tmp_path / "bad.zip"
    archive.write_bytes(zipped({"good": "1", name: "2"}))
    with pytest.raises(FetchError, match="outside"):
        unpack(archive, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_links_in_archives_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(FetchError, match="outside"):
        unpack(tmp_path / "l.zip", tmp_path / "to")


def test_a_damaged_archive_is_thrown_away(tmp_path):
    (tmp_path / "d.zip").write_bytes(zipped({"a": "1"})[:-30])
    with pytest.raises(FetchError, match="not a whole zip"):
        unpack(tmp_path / "d.zip", tmp_path / "to")
    assert not (tmp_path / "d.zip").exists()


def test_errors_are_one_line(host, tmp_path, capsys, monkeypatch):
    with pytest.raises(FetchError, match="no public set 'beuaty'"):
        fetch("beuaty", tmp_path)
    with pytest.raises(FetchError, match="404"):
        sets = one(host)
        host.files.clear()
        fetch("set", tmp_path, sets)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FetchError, match="not fetched by this command"):
        fetch("mine", tmp_path, {"mine": sets["set"]})
    nowhere = PublicFile("http://127.0.0.1:9/x")  # the discard port: nobody listens
    monkeypatch.setitem(SETS, "nowhere", PublicSet("", "", (nowhere,)))
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    with pytest.raises(SystemExit):
        main(["nowhere", "--to", str(tmp_path)])
    said = capsys.readouterr().err
    assert said.startswith("error: http://127.0.0.1:9/x: no connection") and said.count("\n") == 1


def test_the_list_names_every_set(capsys):
    main(["--list"])
    said = capsys.readouterr().out
    assert said.strip() == listing().strip() and len(said.splitlines()) == len(SETS)
    assert all(len(f.sha256) in (0, 64) for public in SETS.values() for f in public.files)
