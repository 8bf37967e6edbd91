import pytest

from charlab.configuration.compose import Composer
from charlab.configuration.overrides import (
    FORMER_KEYS,
    FORMER_OVERRIDES,
    FORMER_VALUES,
    concerns_sweep,
    key_of,
    translate,
)

FORMER = {
    "launcher=basic": ["launcher=local"],
    "launcher=joblib": ["launcher=local", "launcher.at_once=null"],
    "hydra/launcher=slurm": ["launcher=slurm"],
    "hydra/launcher=basic": ["launcher=local"],
    "hydra/launcher=joblib": ["launcher=local", "launcher.at_once=null"],
    "hydra.launcher.n_jobs=2": ["launcher.at_once=2"],
    "hydra.launcher.n_jobs=-1": ["launcher.at_once=null"],
    "hydra.launcher.partition=gpu": ["launcher.partition=gpu"],
    "+hydra.launcher.init.address=auto": ["+launcher.init.address=auto"],
    "trainer.max_seconds=5": ["budget.max_seconds=5"],
    "trainer.threads=2": ["compute.threads=2"],
    "trainer.compile=true": ["compute.compile=true"],
    "trainer.compile=true,false": ["compute.compile=true,false"],
    "trainer.max_steps=null": ["trainer.max_steps=-1"],
    "trainer.precision=float32": ["trainer.precision=32-true"],
    "trainer.precision=float64": ["trainer.precision=64-true"],
    "trainer.precision=bfloat16": ["trainer.precision=bf16-mixed"],
    "trainer.precision=float16": ["trainer.precision=16-mixed"],
    "trainer.precision=float32,bfloat16": ["trainer.precision=32-true,bf16-mixed"],
    "callbacks.evaluation=null": ["trainer.limit_val_batches=0"],
    "~callbacks.evaluation": ["trainer.limit_val_batches=0"],
    "callbacks.evaluation.every_n_steps=7": ["evaluate_every=7"],
    "callbacks.evaluation.num_batches=7": ["estimate_batches=7"],
    "callbacks.metrics=null": ["trainer.log_every_n_steps=0"],
    "~callbacks.metrics": ["trainer.log_every_n_steps=0"],
    "callbacks.metrics.every_n_steps=7": ["trainer.log_every_n_steps=7"],
}
CHOICES = {"launcher.partition=gpu": ["launcher=slurm"], "+launcher.init.address=auto": ["launcher=ray"]}


@pytest.mark.parametrize(("former", "present"), FORMER.items())
def test_a_former_name_is_translated_and_told(former: str, present: list[str]) -> None:
    assert translate([former]) == (present, [f"{former} is now {' '.join(present)}."])


def test_every_entry_of_the_tables_is_tested() -> None:
    assert FORMER_OVERRIDES.keys() <= FORMER.keys()
    assert {f"{key}={value}" for key, values in FORMER_VALUES.items() for value in values} <= FORMER.keys()
    tested = {key_of(former) for former in FORMER}
    below = tested - FORMER_KEYS.keys()  # of prefixes, which end with a dot
    for key in FORMER_KEYS:
        assert key in tested or any(other.startswith(key) for other in below if key.endswith(".")), key


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.slow
@pytest.mark.parametrize("former", [former for former in FORMER if "," not in former])
def test_what_a_former_name_became_is_known_today(composer: Composer, former: str) -> None:
    present = composer.prepare([former])
    if any(map(concerns_sweep, present)):
        composer.master([*CHOICES.get(present[0], []), *present])
    else:
        composer.job(["model=bigram", "data=play", *present])


def test_present_names_stay() -> None:
    overrides = [
        "launcher=slurm",
        "trainer.precision=32-true",
        "trainer.max_steps=5",
        "hydra.searchpath=[a]",
        "~logger",
        "data.path=hydra.launcher.x",
    ]
    assert translate(overrides) == (overrides, [])


def test_hydras_own_launchers_go_with_its_own_sweepers() -> None:
    overrides = ["hydra/sweeper=basic", "hydra/launcher=joblib", "hydra.launcher.n_jobs=-1"]
    assert translate(overrides) == (overrides, [])
    translated, _ = translate(["hydra/sweeper=charlab", *overrides[1:]])
    assert translated[1:] == ["launcher=local", "launcher.at_once=null", "launcher.at_once=null"]


def test_a_translation_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    composer = Composer()
    for _ in range(2):
        assert composer.prepare(["hydra.launcher.n_jobs=17"]) == ["launcher.at_once=17"]
    assert capsys.readouterr().err == "hydra.launcher.n_jobs=17 is now launcher.at_once=17.\n"
