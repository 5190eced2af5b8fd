"""The table in the docs and the tables of the tests have the same cases."""

import re

from tests.bad_input import test_adapter, test_api, test_cli, test_files, test_numbers, test_tokenisation
from tests.bad_input.place import DOCS, Case, read_table

TABLES: dict[str, dict[str, Case]] = {
    "files": test_files.CASES,
    "cli": test_cli.CASES,
    "api": test_api.CASES,
    "adapter": test_adapter.CASES,
    "tokenisation": test_tokenisation.CASES,
    "numbers": test_numbers.CASES,
}


def test_every_case_of_the_docs_is_tested_and_every_tested_one_in_the_docs() -> None:
    found = {module: {name: where for name, (where, _) in rows.items()} for module, rows in read_table().items()}
    assert found == {module: {name: where for name, (where, _) in cases.items()} for module, cases in TABLES.items()}


def test_the_docs_count_their_cases() -> None:
    count = sum(map(len, TABLES.values()))
    assert count >= 60
    assert int(re.findall(r"(\d+) cases", DOCS.read_text(encoding="utf-8"))[0]) == count
