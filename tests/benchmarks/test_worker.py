"""What is measured of finished models, of a text short enough for a test."""

from collections.abc import Iterator

import pytest

from benchmarks import worker

RATE = {"characters_per_second", "seconds"}
FOUND = {
    "first": RATE,
    "first_plainly": RATE,
    "first_of_64": RATE,
    "sliding": {"exactly", "plainly"},
    "rebasing": RATE,
    "difference": {"difference"},
    "blocks": {"seconds", "characters_per_second", "characters_per_second_plainly", "difference"},
    "estimate_plainly": RATE,
}
ALIKE = ("first_plainly", "first_of_64", "estimate_plainly")  # other ways to what "first" does


@pytest.fixture(scope="module")
def recipe() -> Iterator[worker.Worker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "VALIDATION_CHARACTERS", 1_000)
        patch.setattr(worker, "ESTIMATED_CHARACTERS", 1_000)
        yield worker.Worker("recipe")


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=pytest.mark.slow if task in ALIKE else ()) for task in FOUND]
)
def test_says_what_figures_ask_for(recipe, task):
    found = recipe(task)
    assert found.keys() == FOUND[task]
    assert all(value >= 0 for value in found.values())
    assert found.get("difference", 0.0) < 1e-5


@pytest.mark.slow
def test_growth_is_asked_of_models_without_a_context_length():
    assert worker.Worker("gru")("growth").keys() == {"growth"}
