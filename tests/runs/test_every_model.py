"""Every `conf/model/*.yaml` trains, is interrupted, continues and ends in the same bits, evaluates and generates."""

import pytest

import charlab
from charlab.generation import generate_whole
from charlab.training.module import LanguageModelModule
from tests.helpers.models import ALIKE, MODELS, SHARED, SMALLER
from tests.helpers.tiny_runs import assert_same_outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=pytest.mark.thorough if name in ALIKE else ()) for name in MODELS]
)
def test_interrupted_and_continued(model, text_path, tmp_path, monkeypatch):
    def run(output):
        paths = (f"data.path={text_path}", f"output_dir={tmp_path / output}")
        return charlab.run(f"model={model}", *SHARED, *SMALLER.get(model, []), *paths)

    whole = run("whole")
    original = LanguageModelModule.training_step

    def training_step(self, window, batch_idx):
        if self.micro_batches == 15:
            raise RuntimeError("the power failed")
        return original(self, window, batch_idx)

    if whole.steps > 1:  # counts are done at once
        with monkeypatch.context() as patch:
            patch.setattr(LanguageModelModule, "training_step", training_step)
            with pytest.raises(RuntimeError, match="the power failed"):
                run("interrupted")
    resumed = run("interrupted")
    assert resumed.status == "finished"
    assert_same_outcome(whole, resumed)
    assert not resumed.causality["leaks"], resumed.causality["reason"]
    trained, vocabulary = charlab.load(resumed.folder)
    (text,) = generate_whole(trained, vocabulary, "to\nbe\n", 30, seed=1)
    assert len(text) == 36
