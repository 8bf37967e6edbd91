import pytest
from hydra.errors import HydraException
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from charlab.configuration.compose import compose
from charlab.configuration.overrides import parse, prepare, text_of
from charlab.errors import UserError


@pytest.mark.slow
@given(st.text())
@example("ROMEO: hi, you")
@example("first\nsecond\ttabbed")
@example('\'Tis "quoted" \\ and \\\\${name} ${oc.env:HOME} \\')
@example("[1, {a: (b")
@example("\\")
@example("null")
@example("3")
@example("")
def test_a_prompt_is_taken_as_typed(text: str) -> None:
    assume(text != "???")  # OmegaConf's sign for a missing value
    assume(not (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""))  # as Hydra quotes
    value = parse(prepare(f"prompt={text}")).value()
    assert OmegaConf.create({"prompt": value}).prompt == text


@pytest.mark.parametrize("quoted", ["'ROMEO: a, b'", '"ROMEO: a, b"'])
def test_a_prompt_quoted_as_hydra_wants_it_is_left_alone(quoted: str) -> None:
    assert prepare(f"prompt={quoted}") == f"prompt={quoted}"


@pytest.mark.parametrize("value", ["/home/josé/my file (1).txt", "~/text.txt", "a#b", "3]", "x!", "C:\\texts\\é.txt"])
def test_values_that_hydra_cannot_read_are_texts(value: str) -> None:
    with pytest.raises(HydraException):
        parse(f"data.path={value}")
    assert parse(prepare(f"data.path={value}")).value() == value


@pytest.mark.parametrize(
    "override", ["seed=[1", "seed=1,é", "seed='a", "seed={a", "seed", "~seed", "seed=3", "a/b@c=d", "x=${y}", "=3"]
)
def test_what_may_mean_something_else_is_left_alone(override: str) -> None:
    assert prepare(override) == override


def test_groups_that_take_several_options_get_a_list() -> None:
    groups = {"logger"}
    assert prepare("logger=tensorboard,csv", groups) == "logger=[tensorboard,csv]"
    assert prepare("logger=csv", groups) == "logger=csv"
    assert prepare("logger=[csv],[tensorboard]", groups) == "logger=[csv],[tensorboard]"
    assert prepare("logger=choice(csv,tensorboard)", groups) == "logger=choice(csv,tensorboard)"
    assert prepare("model=gpt,bigram", groups) == "model=gpt,bigram"


def test_null_chooses_nothing_of_a_group() -> None:
    assert prepare("logger=null", {"logger"}, {"logger", "callbacks"}) == "logger=[]"
    assert prepare("~logger", {"logger"}, {"logger", "callbacks"}) == "logger=[]"
    assert prepare("callbacks=null", {"logger"}, {"logger", "callbacks"}) == "~callbacks"
    assert prepare("~callbacks", {"logger"}, {"logger", "callbacks"}) == "~callbacks"
    assert prepare("seed=null", {"logger"}, {"logger", "callbacks"}) == "seed=null"


@pytest.mark.parametrize("value", ["1984", "1e5", "true", "~", "a.txt"])
def test_the_value_of_a_text_key_is_text(value: str) -> None:
    assert parse(prepare(f"data.path={value}", text_keys={"data.path"})).value() == value


@pytest.mark.parametrize("value", ["2024", "1e5", "true"])
def test_the_option_of_a_group_is_text(value: str) -> None:
    assert parse(prepare(f"study={value}", groups={"study"})).value() == value


@pytest.mark.parametrize("key", ["note", "init_from", "data.path"])
def test_null_is_none_unless_it_is_quoted(key: str) -> None:
    for value, meant in (("null", None), ("NULL", None), ("'null'", "null")):
        assert OmegaConf.select(compose(["model=bigram", f"{key}={value}"]), key) == meant


@pytest.mark.parametrize("text", ["a b", "a=b", "", "[1]"])
def test_a_value_is_the_same_text_with_and_without_quotes(text: str) -> None:
    assert text_of(f"extend={text}") == text_of(f"extend='{text}'") == text


def test_a_text_that_hydra_cannot_express_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.path=\?\?\? cannot be expressed.*give data\.path=\./\?\?\?"):
        prepare("data.path=???", text_keys={"data.path"})
    with pytest.raises(UserError, match=r"prompt=\?\?\? cannot be expressed"):
        prepare("prompt=???")
    quoted = r"""make them a list, data\.path=\[a,b\.txt\], or quote it if it is one text, 'data\.path="a,b\.txt"'"""
    with pytest.raises(UserError, match=quoted):
        compose(["data=textfile", "data.path=a,b.txt"])
