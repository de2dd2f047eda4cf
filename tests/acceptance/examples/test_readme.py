"""What the tutorial shows is what happens."""

from __future__ import annotations

import doctest

from tests.acceptance.examples.conftest import EXAMPLES


def test_the_tutorials_snippets_print_what_it_says() -> None:
    results = doctest.testfile(str(EXAMPLES / "orders" / "README.md"), module_relative=False)
    assert results.attempted > 10
    assert results.failed == 0
