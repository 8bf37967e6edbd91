"""What cannot be built is refused before the run, with the dotted path of the node and in one sentence."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from charlab.configuration.compose import Composer, config_loader
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError

from .conftest import write

Mistake = Callable[..., str]

SEQUENCE = """
_target_: torch.optim.lr_scheduler.SequentialLR
milestones: [2]
schedulers:
  - _target_: torch.optim.lr_scheduler.LinearLR
  - _target_: torch.optim.lr_scheduler.StepLR
    step_size: 3
"""

MODELS = """
import statistics
import torch
from torch import nn
from charlab.models.contract import AutoregressiveModel
from charlab.models.mixers.contract import Mixer
from charlab.types import PositiveInt

class Table(AutoregressiveModel):
    context_length = None

    def __init__(self, vocab_size, *, width: PositiveInt):
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding, self.readout = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size)

    def forward(self, tokens):
        return self.readout(self.embedding(tokens))

    def init_state(self, batch_size):
        return None

    def extend(self, tokens, state):
        return self(tokens), None

class Unbounded(Table):
    @property
    def context_length(self):
        raise AttributeError

class Transposed(Table):
    def forward(self, tokens):
        return super().forward(tokens).transpose(1, 2)

class Misfit(Table):
    def forward(self, tokens):
        wrong = self.embedding(tokens)[..., 1:]
        return self.readout(wrong)

class Average(Table):
    def forward(self, tokens):
        return self.readout(self.embedding(tokens)) * statistics.mean([])

class Itemized(Table):
    def forward(self, tokens):
        return super().forward(tokens) * (1 if tokens.sum().item() >= 0 else 2)

class ItemizedMisfit(Misfit):
    def forward(self, tokens):
        return super().forward(tokens) * tokens.sum().item()

class Recurrent(Table):
    batch_first, bidirectional, states = True, False, 5

    def __init__(self, vocab_size, *, width: PositiveInt):
        super().__init__(vocab_size, width=width)
        self.layer = nn.LSTM(width, 5, batch_first=self.batch_first, bidirectional=self.bidirectional)
        self.readout = nn.Linear(self.states, vocab_size)

    def forward(self, tokens):
        return self.readout(self.layer(self.embedding(tokens))[0])

class TimeFirst(Recurrent):
    batch_first = False

    def forward(self, tokens):
        hidden, _ = self.layer(self.embedding(tokens).transpose(0, 1))
        return self.readout(hidden[: tokens.shape[1]]).transpose(0, 1)

class RecurrentMisfit(Recurrent):
    bidirectional = True

class Broken(Table):
    def __init__(self, vocab_size, *, width: PositiveInt):
        super().__init__(vocab_size, width=width)
        raise RuntimeError("no such luck")

class Plain(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()

class Scoreless(Mixer):
    def __init__(self, embed_dim, context_length):
        super().__init__()

class Weighted:
    def __init__(self, *, share: float):
        self.share = torch.tensor(share).item()

    def check(self, model, order):
        assert torch.isfinite(next(model.parameters())).all()

class Falling:
    def __init__(self, *, last: float):
        self.last = torch.tensor(last).item()

    def __call__(self, spent):
        return 1 - spent * (1 - self.last)

def heeding(optimizer):
    size = optimizer.param_groups[0]["params"][0].detach().norm().item()
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + size * epoch))
"""


# What is built on trial, without the many files of what watches, keeps and repeats a run.
PROGRAM = f"""
defaults:
  - _self_
  - data: tinyshakespeare
  - model: transformer
  - optimizer: adamw
  - scheduler: constant
  - objective: none
  - averaging: none
  - trainer: cpu
