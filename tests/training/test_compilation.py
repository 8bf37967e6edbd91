"""The training loss is compiled next to the model, without a trace, and only where it pays."""

import io
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.training.callbacks import compilation
from charlab.training.callbacks.compilation import Compilation
from charlab.training.callbacks.progress import ProgressDisplay
from tests.training import options, small

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function


class CountsCalls(small.SmallAttention):
    """Count in a buffer how often it is called; it can be compiled."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens):
        self.calls.add_(1)
        return super().forward(tokens)


class CannotBeCompiled(Bigram):
    def forward(self, tokens):
        print("a compiled function would print this once only")
        return super().forward(tokens)


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """A compiler that traces, and leaves the rest to torch's own operations, to the same bits."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def display():
    return ProgressDisplay(Console(file=io.StringIO(), width=200, _environ={}))


def train(folder, model, *callbacks, **settings):
    torch.manual_seed(0)
    optimizer = options.chosen("optimizer/adamw", lr=0.02)
    model = model(len(options.data().vocabulary))
    return options.train(folder, model, optimizer=optimizer, callbacks=list(callbacks), **settings)


@pytest.mark.slow
def test_a_compiled_run_is_the_run_itself(tmp_path):
    """Dropout draws the same numbers, buffers count the same calls, and checkpoints have the same keys."""
    for choice in (False, True):
        module = train(tmp_path / str(choice), CountsCalls, compile=choice)
        assert (module.compute_loss is module.objective) == (not choice)
        assert (module.compilation_clock.seconds > 0) == choice
    plain, compiled = (options.checkpoint(tmp_path / name) for name in ("False", "True"))
    options.assert_same_bits(compiled["state_dict"], plain["state_dict"])
    options.assert_same_bits(compiled["optimizer_states"], plain["optimizer_states"])
    assert compiled["state_dict"]["model.calls"] == 6


@pytest.mark.slow
def test_what_is_compiled_first_is_no_training(tmp_path):
    class Begins(Compilation):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            assert self.compiled
            assert all(parameter.grad is None for parameter in pl_module.parameters())
            assert pl_module.training_seconds == 0
            assert pl_module.characters_seen == 0

    train(tmp_path, small.SmallAttention, Begins(True))


@pytest.mark.slow
@pytest.mark.parametrize(("worthwhile", "compiled"), [(9.0, True), (11.0, False)])
def test_auto_compiles_where_the_budget_is_long_enough_and_says_so(
    tmp_path, monkeypatch, display, worthwhile, compiled
):
    monkeypatch.setattr(compilation, "WORTHWHILE", {"cpu": worthwhile})
    monkeypatch.setattr(compilation, "expected_seconds", lambda trainer, module: 10.0)
    module = train(tmp_path, Bigram, display, compile="auto")
    assert (module.compute_loss is not module.objective) == compiled
    said = display.console.file.getvalue().splitlines()[0]
    assert said.startswith("compiling" if compiled else "not compiled")
    assert "0:00:10" in said


def test_the_length_of_a_run_is_guessed_from_its_budget_and_its_work(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "SPEED", {"cpu": 1e3 / torch.get_num_threads()})
    data = small.datamodule(batch_size=8)
    module = small.module(small.SmallAttention(len(data.vocabulary)))
    trainer = small.trainer(tmp_path, [], max_steps=7, accumulate_grad_batches=2)
    trainer.datamodule = data
    # Per step 2 · 4 windows of 8 positions: query, key and value, projection, readout, scores and averages, each
    # with one addition per multiplication, once forward and twice backward (but scores are computed once more there).
    products = 64 * (8 * 24 + 8 * 8 + 8 * len(data.vocabulary))
    least = 7 * 2 * 3 * products / 1e3
    module.max_steps = 7
    assert least < compilation.expected_seconds(trainer, module) < 1.5 * least
    module.max_seconds = 0.25
    assert compilation.expected_seconds(trainer, module) == 0.25
    module.max_steps = None
    assert compilation.expected_seconds(trainer, module) == 0.25


