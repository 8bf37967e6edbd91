import pytest

from charlab.configuration.compose import Composer
from charlab.configuration.overrides import translate


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("launcher=basic", ["launcher=local"]),
        ("launcher=joblib", ["launcher=local", "launcher.at_once=null"]),
        ("hydra.launcher.n_jobs=2", ["launcher.at_once=2"]),
        ("hydra.launcher.n_jobs=-1", ["launcher.at_once=null"]),
        ("hydra.launcher.partition=gpu", ["launcher.partition=gpu"]),
        ("trainer.max_seconds=5", ["budget.max_seconds=5"]),
        ("trainer.threads=2", ["compute.threads=2"]),
        ("trainer.compile=true,false", ["compute.compile=true,false"]),
        ("trainer.max_steps=null", ["trainer.max_steps=-1"]),
        ("trainer.precision=float32,bfloat16", ["trainer.precision=32-true,bf16-mixed"]),
        ("callbacks.evaluation.every_n_steps=7", ["evaluate_every=7"]),
        ("callbacks.evaluation.num_batches=7", ["estimate_batches=7"]),
        ("callbacks.metrics.every_n_steps=7", ["trainer.log_every_n_steps=7"]),
        ("~callbacks.evaluation", ["trainer.limit_val_batches=0"]),
        ("+hydra.launcher.init.address=auto", ["+launcher.init.address=auto"]),
    ],
)
def test_a_former_name_is_translated_and_told(former: str, present: list[str]) -> None:
    assert translate([former]) == (present, [f"{former} is now {' '.join(present)}."])


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


def test_a_translation_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    composer = Composer()
    for _ in range(2):
        assert composer.prepare(["hydra.launcher.n_jobs=17"]) == ["launcher.at_once=17"]
    assert capsys.readouterr().err == "hydra.launcher.n_jobs=17 is now launcher.at_once=17.\n"
