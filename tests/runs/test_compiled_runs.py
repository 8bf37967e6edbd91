"""A guard of speed without a clock: one graph per run, kernels that later processes find, and the same bits."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

import charlab
from charlab.errors import UserError
from charlab.training.module import LanguageModelModule
from tests.helpers.models import MODELS, SHARED, SMALLER
from tests.helpers.tiny_runs import TINY, assert_same_outcome
from tests.helpers.warm import warm

RECURRENT = {"rnn", "gru", "lstm"}  # torch's own layers, which it does not trace into
TRAINED_OTHERWISE = {name for name in MODELS if name.startswith("ngram")} | {"ensemble", "context_mixing"}

pytestmark = [  # torch's own
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


COMPILED_FIRST = {"gpt", "lstm", "hybrid", "masked_diffusion", "mamba"}  # the others have parts like theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        model if model in COMPILED_FIRST else pytest.param(model, marks=pytest.mark.thorough)
        for model in sorted(set(MODELS) - TRAINED_OTHERWISE)
    ],
)
def test_a_run_has_one_graph(model, text_path, tmp_path, monkeypatch):
    """No graph break, and no second graph for an evaluation, a check or a text of another length."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    command = [
        f"model={model}",
        *SHARED,
        *SMALLER.get(model, []),
        "compute.compile=true",
        f"data.path={text_path}",
        f"output_dir={tmp_path}",
    ]
    if model in RECURRENT:
        with pytest.raises(UserError, match=r"torch cannot compile \w+ here .*set compute.compile=false"):
            charlab.run(*command)
        return
    with torch._dynamo.config.patch(error_on_recompile=True):
        record = charlab.run(*command)
    assert record.status == "finished"
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
def test_kernels_are_found_again_and_a_killed_run_ends_in_the_same_bits(text_path, tmp_path, monkeypatch):
    """The first process compiles; this one, which is interrupted and continues, finds all in the cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    command = [*TINY, "compute.compile=true", "compute.threads=1", f"data.path={text_path}"]
    first = [f"output_dir={tmp_path / 'whole'}"]
    program = "import sys, charlab; charlab.run(*sys.argv[1:])"
    subprocess.run(warm([sys.executable, "-c", program, *command, *first]), check=True, capture_output=True)
    whole = charlab.run(*command, *first)  # it is finished: this reads its record

    original = LanguageModelModule.training_step

    def training_step(self, window, batch_idx):
        if self.micro_batches == 15:
            raise RuntimeError("the power failed")
        return original(self, window, batch_idx)

    second = [*command, f"output_dir={tmp_path / 'interrupted'}"]
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", training_step)
        with pytest.raises(RuntimeError, match="the power failed"):
            charlab.run(*second)
    torch.compiler.reset()
    resumed = charlab.run(*second)
    assert counters["aot_autograd"]["autograd_cache_hit"] == 2
    assert counters["aot_autograd"]["autograd_cache_miss"] == 0
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    assert_same_outcome(whole, resumed)
