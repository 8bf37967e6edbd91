"""A run with averaged weights, from the command line to the model that comes back."""

import numpy as np
import pytest
import torch

import charlab
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.runs.train import _Training
from charlab.training.checkpoint_file import LAST


@pytest.mark.slow
def test_the_average_is_what_is_reported_and_what_is_loaded(run_tiny, text_path):
    record = run_tiny("averaging=ema", "averaging.decay=0.8", "optimizer=muon", "optimizer.lr=0.02")
    model, vocabulary = charlab.load(record.folder)
    saved = torch.load(record.folder / LAST, weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, saved["training_weights"][f"model.{name}"]) for name, value in weights.items())

    ids = torch.from_numpy(vocabulary.encode(text_path.read_text()))
    validation = ids[int(0.9 * len(ids)) :]
    score = evaluate(model, validation, Blocks(), context_length=8, batch_size=2)
    np.testing.assert_allclose(score.nll, record.metric("blocks")["nll"], rtol=1e-6)
    model.load_state_dict({n.removeprefix("model."): value for n, value in saved["training_weights"].items()})
    trained = evaluate(model, validation, Blocks(), context_length=8, batch_size=2)
    assert abs(trained.nll - score.nll) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("more", [("averaging=ema",), ("optimizer=schedule_free_adamw",)])
def test_killed_while_it_is_evaluated_it_reports_the_average_all_the_same(run_tiny, monkeypatch, tmp_path, more):
    original = _Training._finish
    monkeypatch.setattr(_Training, "_finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_tiny(*more)
    monkeypatch.setattr(_Training, "_finish", original)
    resumed = run_tiny(*more)
    whole = run_tiny(*more, "force=true")
    assert resumed.metrics == whole.metrics
