"""Who is forgotten is gone from every kind of file, and nobody else's data change by a byte, also after a kill."""

import csv
import gzip
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from jaxrec import checkpoint, config, files
from jaxrec import forget as command
from jaxrec.data.feature_store import FeatureConfig, open_features
from jaxrec.privacy import forget as module
from jaxrec.privacy.banks import names_in
from jaxrec.privacy.forget import Who, forget
from jaxrec.privacy.spans import PrivacyError

PEOPLE = ("maria", "anna", "mariana")
MARK = "secret-of-{}-here"


def secret(name: str) -> str:
    return MARK.format(name)


def plant(root: Path) -> Path:
    """Everything that is kept of three people and two tenants, each with a mark of its own in it."""
    rows = [{"user": n, "tenant": t, "said": secret(n)} for n in PEOPLE for t in ("shop", "bank")]
    text = lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    put = lambda place, content: files.write_atomically(root / place, content)
    for name in PEOPLE:
        put(f"chats/{name}.jsonl", text([{"said": secret(name)}]))
        put(f"users/{name}/profile.bin", secret(name))
        put(f"talks/{len(name)}{name[-1]}.json", json.dumps({"owner": name, "said": secret(name)}))
        put(f"vectors/{name}.npy", secret(name))
    for tenant in ("shop", "bank"):
        put(f"indexes/x{tenant[0]}/index.json", json.dumps({"tenant": tenant, "files": {}}))
        put(f"indexes/x{tenant[0]}/passages.jsonl", text([{"text": secret(tenant)}]))
        put(f"tenants/{tenant}/deltas/maria.bin", secret("maria"))
        put(
            f"tenants/{tenant}/events.jsonl", text([{"user": n, "said": secret(n)} for n in PEOPLE])
        )
    put("events.jsonl", text(rows) + '{"user": "maria", damaged\n')
    put("packed.jsonl.gz", gzip.compress(text(rows).encode(), mtime=0))
    held = io.StringIO()
    table = csv.writer(held)
    table.writerows(
        [["user_id", "tenant", "said"]] + [[n, "shop", f'{secret(n)},\n"and" more'] for n in PEOPLE]
    )
    put("events.csv", held.getvalue())
    put(
        "all.json",
        json.dumps(
            {"people": {n: secret(n) for n in PEOPLE}, "maria": "a key", "rows": rows}, indent=1
        ),
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "events.parquet")
    np.savez(
        root / "table.npz",
        people=np.array(PEOPLE),
        p=np.arange(6.0).reshape(3, 2),
        other=np.ones(5),
    )
    with closing(sqlite3.connect(root / "twin.db")) as db, db:
        db.execute("CREATE TABLE memories (person TEXT, tenant TEXT, said TEXT)")
        db.execute("CREATE TABLE words (word TEXT)")
        db.executemany(
            "INSERT INTO memories VALUES (?, ?, ?)",
            [(r["user"], r["tenant"], r["said"]) for r in rows],
        )
    put("fitted/flow.json", "{}")
    put("fitted/shop.json", json.dumps({"users": list(PEOPLE)}))
    put("runs/other/model.safetensors", b"weights")
    put("runs/other/chat.txt", "anna wrote to maria, and maria to mariana")
    (root / "chats/link").symlink_to(root / "runs")
    return root  # fmt: skip


