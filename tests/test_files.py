"""Files are whole or not there."""

import hashlib

import numpy as np
import pytest

from jaxrec import files


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    files.write_atomically(path, "old é")
    with pytest.raises(ZeroDivisionError), files.open_atomically(path) as file:
        file.write("new")
        raise ZeroDivisionError
    assert path.read_text("utf-8") == "old é" and list(path.parent.iterdir()) == [path]
    files.write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00" and list(path.parent.iterdir()) == [path]


def test_a_written_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_and_lines(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": [1]}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{"b": [1]}\n'
    rows = [{"a": "é\u2028"}, {"b": 1}]
    files.write_json_lines(tmp_path / "a.jsonl", rows)
    assert files.read_json_lines(tmp_path / "a.jsonl") == rows
    assert files.read_json_lines(tmp_path / "none.jsonl") == []


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "a"
    for content in "12":
        with files.replace_folder(folder) as fresh:
            (fresh / "mark").write_text(content)
    with pytest.raises(ZeroDivisionError), files.replace_folder(folder) as fresh:
        (fresh / "mark").write_text("3")
        raise ZeroDivisionError
    assert (folder / "mark").read_text() == "2" and list(tmp_path.iterdir()) == [folder]
    folder.rename(tmp_path / "a.old")  # as a kill between the two renames leaves it
    assert files.whole_folder(folder, "mark") == tmp_path / "a.old"
    assert files.whole_folder(folder, "other") is None


def test_hashes(tmp_path):
    array = np.arange(6).reshape(2, 3).T
    right = hashlib.sha256("é".encode() + b"b" + np.ascontiguousarray(array).tobytes()).hexdigest()
    assert files.content_hash("é", b"b", array) == right
    assert files.content_hash("é", b"b", array, digits=5) == right[:5]
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_hash(tmp_path / "a") == files.content_hash("abc")