seed: 1
objective: null
averaging: null
hydra: {{searchpath: ["file://{conf_folder()}"]}}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A module of the user's own, on the path, and configurations for its models next to it."""
    folder = write(tmp_path_factory.mktemp("own"), {"own_models.py": MODELS})
    for name in re.findall(r"class (\w+)\(", MODELS):
        width = "" if name == "Plain" else ", width: 5"
        write(folder, {f"conf/model/{name}.yaml": f"{{_target_: own_models.{name}{width}}}"})
    mixer = "defaults: [gpt, override mixer: scoreless, override position: alibi, _self_]\nnum_layers: 1"
    write(folder, {"conf/model/newcomer.yaml": mixer})
    write(folder, {"conf/optimizer/rmsprop.yaml": "{_target_: torch.optim.RMSprop, lr: 0.1}"})
    for part in ("data", "objective", "averaging"):
        write(folder, {f"conf/{part}/other.yaml": "{_target_: collections.OrderedDict}"})
    write(folder, {"conf/objective/weighted.yaml": "{_target_: own_models.Weighted, share: 0.5}"})
    write(folder, {"conf/scheduler/falling.yaml": "{_target_: own_models.Falling, last: 0.5}"})
    write(folder, {"conf/scheduler/heeding.yaml": "{_target_: own_models.heeding}"})
    averaging = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    write(folder, {"conf/averaging/negative.yaml": f"{{_target_: {averaging}, swa_lrs: -1.0}}"})
    write(folder, {"conf/scheduler/stepless.yaml": "{_target_: torch.optim.lr_scheduler.StepLR}"})
    write(folder, {"conf/scheduler/step.yaml": "{_target_: torch.optim.lr_scheduler.StepLR, step_size: 3}"})
    write(folder, {"conf/scheduler/sequence.yaml": SEQUENCE})
    write(folder, {"conf/model/mixer/scoreless.yaml": "{_target_: own_models.Scoreless, _partial_: true}"})
    write(folder, {"conf/program.yaml": PROGRAM})
    sys.path.insert(0, str(folder))
    yield folder / "own_models.py"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def job(own: Path) -> Callable[..., DictConfig]:
    """Compose what is built on trial, and build it."""
    composer = Composer("program", config_loader(own.parent / "conf"), {"seed": int})
    return lambda *overrides: composer.job(composer.prepare(overrides))


@pytest.fixture
def mistake(job: Callable[..., DictConfig]) -> Callable[..., str]:
    """Return the sentence that it ends in."""

    def sentence(*overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            job(*overrides)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return sentence


GPT = ("model=gpt", "model.num_layers=1")
ROTARY = ("model/position=rotary", "model.embed_dim=12", "model.num_layers=1")
GRU = ("model/mixer=min_gru", "model.num_layers=1")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            [*GPT, "model.mixer.num_heads=5"],
            "model.mixer.num_heads=5 does not divide model.embed_dim=128; the nearest that do are 4 and 8.",
        ),
        (
            [*GPT, "model.embed_dim=8", "model.mixer.num_heads=16"],
            "model.mixer.num_heads=16 does not divide model.embed_dim=8; the nearest that does is 8.",
        ),
        (
            ["model=hybrid", "model.mixer.1.num_heads=3"],
            "model.mixer[1].num_heads=3 does not divide model.embed_dim=128; the nearest that do are 2 and 4.",
        ),
        (
            [*GPT, "model.mixer.num_heads=4", "model.mixer.num_key_value_heads=8"],
            "model.mixer.num_key_value_heads=8 does not divide model.mixer.num_heads=4; the nearest that does is 4.",
        ),
        (
            ["scheduler=warmup_stable_decay", "scheduler.warmup=0.5", "scheduler.decay=0.6"],
            "scheduler.warmup=0.5 and scheduler.decay=0.6 exceed the whole budget: make them sum to at most 1.",
        ),
        (
            ["model.mixer.projection=false", "model.num_layers=1"],
            "model.mixer.projection=false leaves model.mixer.num_heads=6 heads side by side, wider than the embedding: "
            "set one to true or the other to 1.",
        ),
        (
            ["model=s4d", "model.mixer.min_step=0.2"],
            "model.mixer.min_step=0.2 is above model.mixer.max_step=0.1: swap them.",
        ),
        (
            ["model/position=alibi", *GRU],
            "model.position=ALiBi acts on attention scores, but model.mixer=MinGRU has none: "
            "choose another of either, model/position=none for instance.",
        ),
        (
            ["model=masked_diffusion", "model/mixer=attention", "model.num_layers=1"],
            "model.mixer=Attention looks to the left only, but masked diffusion fills in from both sides: "
            "use model/mixer=bidirectional_attention, or model.mixer.causal=false.",
        ),
        (
            ["model=s4d", "model.mixer.state_dim=7"],
            "model.mixer.state_dim=7 is odd, but S4D's states come in conjugate pairs: make it even.",
        ),
        (
            [*ROTARY, "model.mixer.num_heads=4"],
            "model.position=Rotary needs an even model.mixer.head_dim, not 3: "
            "change model.mixer.num_heads or model.embed_dim.",
        ),
        (
            [*ROTARY, "model.mixer.num_heads=4", "model.mixer.head_dim=5"],
            "model.position=Rotary needs an even model.mixer.head_dim, not 5: "
            "change model.mixer.num_heads or model.embed_dim.",
        ),
        (
            ["model/position=sinusoidal", "model.embed_dim=5", *GRU],
            "model.position=Sinusoidal needs an even model.embed_dim, not 5: use 6.",
        ),
        (
            ["model=gpt", "data.context_length=64", "model.context_length=32"],
            "data.context_length=64 is more than the model looks at, model.context_length=32: "
            "lower one or raise the other.",
        ),
        (["model=gpt", "optimizer=em"], "The rows of embedding.weight are not log-probabilities"),
        (
            ["model=masked_diffusion", "objective=label_smoothing"],
            "objective=label_smoothing is for models that give the next character's logits",
        ),
        *(
            (["model=ngram_kneser_ney", *overrides], "NGram is not trained by gradients, which are all that several")
            for overrides in (["trainer=ddp"], ["trainer.devices=2"], ["trainer.strategy=ddp"])
        ),
        (
            ["model=ensemble", "model.runs=[outputs/runs/gru/0123456789ab]", "trainer.num_nodes=2"],
            "An ensemble of finished runs is not trained by gradients",
        ),
        (["data.train_fraction=0.95"], "data.train_fraction=0.95 and data.validation_fraction=0.1 must be above"),
    ],
)
def test_rules_about_several_values(mistake: Mistake, overrides: list[str], sentence: str) -> None:
    assert mistake(*overrides).startswith(sentence)