def sums(root: Path) -> dict[str, str]:
    """The hash of every file, of the name of every link."""
    return {
        str(path.relative_to(root)): "link" if path.is_symlink() else files.file_hash(path)
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def told(root: Path) -> bytes:
    """All bytes of all files, unpacked."""
    parts = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        parts.append(gzip.decompress(data) if path.suffix == ".gz" else data)
        if path.suffix == ".parquet":
            parts.append(repr(parquet.read_table(path).to_pylist()).encode())
        if path.suffix == ".npz":
            with np.load(path) as held:
                parts += [repr(held[name].tolist()).encode() for name in held.files]
    return b"\n".join(parts)


SHARED = {
    "events.jsonl", "packed.jsonl.gz", "events.csv", "all.json", "events.parquet", "table.npz", "twin.db",
    "tenants/shop/events.jsonl", "tenants/bank/events.jsonl",
}  # fmt: skip
OWN = {
    "chats/maria.jsonl", "users/maria/profile.bin", "talks/5a.json", "vectors/maria.npy",
    "tenants/shop/deltas/maria.bin", "tenants/bank/deltas/maria.bin", "fitted/flow.json", "fitted/shop.json",
}  # fmt: skip


def test_a_person_is_gone_and_everybody_else_is_as_before(tmp_path):
    root = plant(tmp_path / "all")
    before, rows = sums(root), json.loads((root / "all.json").read_text())["rows"]
    report = forget(Who(user="maria"), [root])
    after = sums(root)
    assert set(before) - set(after) == OWN
    assert {name for name in after if after[name] != before.get(name)} == SHARED
    whole = told(root)
    assert secret("maria").encode() not in whole
    # of the others nothing is lost, in no kind of file
    left = [row for row in rows if row["user"] != "maria"]
    lines = "".join(json.dumps(row) + "\n" for row in left)
    assert (root / "events.jsonl").read_text() == lines + '{"user": "maria", damaged\n'
    assert gzip.decompress((root / "packed.jsonl.gz").read_bytes()).decode() == lines
    table = (root / "events.csv").read_bytes().decode()
    said = lambda name: f'{name},shop,"{secret(name)},\n""and"" more"\r\n'
    assert table == "user_id,tenant,said\r\n" + said("anna") + said("mariana")
    held = json.loads((root / "all.json").read_text())
    assert held == {
        "people": {n: secret(n) for n in ("anna", "mariana")},
        "maria": "a key",
        "rows": left,
    }
    assert parquet.read_table(root / "events.parquet").to_pylist() == left
    with np.load(root / "table.npz") as arrays:
        assert arrays["people"].tolist() == ["anna", "mariana"] and arrays["p"].tolist() == [
            [2, 3],
            [4, 5],
        ]
        assert len(arrays["other"]) == 5
    with closing(sqlite3.connect(root / "twin.db")) as db:
        assert db.execute("SELECT person, tenant, said FROM memories").fetchall() == [
            tuple(r.values()) for r in left
        ]
    # what is said
    assert {str(r.place.relative_to(root)) for r in report.removed} == {
        *SHARED, "chats/maria.jsonl", "users/maria", "talks/5a.json", "vectors/maria.npy", "fitted",
        "tenants/shop/deltas/maria.bin", "tenants/bank/deltas/maria.bin",
    }  # fmt: skip
    still = {str(path.relative_to(root)): count for path, count in report.still}
    assert still == {"runs/other/chat.txt": 2, "events.jsonl": 1, "all.json": 1}


def test_a_tenant_goes_with_all_its_users_and_no_other_tenant(tmp_path):
    root = plant(tmp_path / "all")
    before = sums(root)
    forget(Who(tenant="shop"), [root])
    assert secret("shop").encode() not in told(root) and secret("bank").encode() in told(root)
    gone = set(before) - set(sums(root))
    assert gone == {name for name in before if name.startswith(("tenants/shop", "indexes/xs"))}
    rows = json.loads((root / "all.json").read_text())["rows"]
    assert [row["tenant"] for row in rows] == ["bank"] * 3


def test_a_user_of_one_tenant_keeps_what_other_tenants_know(tmp_path):
    root = plant(tmp_path / "all")
    before = sums(root)
    forget(Who(tenant="shop", user="maria"), [root])
    assert set(before) - set(sums(root)) == {"tenants/shop/deltas/maria.bin"}
    said = [
        json.loads(line)
        for line in gzip.decompress((root / "packed.jsonl.gz").read_bytes()).splitlines()
    ]
    assert [r["tenant"] for r in said if r["user"] == "maria"] == ["bank"]
    with closing(sqlite3.connect(root / "twin.db")) as db:
        assert db.execute("SELECT tenant FROM memories WHERE person = 'maria'").fetchall() == [
            ("bank",)
        ]
    assert secret("maria") not in (root / "tenants/shop/events.jsonl").read_text()
    assert secret("maria") in (root / "tenants/bank/events.jsonl").read_text()


@pytest.mark.parametrize("after", [0, 4, 9, 14, 17, 18])
def test_stopped_anywhere_and_run_again_it_is_done(tmp_path, monkeypatch, after):
    root = plant(tmp_path / "all")
    whole = tmp_path / "whole"
    shutil.copytree(root, whole, symlinks=True)
    forget(Who(user="maria"), [whole])
    left = [after]

    def tired(name: str, owner):
        real = getattr(owner, name)

        def step(*given, **more):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*given, **more)

        monkeypatch.setattr(owner, name, step)

    tired("rmtree", shutil)
    tired("rename", Path)
    tired("replace", Path)
    tired("unlink", Path)
    try:
        forget(Who(user="maria"), [root])
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    monkeypatch.undo()
    assert stopped == (after < 18), "the steps have changed in number: try all of them again"
    if stopped:
        assert forget(Who(user="maria"), [root]).resumed
    drop = lambda held: {k: v for k, v in held.items() if not k.endswith(("twin.db", ".npz"))}
    assert drop(sums(root)) == drop(sums(whole)) and set(sums(root)) == set(sums(whole))
    assert secret("maria").encode() not in told(root)


@pytest.mark.parametrize("which", [0, 1])
def test_half_a_removed_folder_is_finished_by_the_next_run(tmp_path, monkeypatch, which):
    root, seen, real = plant(tmp_path / "all"), [], shutil.rmtree

    def stopped(folder: Path) -> None:
        seen.append(folder)
        if len(seen) <= which:
            return real(folder)
        min(Path(folder).iterdir()).unlink()  # the file by which it was known to be hers
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        forget(Who(user="maria"), [root])
    monkeypatch.undo()
    forget(Who(user="maria"), [root])
    assert not (root / "fitted").exists() and not list(root.rglob(".forg*"))
    assert not (root / "users/maria").exists() and (root / "users/anna").exists()


