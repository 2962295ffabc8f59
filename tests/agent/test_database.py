from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from closeranks_agent.disk.database import Damaged, Database
from closeranks_agent.disk.records import StateUnavailable

SCHEMA = "CREATE TABLE t (n INTEGER PRIMARY KEY)"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "db", SCHEMA, 1)
    yield found
    found.close()


def count(database: Database) -> object:
    return (database.row("SELECT count(*) FROM t") or (None,))[0]


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with database.transaction():
        database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(ZeroDivisionError), database.transaction():
        database.execute_many("INSERT INTO t VALUES (?)", [(2,), (1 // 0,)])
    assert count(database) == 1


def test_a_repeatable_transaction_between_durable_ones_is_kept_in_order(database: Database) -> None:
    for number, durable in enumerate([True, False, True, False]):
        with database.transaction(durable):
            database.execute("INSERT INTO t VALUES (?)", (number,))
    assert count(database) == 4


def test_transactions_of_several_threads_do_not_mix(database: Database) -> None:
    def insert(start: int) -> None:
        for number in range(20):
            with database.transaction(durable=False):
                database.execute("INSERT INTO t VALUES (?)", (start + number,))

    threads = [threading.Thread(target=insert, args=(100 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 80


def test_another_format_is_damaged_in_our_eyes(tmp_path: Path) -> None:
    Database(tmp_path / "db", SCHEMA, 1).close()
    with pytest.raises(Damaged, match="another version"):
        Database(tmp_path / "db", SCHEMA, 2)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (apsw.FullError("full"), "no_space"),
        (apsw.ReadOnlyError("ro"), "read_only"),
        (apsw.IOError("io"), "io_error"),
    ],
)
def test_what_the_disk_does_is_a_problem_in_words(database: Database, raised: Exception, code: str) -> None:
    with pytest.raises(StateUnavailable) as caught, database.transaction():
        raise raised
    assert caught.value.problem.code == code
    assert str(database.path.parent) in caught.value.problem.message
    assert count(database) == 0


def test_a_second_process_can_not_write(database: Database) -> None:
    with database.transaction():
        database.execute("INSERT INTO t VALUES (1)")
    other = apsw.Connection(str(database.path))
    with pytest.raises(apsw.BusyError):
        other.execute("INSERT INTO t VALUES (2)")
    other.close()
