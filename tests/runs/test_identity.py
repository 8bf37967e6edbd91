"""What makes two runs the same, and what does not."""

import copy
import importlib
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from charlab.configuration.compose import compose
from charlab.data.corpora import Corpus
from charlab.errors import UserError
from charlab.runs.identity import fingerprint, load_corpus, reads_evaluations
from tests.helpers.tiny_runs import TINY


@pytest.fixture(scope="module")
def overrides(text_path):
    """The command line of a tiny run; none takes place here."""
    return [*TINY, f"data.path={text_path}"]


@pytest.fixture(scope="module")
def config(overrides):
    """What it composes, not to be changed."""
    return compose(overrides)


DECISIVE = {
    "seed": "seed=1",
    "model.embed_dim": "model.embed_dim=32",
    "model.position": "model/position=rotary",
    "data.batch_size": "data.batch_size=6",
    "data.context_length": "data.context_length=4",
    "data.dev_fraction": "data.dev_fraction=0.1",
    "data.order": "data.order=contiguous",
    "optimizer.lr": "optimizer.lr=0.002",
    "optimizer": "optimizer=adam",
    "scheduler": "scheduler=warmup_cosine",
    "objective": "objective=label_smoothing",
    "averaging": "averaging=ema",
    "trainer.max_steps": "trainer.max_steps=13",
    "trainer.precision": "trainer.precision=bfloat16",
    "trainer.gradient_clip_val": "trainer.gradient_clip_val=1.0",
}


@pytest.fixture(scope="module")
def changed(overrides):
    """What the command line composes with every override there is for what decides the outcome."""
    return compose([*overrides, *DECISIVE.values()])


@pytest.mark.parametrize("key", DECISIVE)
def test_what_decides_the_outcome_changes_the_fingerprint(config, changed, key):
    assert OmegaConf.select(changed, key) != OmegaConf.select(config, key)
    other = copy.deepcopy(config)
    with open_dict(other):
        OmegaConf.update(other, key, OmegaConf.select(changed, key), merge=False)
        if key == "optimizer":  # another class alone, with the same settings
            other.optimizer.lr = config.optimizer.lr
    assert fingerprint(other) != fingerprint(config)


def test_what_does_not_decide_it_does_not(overrides, config):
    irrelevant = [
        "compute.threads=1",
        "trainer.precision=float32",
        "compute.compile=false",
        "logger=csv",
        "evaluate_every=7",
        "callbacks.samples.seed=7",
        "callbacks.progress=null",
        "name=other",
        "output_dir=elsewhere",
        "force=true",
        "resume=any_code",
        "tags=[a,b]",
        "note=a first look",
    ]
    assert fingerprint(compose([*overrides, *irrelevant])) == fingerprint(config)


def altered(config, values):
    """A configuration with other values, by dotted key."""
    other = copy.deepcopy(config)
    with open_dict(other):
        for key, value in values.items():
            OmegaConf.update(other, key, value)
    return other


DIVISIONS = {
    "trainer.devices": 2,
    "trainer.num_nodes": 2,
    "trainer.strategy": "ddp",
    "trainer.accumulate_grad_batches": 1,
    "compute.threads": 1,
    "compute.compile": False,
}


@pytest.mark.parametrize("key", DIVISIONS)
def test_what_divides_the_work_counts_where_seconds_are_the_budget(config, key):
    seconds, division = {"trainer.max_steps": -1, "budget.max_seconds": 5}, {key: DIVISIONS[key]}
    assert fingerprint(altered(config, division)) == fingerprint(config)
    by_time = fingerprint(altered(config, seconds))
    assert fingerprint(altered(config, seconds | division)) != by_time != fingerprint(config)


@pytest.mark.parametrize("key", ["limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"])
def test_what_divides_a_batch_counts_where_batches_are_counted(config, key):
    divided = {"trainer.accumulate_grad_batches": DIVISIONS["trainer.accumulate_grad_batches"]}
    whole = {f"trainer.{key}": 4}
    assert fingerprint(altered(config, whole | divided)) != fingerprint(altered(config, whole))
    for share in ({f"trainer.{key}": 0.5}, {f"trainer.{key}": 0}):
        assert fingerprint(altered(config, share | divided)) == fingerprint(altered(config, share))


def test_what_divides_a_batch_counts_where_a_users_own_callback_may_see_its_parts(config):
    own, divided = {"callbacks.mine": {"_target_": "studentcallback.Shrink"}}, {"trainer.accumulate_grad_batches": 4}
    whole = {"trainer.accumulate_grad_batches": 1}
    assert fingerprint(altered(config, own | divided)) != fingerprint(altered(config, own | whole))
    assert fingerprint(altered(config, divided)) == fingerprint(altered(config, whole))