@pytest.mark.parametrize(
    "overrides",
    [
        [*GPT, "model.mixer.num_heads=5", "model.mixer.head_dim=64"],
        ["scheduler=warmup_stable_decay", "scheduler.warmup=0.4", "scheduler.decay=0.6"],
        ["data.train_fraction=0.7", "data.validation_fraction=0.3"],
        ["model.mixer.num_heads=1", "model.mixer.projection=false", "model.num_layers=1"],
        pytest.param(["model/position=alibi", "model.embed_dim=12", "model.num_layers=1"], marks=pytest.mark.slow),
        ["model/position=sinusoidal", "model.embed_dim=6", *GRU],
        pytest.param(["model/position=learned", "model.embed_dim=5", *GRU], marks=pytest.mark.slow),
        pytest.param(["model/position=none", *GRU], marks=pytest.mark.slow),
        pytest.param(["model=mamba", "model.mixer.state_dim=7", "model.num_layers=1"], marks=pytest.mark.slow),
        ["model=hybrid", "model/position=rotary"],
        ["model=hmm", "model.parameterization=log_probabilities", "optimizer=em"],
        ["model=neural_ngram", "trainer=ddp"],
    ],
)
def test_rules_that_are_kept(job: Callable[..., DictConfig], overrides: list[str]) -> None:
    job(*overrides)


MODELS_OF_CHARLAB = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
SOME = ("bigram", "ensemble", "gru", "hybrid", "masked_diffusion", "ngram_gpt", "ngram_kneser_ney")  # of each kind


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in MODELS_OF_CHARLAB]
)
def test_every_model_of_charlab_can_be_built(job: Callable[..., DictConfig], model: str) -> None:
    generator = torch.get_rng_state()
    job(f"model={model}")
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_users_shape_error_shows_his_own_line_first(mistake: Mistake, own: Path) -> None:
    lines = MODELS.splitlines()
    place = (
        f"{own}, line {lines.index('        return self.readout(wrong)') + 1}, in forward, with model: RuntimeError: "
    )
    assert mistake("model=Misfit").startswith(place + "a and b must have same reduction dim")


def test_a_users_line_comes_first_also_where_a_library_raises(mistake: Mistake, own: Path) -> None:
    line = next(number for number, text in enumerate(MODELS.splitlines(), start=1) if "statistics.mean" in text)
    assert mistake("model=Average").startswith(f"{own}, line {line}, in forward, with model: StatisticsError: ")


def test_a_users_forward_of_another_shape(mistake: Mistake, own: Path) -> None:
    line = MODELS.splitlines().index("class Transposed(Table):") + 2
    assert mistake("model=Transposed", "data.context_length=7") == (
        f"{own}, line {line}: Transposed.forward returns (2, 65, 7) where (2, 7, 65) (windows, characters, vocabulary) "
        "is expected."
    )


def test_a_model_that_cannot_live_on_meta_is_built_on_the_cpu(job: Callable[..., DictConfig], mistake: Mistake) -> None:
    job("model=Itemized")
    assert "in forward, with model: RuntimeError" in mistake("model=ItemizedMisfit")


@pytest.mark.parametrize("model", ["Recurrent", "TimeFirst"])
def test_a_recurrent_layer_of_torch_is_checked_without_its_steps(job: Callable[..., DictConfig], model: str) -> None:
    job(f"model={model}", "data.context_length=1000000")  # on meta, torch would take an hour


def test_a_misused_recurrent_layer_of_torch(mistake: Mistake) -> None:
    told = mistake("model=RecurrentMisfit")
    assert "in forward, with model: RuntimeError: a and b must have same reduction dim" in told


def test_a_reloaded_model_is_built_again(job: Callable[..., DictConfig], mistake: Mistake, own: Path) -> None:
    overrides = ["model=Table", "data.context_length=33"]
    job(*overrides)
    try:
        own.write_text(MODELS.replace("nn.Linear(width, vocab_size)", "nn.Linear(width + 1, vocab_size)"))
        importlib.reload(sys.modules["own_models"])
        assert "in forward, with model: RuntimeError" in mistake(*overrides)
    finally:
        own.write_text(MODELS)
        importlib.reload(sys.modules["own_models"])