def test_the_work_of_a_table_is_unknown_and_taken_for_nothing(tmp_path):
    data = small.datamodule()
    trainer = small.trainer(tmp_path, [], max_steps=7)
    trainer.datamodule = data
    assert compilation.expected_seconds(trainer, small.module(Bigram(len(data.vocabulary)))) == 0


@pytest.mark.slow
def test_a_resumed_run_is_compiled_as_it_was_before(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "WORTHWHILE", {"cpu": 0.0})
    with pytest.raises(RuntimeError, match="the power failed"):
        train(tmp_path, Bigram, options.RaiseAt(5), compile="auto")
    monkeypatch.setattr(compilation, "WORTHWHILE", {})
    module = train(tmp_path, Bigram, compile="auto", max_steps=8)
    assert module.compute_loss is not module.objective
    module = train(tmp_path, Bigram, compile=False, max_steps=10)
    assert module.compute_loss is module.objective
    module = train(tmp_path, Bigram, compile="auto", max_steps=12)
    assert module.compute_loss is module.objective


@pytest.mark.slow
def test_what_cannot_be_compiled_is_trained_as_it_is(tmp_path, monkeypatch, display):
    monkeypatch.setattr(compilation, "WORTHWHILE", {"cpu": 0.0})
    module = train(tmp_path, CannotBeCompiled, display, compile="auto")
    assert module.compute_loss is module.objective
    assert module.micro_batches == 6
    said = display.console.file.getvalue().splitlines()[1]
    assert said.startswith("not compiled: torch cannot compile CannotBeCompiled here (")


def test_a_folder_of_compiled_code_that_cannot_be_used_does_not_end_a_run(tmp_path, monkeypatch, display):
    (tmp_path / "file").touch()
    monkeypatch.setattr(compilation, "WORTHWHILE", {"cpu": 0.0})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file"))
    torch.compiler.reset()
    module = train(tmp_path, Bigram, display, compile="auto")
    assert module.compute_loss is module.objective
    assert "not compiled: torch cannot compile Bigram here (" in display.console.file.getvalue()


def test_what_cannot_be_compiled_and_has_to_be_is_an_error(tmp_path):
    sentence = r"torch cannot compile CannotBeCompiled here \(.*\): set compute.compile=false\.$"
    with pytest.raises(UserError, match=sentence):
        train(tmp_path, CannotBeCompiled, compile=True)


def test_nothing_is_compiled_where_nothing_is_trained(tmp_path):
    frozen = nn.Linear(2, 2).requires_grad_(False)
    callback = Compilation(True)
    callback.on_train_start(None, frozen)
    assert callback.compiled is None


def test_cuda_graphs_are_for_gpus(tmp_path):
    sentence = r"^compute.compile=cuda_graphs needs an NVIDIA GPU, and the run is on cpu: set compute.compile=true\.$"
    with pytest.raises(UserError, match=sentence):
        train(tmp_path, Bigram, compile="cuda_graphs")


class PretendsToHaveAGPU(Compilation):
    """Pretend to have a GPU, which test machines lack; torch leaves graphs out on a CPU."""

    def _check(self, trainer, module):
        super()._check(trainer, SimpleNamespace(device=torch.device("cuda")))


@pytest.mark.slow
def test_a_run_with_cuda_graphs_is_the_run_itself(tmp_path, monkeypatch):
    began = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: began.append(True))
    plain = train(tmp_path / "plain", small.SmallAttention, compile=False)
    graphs = train(tmp_path / "graphs", small.SmallAttention, PretendsToHaveAGPU("cuda_graphs"), compile=False)
    assert len(began) == 3 + graphs.micro_batches
    options.assert_same_bits(graphs.model.state_dict(), plain.model.state_dict())


def test_cuda_graphs_compute_one_gradient_per_step(tmp_path):
    with pytest.raises(UserError, match="computes one gradient per step"):
        train(tmp_path, Bigram, PretendsToHaveAGPU("cuda_graphs"), compile=False, accumulate_grad_batches=2)