def test_a_strategy_counts_where_it_may_change_gradients(config):
    ddp = {"_target_": "lightning.pytorch.strategies.DDPStrategy"}
    hook = {"ddp_comm_hook": {"_target_": "hydra.utils.get_method", "path": "studenthooks.half"}}
    ways = [{}, ddp | {"find_unused_parameters": True}, ddp | hook, {"_target_": "studentstrategy.Mine"}]
    prints = [fingerprint(altered(config, {"trainer.strategy": way} if way else {})) for way in ways]
    assert prints[0] == prints[1] == fingerprint(config)
    assert len({*prints}) == 3


TIMER = {"_target_": "lightning.pytorch.callbacks.Timer"}
TIMED = {
    "a timer": {"callbacks.timer": TIMER | {"duration": "00:00:01:00"}},
    "a timer of the trainer": {"trainer.callbacks": [TIMER | {"duration": {"minutes": 1}}]},
    "timed choices": {"trainer.val_check_interval": "00:00:01:00", "data.dev_fraction": 0.1},
}


@pytest.mark.parametrize("name", TIMED)
def test_what_divides_the_work_counts_where_lightning_looks_at_the_clock(config, name):
    division = {"compute.threads": DIVISIONS["compute.threads"]}
    assert fingerprint(altered(config, TIMED[name] | division)) != fingerprint(altered(config, TIMED[name]))
    for untimed in ({"callbacks.timer": TIMER}, {"trainer.val_check_interval": "00:00:01:00"}):  # neither acts
        assert fingerprint(altered(config, untimed | division)) == fingerprint(altered(config, untimed))


def test_any_argument_of_the_trainer_that_is_not_known_to_look_counts(config):
    def with_argument(name):
        other = copy.deepcopy(config)
        with open_dict(other):
            other.trainer[name] = 3
        return fingerprint(other)

    counting = {with_argument(name) for name in ("overfit_batches", "gradient_clip_algorithm", "limit_train_batches")}
    assert len(counting | {fingerprint(config)}) == 4
    for name in ("log_every_n_steps", "profiler", "enable_progress_bar", "default_root_dir", "logger"):
        assert with_argument(name) == fingerprint(config), name


def test_a_callback_that_charlab_does_not_know_counts(config):
    other = copy.deepcopy(config)
    with open_dict(other):
        other.callbacks.mine = {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}
    assert fingerprint(other) == fingerprint(config)
    with open_dict(other):
        other.callbacks.mine = {"_target_": "lightning.pytorch.callbacks.StochasticWeightAveraging", "swa_lrs": 0.1}
    averaged = fingerprint(other)
    assert averaged != fingerprint(config)
    other.callbacks.mine.swa_lrs = 0.2
    assert fingerprint(other) not in (averaged, fingerprint(config))


def test_a_users_own_callback_counts_in_the_group_and_in_the_trainer(config):
    mine, other = ({"_target_": f"studentcallback.{name}"} for name in ("Shrink", "Grow"))
    ways = [{"callbacks.mine": mine}, {"callbacks.mine": other}, {"trainer.callbacks": [mine]}]
    ways.append({"trainer.callbacks": [mine, other]})
    assert len({fingerprint(altered(config, values)) for values in ({}, *ways)}) == 5
    assert fingerprint(altered(config, {"callbacks.mine": None})) == fingerprint(config)
    for values in ways:
        assert reads_evaluations(altered(config, values))
    assert not reads_evaluations(config)


def test_an_origin_that_is_gone_is_a_sentence_also_for_a_kept_run(config):
    other = altered(config, {"extend": "gone"})
    with open_dict(other):
        del other["output_dir"]
    with pytest.raises(UserError, match="There is no run gone"):
        fingerprint(other)


