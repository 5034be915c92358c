"""A few damaged files of each kind; `python -m tests.fuzz` reads thousands."""

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS


def test_damaged_files_are_refused_by_name_and_cost_nobody_else_anything() -> None:
    report = fuzz(60, seed=17, longest_s=120)  # other tests run beside this one
    assert not report.failures
    assert {target for target, _ in report.outcomes} == set(TARGETS)
    again = fuzz(3, seed=17, first=5)
    assert sum(again.outcomes.values()) == 3
