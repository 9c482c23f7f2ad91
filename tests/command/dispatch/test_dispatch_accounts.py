"""Accounts: made once, kept, private; rights: everybody their own topics and nothing else."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from command.dispatch.accounts import Accounts, PasswordFile, check_password, hash_password
from command.dispatch.topics import SERVICE, check_person_id, may, may_use_client_id
from ingest.errors import GridwatchError


def test_passwords_are_made_once_and_private(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "secrets")
    accounts.ensure(["p-1", "p-2"])
    first = accounts.password("p-1")
    hashes = accounts.passwd_path.read_text()
    accounts.ensure(["p-2", "p-1"])
    assert accounts.password("p-1") == first
    assert accounts.passwd_path.read_text() == hashes
    accounts.ensure(["p-1", "p-3"])
    assert accounts.password("p-1") == first
    with pytest.raises(GridwatchError, match=r"dispatch\.no_account"):
        accounts.password("p-2")
    assert {len(password) for password in json.loads(accounts.path.read_text()).values()} == {32}
    for path in (accounts.path, accounts.passwd_path, accounts.acl_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(accounts.folder.stat().st_mode) == 0o700
    assert first not in accounts.passwd_path.read_text()
    assert sorted(path.name for path in accounts.folder.iterdir()) == ["mqtt_accounts.json", "mqtt_acl", "mqtt_passwd"]


def test_a_damaged_accounts_file_is_told(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)
    accounts.path.write_text("{")
    with pytest.raises(GridwatchError, match=r"dispatch\.accounts_unreadable"):
        accounts.ensure(["p-1"])
    accounts.path.write_text('{"p-1": 7}')
    with pytest.raises(GridwatchError, match=r"dispatch\.accounts_unreadable"):
        accounts.password("p-1")


def test_the_brokers_side_follows_the_file(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path)
    accounts.ensure(["p-1"])
    passwords = PasswordFile(accounts.passwd_path)
    assert passwords.verify("p-1", accounts.password("p-1"))
    assert not passwords.verify("p-1", accounts.password(SERVICE))
    assert not passwords.verify("p-2", "")
    assert not passwords.verify(None, None)
    accounts.ensure(["p-2"])
    assert passwords.verify("p-2", accounts.password("p-2"))
    assert not passwords.verify("p-1", "")


def test_hashes_are_salted() -> None:
    assert hash_password("a") != hash_password("a")
    assert check_password("a", hash_password("a"))
    assert not check_password("b", hash_password("a"))


@pytest.mark.parametrize("person", ["", "a/b", "+", "#", "a:b", SERVICE, "x" * 65, "a b", "a\n", "%u", '"'])
def test_ids_that_would_open_other_topics_are_refused(person: str) -> None:
    with pytest.raises(GridwatchError, match=r"dispatch\.person_id"):
        check_person_id(person)


def test_rights() -> None:
    assert may("p-1", "subscribe", "gridwatch/tasks/p-1")
    assert may("p-1", "receive", "gridwatch/tasks/p-1")
    assert may("p-1", "publish", "gridwatch/answers/p-1")
    assert may("p-1", "publish", "gridwatch/presence/p-1")
    for action, topic in (
        ("subscribe", "gridwatch/tasks/p-2"),
        ("subscribe", "gridwatch/tasks/+"),
        ("subscribe", "#"),
        ("subscribe", "gridwatch/presence/p-1"),
        ("publish", "gridwatch/tasks/p-1"),
        ("publish", "gridwatch/answers/p-2"),
        ("publish", "other"),
    ):
        assert not may("p-1", action, topic)  # type: ignore[arg-type]
    assert may(SERVICE, "subscribe", "gridwatch/answers/+")
    assert not may(SERVICE, "subscribe", "#")
    assert may_use_client_id("p-1", "p-1:phone")
    assert not may_use_client_id("p-1", "p-11")
