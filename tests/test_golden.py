"""The table of worked numbers: every case gives its number, and the document is the table."""

import ast
import contextlib
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import golden
from tests.numeric import both, close

ROOT = pathlib.Path(__file__).parents[1]
CASES = {label: n for label, n in golden.labelled().items() if not n.test}


def as_columns(number):
    """Lists and float arrays in the precision of the case; masks and ids as they are."""
    dtype = jnp.float64 if number.wide else jnp.float32

    def column(x):
        x = np.asarray(x)
        return jnp.asarray(x) if x.dtype in (bool, np.int32) else jnp.asarray(x, dtype)

    return [column(x) for x in number.columns]


@pytest.mark.parametrize("label", CASES)
def test_number(label):
    number = CASES[label]

    @functools.wraps(number.fn)
    def fn(*columns, **settings):
        out = number.fn(*columns, **settings)
        return out[number.of] if number.of else out

    with jax.enable_x64(True) if number.wide else contextlib.nullcontext():
        got = both(fn, *as_columns(number), atol=number.tolerance(), **number.settings)
    assert got.size == np.size(number.want), f"{number.what}: got shape {got.shape}"
    close(got.reshape(np.shape(number.want)), number.want, number.tolerance(), number.what)


def test_tolerances_see_the_last_digit():
    """A number that is wrong by a unit of its last decimal does not pass."""
    for label, number in CASES.items():
        assert number.tolerance() < 10.0**-number.digits, f"{label} {number.what}: too many digits"


def test_every_test_that_holds_a_number_exists():
    for label, number in golden.labelled().items():
        if number.test:
            file, _, name = number.test.partition("::")
            tree = ast.parse((ROOT / "tests" / file).read_text())
            there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in there, f"{label}: no {name} in tests/{file}"


def test_the_document_is_what_the_table_generates():
    text = (ROOT / "docs/worked_numbers.md").read_text()
    assert text == golden.document(), (
        "docs/worked_numbers.md is not up to date: python -m tests.golden > docs/worked_numbers.md"
    )


def test_every_section_has_a_number():
    there = {number.section for number in golden.NUMBERS}
    assert there == set(golden.SECTIONS), f"without a number: {set(golden.SECTIONS) - there}"
    assert {number.tag for number in golden.NUMBERS} == set(golden.TAGS)