def test_how_often_a_run_is_evaluated_counts_where_something_reads_it(config):
    def every(steps, **more):
        return fingerprint(altered(config, {"evaluate_every": steps} | more))

    assert every(7) == every(4) == fingerprint(config)
    assert every(7, **{"data.dev_fraction": 0.1}) != every(4, **{"data.dev_fraction": 0.1})
    stop = {"callbacks.stop": {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:01:00"}}
    assert every(7, **stop) != every(4, **stop)
    stop = {"trainer.callbacks": [{"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:01:00"}]}
    assert every(7, **stop) != every(4, **stop)
    watch = {"trainer.callbacks": [{"_target_": "lightning.pytorch.callbacks.ModelSummary"}]}
    assert every(7, **watch) == every(4, **watch)
    assert fingerprint(altered(config, {"estimate_batches": 3})) != fingerprint(config)


def test_how_often_a_run_logs_counts_where_something_chooses_by_the_logged_loss(config):
    def every(steps, **more):
        return fingerprint(altered(config, {"trainer.log_every_n_steps": steps} | more))

    assert every(5) == every(50)
    for monitor in ("train/loss", "dev/nll"):
        stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": monitor}
        for more in ({"callbacks.stop": stop}, {"trainer.callbacks": [stop]}):
            assert (every(5, **more) == every(50, **more)) == (monitor == "dev/nll")
    for own, counts in ({}, True), ({"monitor": "dev/nll"}, False):  # the former may read what is logged
        more = {"callbacks.mine": {"_target_": "studentcallback.Shrink"} | own}
        assert (every(5, **more) != every(50, **more)) == counts


def test_a_value_that_names_a_file_counts_by_its_content(config, tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, text in {"a": "1 2 3", "b": "1 2 3", "c": "1 2 4"}.items():
        files[name].write_text(text)

    def with_file(path):
        other = copy.deepcopy(config)
        with open_dict(other):
            other.model.embedding_file = str(path)
        return fingerprint(other)

    a = with_file(files["a"])
    assert a == with_file(files["b"])
    assert a != with_file(files["c"])
    files["a"].write_text("1 2 5 6")
    assert with_file(files["a"]) not in (a, with_file(files["c"]))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_file("~/b") == with_file(files["b"])


def test_a_file_that_is_named_like_a_value_is_none(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = fingerprint(config)
    for value in (config.data.order, config.name, "auto", "all", "random", "true", "words"):
        (tmp_path / value).write_text(f"{value}")
    assert fingerprint(config) == before
    other = copy.deepcopy(config)
    with open_dict(other):
        other.model.embedding_file = "words"
    former = fingerprint(other)
    (tmp_path / "words").write_text("edited")
    assert fingerprint(other) != former


def test_the_names_of_a_precision_are_one(config):
    names = ("32", "32-true", "float32")
    assert len({fingerprint(altered(config, {"trainer.precision": name})) for name in names}) == 1


def test_a_number_is_the_same_with_and_without_a_point(config):
    assert len({fingerprint(altered(config, {"optimizer.lr": rate})) for rate in (1, 1.0)}) == 1


@pytest.mark.parametrize("key", ["overfit_batches", "limit_train_batches", "limit_val_batches"])
def test_one_batch_is_not_all_of_them(config, key):
    one, every = (fingerprint(altered(config, {f"trainer.{key}": limit})) for limit in (1, 1.0))
    assert len({one, every, fingerprint(config)}) == 3
    few, as_many = (fingerprint(altered(config, {f"trainer.{key}": limit})) for limit in (5, 5.0))
    assert few == as_many


def test_the_text_counts_and_not_where_it_lies(config, text_path, tmp_path):
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    same.write_bytes(text_path.read_bytes())
    other.write_bytes(text_path.read_bytes()[:-1] + b"!")

    def fingerprint_on(path):
        elsewhere = copy.deepcopy(config)
        elsewhere.data.path = str(path)
        return fingerprint(elsewhere)

    assert fingerprint_on(same) == fingerprint(config)
    assert fingerprint_on(other) != fingerprint(config)


def test_a_text_that_is_edited_is_another(config, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be " * 40)
    config = altered(config, {"data.path": str(path)})
    before = fingerprint(config)
    path.write_text("not to be or to be " * 40 + "?")
    assert fingerprint(config) != before


class Inline:
    """A corpus whose text is in the configuration itself."""

    def __init__(self, *, text):
        self.text = text

    def load(self):
        return Corpus.of("inline", self.text)


def test_a_text_too_long_for_the_name_of_a_file_is_none():
    node = {"_target_": f"{__name__}.Inline", "text": "to be or not to be " * 40}
    assert load_corpus(OmegaConf.create({"data": {"corpus": node}})).text == node["text"]


class Named:
    """A corpus whose text is in a file, which may be below the home folder."""

    def __init__(self, *, words):
        self.words = words

    def load(self):
        return Corpus.of("named", Path(self.words).expanduser().read_text())


def test_an_edited_file_below_the_home_folder_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = OmegaConf.create({"data": {"corpus": {"_target_": f"{__name__}.Named", "words": "~/words.txt"}}})
    for text in ("to be", "not to be"):
        (tmp_path / "words.txt").write_text(text)
        assert load_corpus(config).text == text


LOADER = """
from pathlib import Path

from charlab.data.corpora import Corpus


class Texts:
    def __init__(self, *, folder):
        self.folder = folder

    def load(self):
        return Corpus.of("texts", "".join(file.read_text() for file in sorted(Path(self.folder).iterdir())))
"""


def test_a_users_loader_is_asked_again_after_an_edit_of_its_files_or_of_its_code(tmp_path, monkeypatch):
    module, texts = tmp_path / "textloader.py", tmp_path / "texts"
    module.write_text(LOADER)
    texts.mkdir()
    (texts / "a.txt").write_text("to be")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    node = {"_target_": "textloader.Texts", "folder": str(texts)}

    def text():
        return load_corpus(OmegaConf.create({"data": {"corpus": node}})).text

    try:
        assert text() == "to be"
        (texts / "b.txt").write_text(" or not")
        assert text() == "to be or not"
        (texts / "a.txt").write_text("not to be")
        assert text() == "not to be or not"
        module.write_text(LOADER.replace("file.read_text()", "file.read_text().upper()"))
        importlib.reload(sys.modules["textloader"])
        assert text() == "NOT TO BE OR NOT"
    finally:
        del sys.modules["textloader"]
