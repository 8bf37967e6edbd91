"""The YAML files are the schema: their keys are the constructors' keyword-only parameters.

The parameters before the `*` of a signature are supplied by the program (`vocab_size`, `embed_dim`, the optimizer's
model), those after it by the configuration. Code of other packages knows no such convention; there every key
has to be a parameter.
"""

import math
import warnings
from collections.abc import Iterator

import hydra
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from charlab.configuration.build import INSTRUCTIONS, UNKNOWN, signature
from charlab.configuration.compose import Composer, compose
from charlab.configuration.sources import VERSION_BASE, conf_folder
from charlab.configuration.value_types import VALUES
from charlab.errors import UserError
from charlab.types import fits

OVERLAYS = ("experiment", "hydra", "local", "study")  # they construct nothing of their own
FOLDER = conf_folder()
FILES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))
PARTS = [name for name in FILES if "/" in name and name.split("/")[0] not in OVERLAYS]

LEFT_OUT = {
    "data/play": {"path"},  # a corpus that reads no file: data.path=… has to be a mistake
    "data/_base": {"corpus", "path"},  # each option adds its own
}
CHOSEN = {"ngrams"}  # parts that are there only where they are chosen: model/ngrams=hashed


def constructions(node: object) -> Iterator[dict[str, object]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from constructions(child)
    elif isinstance(node, list):
        for child in node:
            yield from constructions(child)


@pytest.mark.parametrize("name", PARTS)
def test_a_file_has_exactly_the_keys_that_its_constructors_leave_to_it(name: str) -> None:
    composed = OmegaConf.load(FOLDER / f"{name}.yaml")
    if "defaults" in composed:
        with initialize_config_dir(str(FOLDER), **VERSION_BASE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "In .*Defaults list is missing `_self_`")  # about primary files, as here
            composed = hydra.compose(name)
    for node in constructions(OmegaConf.to_container(composed, resolve=False)):
        target = str(node["_target_"])
        keys, known = set(node) - INSTRUCTIONS, signature(target)
        assert known is not UNKNOWN, f"{target} cannot be read"
        if target.startswith("charlab."):
            assert keys | CHOSEN == (known.configured - LEFT_OUT.get(name, set())) | CHOSEN, target
        else:
            assert keys <= set(known.annotations), target


def test_no_number_of_charlabs_own_constructors_may_be_infinite_or_nan() -> None:
    known, loose = set(), []
    for name in PARTS:
        for node in constructions(OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=False)):
            target = str(node["_target_"])
            parameters = signature(target) if target.startswith("charlab.") else None
            for key in parameters.configured if parameters else ():
                annotation = parameters.annotations[key]
                if fits(0.5, annotation) and not fits("text", annotation):
                    known.add(key)
                    loose += [(target, key, value) for value in (math.inf, math.nan) if fits(value, annotation)]
    assert {"lr", "eps", "std", "base", "soft_cap", "temperature"} <= known
    assert loose == []


@pytest.mark.parametrize("program", ["train", "evaluate", "generate"])
def test_every_value_at_the_top_of_a_program_has_a_type(program: str) -> None:
    config = Composer(program).job([], complete=False)
    assert set(config) - {"hydra"} == {path.partition(".")[0] for path in VALUES[program]}


@pytest.mark.parametrize(
    "option",
    [
        "adamw",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("adam", "muon", "lion", "schedule_free_adamw", "sam")
        ),
    ],
)
def test_a_decay_rate_is_below_one(option: str) -> None:
    with pytest.raises(UserError, match=r"optimizer\.betas must be a list of 2 values \(a number ≥ 0 and < 1"):
        compose([f"optimizer={option}", "optimizer.betas=[0.9,1.5]"])
