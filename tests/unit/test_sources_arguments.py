from __future__ import annotations

import pytest

from harness.errors import ModelSourceError
from harness.sources.arguments import parse_arguments


def test_literal_arguments() -> None:
    """Constructor arguments are literals by name."""
    text = "dropout_prob=0.1, width=-16, kind='a, b=c', sizes=[1, (2, 3)], last={'x': None},"

    assert {
        "dropout_prob": 0.1,
        "width": -16,
        "kind": "a, b=c",
        "sizes": [1, (2, 3)],
        "last": {"x": None},
    } == parse_arguments(text)
    assert {} == parse_arguments(" ")
    assert {"p": 1} == parse_arguments("p=1 # a comment")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.1", "0.1 has no name"),
        ("p=open('x')", "is not a literal"),
        ("p=__import__('os')", "is not a literal"),
        ("p=width", "p=width is not a literal"),
        ("p=1, p=2", "p is given twice"),
        ("**{'p': 1}", "has no name"),
        ("p=1)(q=2", "a bracket is closed"),
        ("p=1) + _(q=2", "a bracket is closed"),
        # Python's own message, which depends on its version.
        ("p=", "got args='p=': "),
        ("p=\0", "null byte"),
        ("p=" + "[" * 900, "got args"),
        ("p=" + "1" * 3000, "longer than 2,000"),
        ("p={[]: 1}", "is not a literal"),
    ],
)
def test_arguments_that_are_no_literals(text: str, words: str) -> None:
    """Code, positional arguments and repeated names are refused with the reason."""
    with pytest.raises(ModelSourceError, match="expected constructor arguments as name=literal") as caught:
        parse_arguments(text)
    assert words in str(caught.value)
