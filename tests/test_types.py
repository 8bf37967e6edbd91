from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from charlab.errors import UserError
from charlab.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    checked,
    describe,
    fits,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("annotation", "fitting", "others"),
    [
        (int, [0, -1, np.int64(3)], [1.0, True, "1", None, NAN]),
        (float, [0, 1.5, float("inf"), np.float32(1)], [True, "1", None]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [1, None, ["a"]]),
        (None, [None], [0, False, ""]),
        (PositiveInt, [1, 10**30], [0, -1, 1.0, True, None]),
        (NonNegativeInt, [0, 1], [-1]),
        (PositiveFloat, [1e-300, 1], [0, -1, NAN]),
        (NonNegativeFloat, [0, 0.0], [-1e-300, NAN]),
        (Probability, [0, 0.999], [1, -0.1, NAN]),
        (Fraction, [0, 1], [1.001, -0.001, NAN]),
        (PositiveInt | None, [1, None], [0, "none"]),
        (Literal["pre", "post", 1], ["pre", 1], ["pst", True, 1.0, None]),
        (list[int], [[], [1], (1,)], ["1", 1, [1.5], None]),
        (Sequence[float], [[1, 2.5]], ["12", [None]]),
        (tuple[float, float], [[0.9, 0.99]], [[0.9], [0.9, 0.99, 1], 0.9]),
        (tuple[int, ...], [[], [1, 2, 3]], [[1.5]]),
        (list[PositiveInt | None], [[1, None]], [[0]]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, [], None]),
        (Mapping, [{"a": object()}], [[]]),
        (Path, ["a/b", Path("a")], [1, None]),
        (Any, [None, 1, object()], []),
        (Callable[..., int], [None, {"_target_": "x"}], []),  # no plain data: not judged
    ],
)
def test_fits(annotation: object, fitting: list[object], others: list[object]) -> None:
    assert all(fits(value, annotation) for value in fitting)
    assert not any(fits(value, annotation) for value in others)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (PositiveInt, "an integer ≥ 1"),
        (Probability | None, "a number ≥ 0 and < 1 or none"),
        (Literal["pre", "post"], "one of 'pre', 'post'"),
        (Literal["warn"] | bool, "'warn' or true or false"),
        (list[str], "a list of values, each text"),
        (tuple[float, float], "a list of 2 values (a number, a number)"),
        (dict[str, int], "a mapping"),
        (Path | None, "a path or none"),
    ],
)
def test_describe(annotation: object, words: str) -> None:
    assert describe(annotation) == words


def test_checked_constructors_refuse_what_does_not_fit() -> None:
    class Model:
        @checked
        def __init__(self, width: "PositiveInt", *more: int, placement: Literal["pre", "post"] = "pre", **rest: int):
            self.width = width

    assert Model(3, 4, 5, placement="post", other=6).width == 3
    with pytest.raises(UserError, match=r"width of .*Model must be an integer ≥ 1, not 0\."):
        Model(0)
    with pytest.raises(UserError, match=r"placement of .*Model must be one of 'pre', 'post', not 'pst'\."):
        Model(3, placement="pst")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Model()  # type: ignore[call-arg]
