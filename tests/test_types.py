import copy
import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveOrInfinite,
    Probability,
    checked,
    describe,
    fits,
    requirement,
)

NAN, INFINITY = float("nan"), float("inf")


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
        (PositiveFloat, [1e-37, 1, 3e38], [0, -1, NAN, INFINITY, 1e39, 1e-46, 1e-300]),
        (NonNegativeFloat, [0, 0.0], [-1e-300, NAN, INFINITY, 1e-46]),
        (PositiveOrInfinite, [1e-300, 1, INFINITY], [0, -1, NAN]),
        (tuple[PositiveFloat, PositiveFloat] | None, [[1, 2], None], [[1, INFINITY]]),
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
        (Callable[..., int], [print], [None, {"_target_": "x"}]),
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


def test_a_list_arrives_as_a_tuple_and_the_signature_stays_readable() -> None:
    class Model:
        @checked
        def __init__(self, *, betas: tuple[float, float], path: Path | None = None) -> None:
            self.betas, self.path = betas, path

    assert Model(betas=[0.9, 1], path="a").betas == (0.9, 1)  # type: ignore[arg-type]
    assert str(inspect.signature(Model)) == "(*, betas: tuple[float, float], path: pathlib.Path | None = None) -> None"
    assert copy.deepcopy(Model(betas=(0.9, 1))).betas == (0.9, 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "a number > 0, not 0.0"),
        (INFINITY, "a number > 0, not inf, which is infinite"),
        (1e39, "a number > 0, not 1e+39, which is infinite in float32"),
        (1e-46, "a number > 0, not 1e-46, which float32 cannot tell from 0"),
    ],
)
def test_why_a_number_does_not_fit(value: float, words: str) -> None:
    assert requirement(value, PositiveFloat) == words


def test_a_checked_model_lives_on_meta_and_is_pickled() -> None:
    with torch.device("meta"):
        model = Bigram(5)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert isinstance(pickle.loads(pickle.dumps(Bigram(5))), Bigram)
