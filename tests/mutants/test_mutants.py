"""Mutants are found: ten of them here, all of them by `make mutants`."""

import pytest
from mutants.__main__ import MUTANTS, hunt_apart
from mutants.planting import changed, source_of

FOUND_SOON = (
    "TRUTH",
    "HDL",
    "PIN",
    "CANC",
    "REST",
    "RANGE",
    "OUTORD",
    "slots-one-more",
    "fold-resumed",
    "fold-verdict-twice",
)


@pytest.mark.parametrize("name", FOUND_SOON)
def test_a_mutant_is_found_by_the_simulation(name: str) -> None:
    assert hunt_apart(name, 100), MUTANTS[name].what


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_still_stands_in_the_code_that_it_changes(name: str) -> None:
    mutant = MUTANTS[name]
    for module in {edit.module for edit in mutant.edits}:
        text = source_of(module)
        mutated = changed(text, [edit for edit in mutant.edits if edit.module == module])
        assert mutated != text
        compile(mutated, module, "exec")


def test_names_of_mutants_are_unique() -> None:
    from mutants.bugs import BUGS
    from mutants.rules import RULES

    assert len(MUTANTS) == len(RULES) + len(BUGS) and len(BUGS) >= 20
