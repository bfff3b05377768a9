"""Is every case of the fault catalogue covered by a test that names it, or listed with the reason why not?"""

from pathlib import Path

import pytest

from tests.faults.catalogue import CANNOT_APPLY, CASES, case_of, groups, named_cases

FAULTS = Path(__file__).parents[1] / "faults"
SIZES = {
    "CFG": 14,
    "RPC": 26,
    "CHN": 11,
    "ORC": 12,
    "TXL": 24,
    "STO": 10,
    "SEC": 12,
    "HTP": 9,
    "RES": 9,
    "SHD": 8,
    "ECO": 24,
}
LEAST_REASON = 20


def test_the_catalogue_has_every_group_whole():
    assert {group: sum(each.startswith(group) for each in CASES) for group in groups()} == SIZES


def test_every_case_is_named_by_a_test_or_listed_with_its_reason():
    named = named_cases(FAULTS).keys()
    assert sorted(CASES.keys() - named - CANNOT_APPLY.keys()) == []


def test_no_case_is_both_tested_and_said_not_to_apply():
    assert sorted(named_cases(FAULTS).keys() & CANNOT_APPLY.keys()) == []


def test_no_test_names_a_case_that_the_catalogue_does_not_have():
    named = named_cases(FAULTS)
    assert {case: named[case] for case in named.keys() - CASES.keys()} == {}
    assert CANNOT_APPLY.keys() <= CASES.keys()


def test_every_reason_is_told_in_words():
    assert [case for case, why in CANNOT_APPLY.items() if len(why) < LEAST_REASON] == []


@pytest.mark.parametrize(
    ("name", "case"),
    [("test_txl_04_a_crash_is_survived", "TXL-04"), ("test_a_crash_is_survived", None), ("test_txl_4_a_crash", None)],
)
def test_a_case_is_read_from_the_beginning_of_a_name(name: str, case: str | None):
    assert case_of(name) == case


def test_only_what_pytest_collects_counts(tmp_path: Path):
    text = (
        "def test_txl_01_a_crash(): ...\n"
        "class TestTimes:\n    async def test_txl_02_a_crash(self): ...\n"
        "class Helper:\n    def test_txl_03_a_crash(self): ...\n"
        "def outer():\n    def test_txl_04_a_crash(): ...\n"
        "def helper_txl_05(): ...\n"
    )
    (tmp_path / "test_txl.py").write_text(text, encoding="utf-8")
    (tmp_path / "txl.py").write_text("def test_txl_06_a_crash(): ...\n", encoding="utf-8")
    assert named_cases(tmp_path).keys() == {"TXL-01", "TXL-02"}