def test_optimizers_and_schedulers_of_torch_are_built_too(job: Callable[..., DictConfig], mistake: Mistake) -> None:
    overrides = ["model=bigram", "optimizer=rmsprop", "scheduler=step"]
    job(*overrides)
    job("model=bigram", "optimizer=rmsprop", "scheduler=sequence")
    assert "Invalid learning rate" in mistake(*overrides, "optimizer.lr=-1")
    assert mistake(*overrides, "scheduler.step_siz=3") == (
        "There is no key scheduler.step_siz; did you mean scheduler.step_size?"
    )
    missing = "scheduler: TypeError: StepLR.__init__() missing 1 required positional argument: 'step_size'."
    assert mistake("model=bigram", "scheduler=stepless") == missing


def test_an_optimizer_in_place_of_charlabs_is_told_what_to_leave_out(
    job: Callable[..., DictConfig], mistake: Mistake
) -> None:
    overrides = ["model=bigram", "optimizer._target_=torch.optim.RMSprop"]
    told = mistake(*overrides)
    assert told == (
        "torch.optim.RMSprop does not take optimizer.betas and optimizer.decayed (in optimizer/adamw.yaml): "
        "leave them out with ~optimizer.betas ~optimizer.decayed."
    )
    job(*overrides, *told.rstrip(".").split(" with ")[1].split())


def test_a_users_constructor_that_fails(mistake: Mistake, own: Path) -> None:
    told = mistake("model=Broken")
    assert told.endswith("in __init__, with model: RuntimeError: no such luck.")
    assert told.startswith(str(own))


def test_parts_that_compute_with_tensors_are_built_on_the_cpu(job: Callable[..., DictConfig]) -> None:
    job("model=bigram", "objective=weighted", "scheduler=falling")


def test_a_scheduler_that_reads_the_weights_is_left_to_the_run(job: Callable[..., DictConfig]) -> None:
    job("model=bigram", "scheduler=heeding")


def test_a_constructor_of_an_averaging_that_fails(mistake: Mistake) -> None:
    told = mistake("model=bigram", "averaging=negative")
    assert "with averaging: MisconfigurationException: The `swa_lrs` should a positive float" in told


def test_a_class_that_is_no_language_model(mistake: Mistake) -> None:
    assert "own_models.Plain is not a charlab LanguageModel" in mistake("model=Plain")


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("data", "CharacterDataModule"),
        ("objective", "Objective"),
        ("averaging", "Callback"),
        ("trainer.profiler", "Profiler"),
        ("trainer.strategy", "Strategy"),
    ],
)
def test_a_part_of_another_kind_is_named(mistake: Mistake, part: str, kind: str) -> None:
    value = "{_target_: collections.OrderedDict}" if "." in part else "other"
    told = f"{part}._target_=collections.OrderedDict is not a {kind}: name a class that is."
    assert mistake("model=bigram", f"{part}={value}") == told


def test_a_strategy_that_would_lose_what_is_learned_is_refused(mistake: Mistake) -> None:
    spawn = "{_target_: lightning.pytorch.strategies.DDPStrategy, start_method: spawn}"
    assert mistake("model=bigram", f"trainer.strategy={spawn}").startswith("trainer.strategy.start_method=spawn starts")


def test_a_model_that_does_not_say_how_far_it_looks(mistake: Mistake) -> None:
    told = mistake("model=Unbounded")
    assert told == "model._target_=own_models.Unbounded has no attribute context_length: set it in __init__."


def test_a_newcomers_mixer_takes_part(mistake: Mistake) -> None:
    told = mistake("model=newcomer")
    assert "model.position=ALiBi acts on attention scores, but model.mixer=Scoreless has none" in told


def test_a_study_builds_each_model_once(job: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    from charlab.configuration import trial_build

    built: list[str] = []
    construct: Callable[..., object] = trial_build._construct
    monkeypatch.setattr(
        trial_build, "_construct", lambda tree: (built.append(tree["model"]["_target_"]), construct(tree))[1]
    )
    for rate in ("1e-3", "1e-2"):
        job("model=bigram", "data.context_length=77", f"optimizer.lr={rate}")
    assert built.count("charlab.models.bigram.Bigram") == 1


@pytest.mark.slow
def test_a_mistake_in_a_model_does_without_lightning() -> None:
    program = """
import sys
from charlab.configuration.compose import compose
from charlab.errors import UserError
for overrides in (["model.embed_dim=x"], ["model=gpt", "model.mixer.num_heads=5"], ["optimizer.lr=-1"], ["+model.x=1"]):
    try:
        compose(overrides)
    except UserError as error:
        print(error)
assert "lightning" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
