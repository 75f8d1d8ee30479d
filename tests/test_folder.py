"""Public data sets are found by JAXREC_DATA, and what is wrong with it is said."""

import pytest

from jaxrec.config import RunError
from jaxrec.data.folder import DataMissing, dataset


def test_a_data_set_is_a_folder_of_its_name(monkeypatch, tmp_path):
    (tmp_path / "sgd").mkdir()
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    assert dataset("sgd") == tmp_path / "sgd"


@pytest.mark.parametrize(
    ("root", "said"),
    [("", "set JAXREC_DATA"), ("here", "there are: other, sgd"), ("nowhere", "no data set 'sdg'")],
)
def test_what_is_missing_is_named(monkeypatch, tmp_path, root, said):
    for name in ("sgd", "other"):
        (tmp_path / "here" / name).mkdir(parents=True)
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path / root) if root else "")
    with pytest.raises(DataMissing, match=said) as error:
        dataset("sdg")
    assert isinstance(error.value, RunError) and isinstance(error.value, FileNotFoundError)