def test_one_who_is_done_after_a_stop_is_no_stranger(tmp_path, monkeypatch):
    root = plant(tmp_path / "all")
    monkeypatch.setattr(module, "_mentions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        forget(Who(user="maria"), [root])
    monkeypatch.undo()
    report = forget(Who(user="maria"), [root])
    assert (report.removed, report.resumed) == ((), True)
    with pytest.raises(PrivacyError, match="nothing is kept of user 'maria'"):
        forget(Who(user="maria"), [root])


# ---------------------------------------------------------------------------------------------- p, Deltas, features


def bank(folder: Path) -> None:
    leaf = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)  # [layers, rows, ...]
    params = {
        "p": np.eye(3, dtype=np.float32),
        "p_encoder": np.eye(3, dtype=np.float32) * 2,
        "delta": {"stacks": {"stack_0": {"lora": {"a": leaf}}}, "outer": {"prompt": leaf[0]}},
    }
    facts = {
        "tenants": ["a", "b", "c"],
        "own": ["b", "c"],
        "own_delta": {"lora_rank": 1},
        "model": "m",
    }
    checkpoint.save_params(folder, params, facts)


def test_rows_of_p_and_of_deltas_go_and_the_others_keep_theirs(tmp_path):
    folder = tmp_path / "runs" / "personalize" / "profile"
    bank(folder)
    files.write_atomically(folder.parent / "checkpoints" / "1" / "state", "b's p among others")
    store = open_features(
        FeatureConfig(str(tmp_path / "runs" / "kept")), {"x": 1}, (2, 3), ["a", "b"]
    )
    other = open_features(FeatureConfig(str(tmp_path / "runs" / "kept")), {"x": 2}, (2, 3), ["a"])
    report = forget(Who(tenant="b"), [tmp_path / "runs"])
    assert sorted(str(r.place.relative_to(tmp_path / "runs")) for r in report.removed) == [
        f"kept/{store.folder.name}", "personalize/checkpoints", "personalize/profile",
    ]  # fmt: skip
    assert other.folder.is_dir() and not store.folder.exists()
    facts, params = checkpoint.load_facts(folder), checkpoint.load_params(folder)
    assert (facts["tenants"], facts["own"]) == (["a", "c"], ["c"])
    assert params["p"].tolist() == [[1, 0, 0], [0, 0, 1]] and params["p_encoder"].tolist() == [
        [2, 0, 0],
        [0, 0, 2],
    ]
    leaf = params["delta"]["stacks"]["stack_0"]["lora"]["a"]
    assert leaf.tolist() == [[[3, 4, 5]], [[9, 10, 11]]]
    assert params["delta"]["outer"]["prompt"].tolist() == [[3, 4, 5]]
    forget(Who(tenant="c"), [folder])
    assert names_in(folder) == ["a"] and set(checkpoint.load_params(folder)) == {"p", "p_encoder"}
    forget(Who(tenant="a"), [tmp_path / "runs"])
    assert not folder.exists()


# ---------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("who", "folders", "said"),
    [
        ({}, ["all"], "say who is to be forgotten, by --tenant or --user"),
        ({"user": "../anna"}, ["all"], "is nobody's name"),
        ({"user": "x "}, ["all"], "is nobody's name"),
        (
            {"user": "marie"},
            ["all"],
            "nothing is kept of user 'marie' in all: 31 files were searched",
        ),
        ({"tenant": "maria"}, ["all"], "nothing is kept of tenant 'maria'"),
        ({"user": "mari"}, ["all"], "nothing is kept"),
        ({"user": "maria"}, ["none"], "there is no folder"),
        ({"user": "maria"}, [], "say which folders"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(
    tmp_path, monkeypatch, capsys, who, folders, said
):
    monkeypatch.chdir(tmp_path)
    before = sums(plant(tmp_path / "all"))
    argv = [word for key, name in who.items() for word in (f"--{key}", name)]
    with pytest.raises(SystemExit) as stop:
        config.run(command.main, command.ForgetConfig, argv=[*argv, "--folders", *folders])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and said in error and error.count("\n") == 1
    assert sums(tmp_path / "all") == before


def test_looking_changes_nothing_and_names_what_would_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sums(plant(tmp_path / "all"))
    run = lambda *argv: config.run(command.main, command.ForgetConfig, argv=list(argv))
    run("--user", "maria", "--folders", "all", "--look")
    looked = capsys.readouterr().out.splitlines()
    assert sums(tmp_path / "all") == before and "would be removed" in looked[-2]
    run("--user", "maria", "--folders", "all")
    done = capsys.readouterr().out.splitlines()
    strip = lambda lines: sorted(line for line in lines if line.startswith("all/"))
    assert strip(done) == strip(looked) and "all/users/maria: folder" in done
    assert "all/events.jsonl: 2 rows" in done and "  all/runs/other/chat.txt: 2 times" in done
    run("--user", "anna", "--folders", "all", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["who"] == {"tenant": "", "user": "anna"} and len(report["removed"]) == 13
