from pathlib import Path

from charlab.configuration.compose import Composer
from tests.configuration.conftest import FILES


def widen(conf: Path, width: int) -> None:
    (conf / "model" / "net.yaml").write_text(FILES["model/net.yaml"].replace("width: 8", f"width: {width}"))


def test_a_file_that_was_changed_is_read_again(conf: Path, composer: Composer) -> None:
    assert composer.job([]).model.width == 8
    widen(conf, 9)
    assert composer.job([]).model.width == 9
    widen(conf, 10)
    assert composer.job([]).model.width == 10


def test_what_was_composed_may_be_changed(composer: Composer) -> None:
    composer.job(["seed=9"]).model.width = 9
    composer.job(["model.width=9"]).model.part.steps = 9
    config = composer.job([])
    assert (config.seed, config.model.width, config.model.part.steps) == (1, 8, 3)
