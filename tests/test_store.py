"""Runs in a store, on a real S3 server (moto, on loopback) and on a file system: whole, or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metagen.checkpoint import MANIFEST, WEIGHTS, best_checkpoint, checkpoints, load_checkpoint
from metagen.errors import UserError
from metagen.store import Store, bring_newest, fetch


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a run in an empty store."""
    if request.param == "file":
        yield f"file://{tmp_path}/store/run"
    else:
        yield f"{request.getfixturevalue('s3')}/run"


@pytest.fixture
def store(url: str, trained: Path) -> Store:
    """A store that holds the finished tiny run."""
    store = Store(url)
    store.write("config.yaml", (trained / "config.yaml").read_bytes())
    for path in checkpoints(trained):
        store.publish(path)
    return store


def _damage(store: Store, name: str) -> None:
    data = store.read(f"checkpoints/{name}/{WEIGHTS}")
    assert data
    store.write(f"checkpoints/{name}/{WEIGHTS}", data[: len(data) // 2])


def test_a_checkpoint_comes_back_bit_for_bit(
    store: Store, trained: Path, tmp_path: Path, assert_same_state: Any
) -> None:
    assert store.checkpoints() == ["step-000002", "step-000004", "final"]
    for name in store.checkpoints():
        copy = store.pull(name, tmp_path / "here")
        assert_same_state(load_checkpoint(copy).state, load_checkpoint(trained / "checkpoints" / name).state)
        for file in (WEIGHTS, MANIFEST):
            assert (copy / file).read_bytes() == (trained / "checkpoints" / name / file).read_bytes()


def test_an_upload_that_was_cut_short_is_no_checkpoint(
    url: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of that name was there before: it is gone before its weights change."""
    store, folder = Store(url), trained / "checkpoints" / "final"
    store.publish(folder)
    write = Store.write

    def dies(self: Store, name: str, data: bytes) -> None:
        if name.endswith(MANIFEST):
            raise UserError("the machine is gone")
        write(self, name, data)

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(UserError, match="gone"):
        store.publish(folder)
    assert store.checkpoints() == []
    assert store.read(f"checkpoints/final/{WEIGHTS}") is not None


def test_the_newest_whole_one_is_brought_and_the_damaged_are_told(store: Store, tmp_path: Path) -> None:
    _damage(store, "final")
    store.delete(f"checkpoints/step-000004/{WEIGHTS}")
    told: list[str] = []
    found = bring_newest(store, tmp_path / "here", told.append)
    assert found == tmp_path / "here" / "checkpoints" / "step-000002"
    assert load_checkpoint(found).state.step == 2
    assert ["final" in told[0], "step-000004" in told[1], len(told)] == [True, True, 2]
    assert all(text.startswith(f"skipped: {store.url}") for text in told)
    assert checkpoints(tmp_path / "here") == [found]


def test_what_is_here_and_whole_is_not_copied_again_and_what_is_damaged_here_is(
    store: Store, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(trained, here)
    pulled: list[str] = []
    pull = Store.pull
    monkeypatch.setattr(Store, "pull", lambda self, name, run: (pulled.append(name), pull(self, name, run))[1])
    assert bring_newest(store, here, pytest.fail) == here / "checkpoints" / "final"
    assert pulled == []
    (here / "checkpoints" / "final" / WEIGHTS).write_bytes(b"torn")
    assert bring_newest(store, here, pytest.fail) == here / "checkpoints" / "final"
    assert pulled == ["final"]


def test_an_empty_store_has_no_checkpoint(url: str, tmp_path: Path) -> None:
    store = Store(url)
    assert (store.checkpoints(), store.best(), store.read("config.yaml")) == ([], None, None)
    store.delete("nothing")
    assert bring_newest(store, tmp_path / "here", pytest.fail) is None
    with pytest.raises(UserError, match="no whole checkpoint there"):
        fetch(url, tmp_path, pytest.fail)


def test_pruning_keeps_the_newest_the_best_and_the_final_one(store: Store, trained: Path) -> None:
    """The best of the newest phase: of steps 4 and 5, whose losses are of another kind than those before."""
    best = best_checkpoint(trained)
    assert best is not None
    assert best.name in ("step-000004", "final")
    assert store.best() == best.name
    store.prune(keep=1)
    assert store.checkpoints() == ["step-000004", "final"]
    assert store.read(f"checkpoints/step-000002/{WEIGHTS}") is None


def test_a_checkpoint_is_fetched_by_run_by_name_and_by_best(store: Store, tmp_path: Path) -> None:
    for end, names in (
        ("", ("final",)),
        ("/", ("final",)),
        ("/checkpoints/step-000002", ("step-000002",)),
        ("/checkpoints/best", ("step-000004", "final")),
    ):
        found = fetch(store.url + end, tmp_path / "fetched", pytest.fail)
        assert found.name in names
        assert found.is_relative_to(tmp_path / "fetched")
        load_checkpoint(found)
    with pytest.raises(UserError, match="no such checkpoint; there are: step-000002, step-000004, final"):
        fetch(f"{store.url}/checkpoints/step-9", tmp_path, pytest.fail)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://a/b", "unknown kind of store 'ftp': use s3://, gs://, abfs://"),
        ("s3://", "not an address of a store"),
        ("s3://a/../../b", "not an address of a store"),
        ("file:///a/./b", "not an address of a store"),
    ],
)
def test_an_address_that_is_none_is_one_line(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Store(url)
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_one_line(s3: str, trained: Path) -> None:
    store = Store("s3://no-such-bucket/run")
    with pytest.raises(UserError, match="cannot be written") as caught:
        store.publish(trained / "checkpoints" / "final")
    assert "\n" not in str(caught.value)
