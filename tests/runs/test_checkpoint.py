"""Checkpoints that are missing, truncated, of another model, or hold code."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

import charlab
from charlab.data.tokenizers import Characters
from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.training.callbacks.checkpointing import AtomicCheckpointIO
from charlab.training.checkpoint_file import read_resumable


@pytest.fixture
def checkpoint(finished_run):
    return torch.load(finished_run.folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_load_gives_the_trained_model_and_its_vocabulary(finished_run, text_path):
    model, vocabulary = charlab.load(finished_run.folder)
    assert vocabulary.characters == Characters.of(text_path.read_text()).characters
    assert not model.training
    assert model.vocab_size == len(vocabulary)
    assert model.context_length == 8
    from_file, _ = charlab.load(finished_run.folder / "checkpoints" / "last.ckpt")
    window = torch.zeros(1, 9, dtype=torch.long)
    assert torch.equal(model.nll(window), from_file.nll(window))


@pytest.mark.slow
def test_a_run_in_float64_is_loaded_in_float64(run_tiny):
    record = run_tiny("trainer.precision=float64", "trainer.max_steps=2")
    model, _ = charlab.load(record.folder)
    saved = torch.load(record.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint .*best\.ckpt"):
        charlab.load(tmp_path, checkpoint="best")
    with pytest.raises(UserError, match=r"no checkpoint=first: choose one of last, best\."):
        charlab.load(tmp_path, checkpoint="first")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(finished_run, tmp_path, keep):
    data = (finished_run.folder / "checkpoints" / "last.ckpt").read_bytes()
    path = tmp_path / "last.ckpt"
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=r"last\.ckpt"):
        charlab.load(path)


@pytest.mark.parametrize("missing", ["global_step", "loops", "progress", "log_positions"])
def test_a_checkpoint_that_lacks_what_training_needs_is_not_resumed(checkpoint, tmp_path, missing):
    assert read_resumable_of(checkpoint, tmp_path).keys() == checkpoint.keys()
    del checkpoint[missing]
    with pytest.raises(UserError, match=rf"lacks {missing}, .*force=true"):
        read_resumable_of(checkpoint, tmp_path)


def read_resumable_of(checkpoint, folder):
    torch.save(checkpoint, folder / "last.ckpt")
    return read_resumable(folder / "last.ckpt")


def test_a_truncated_checkpoint_is_called_so(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "last.ckpt")
    data = (tmp_path / "last.ckpt").read_bytes()
    for keep in (0, 1, len(data) // 2, len(data) - 1):
        (tmp_path / "last.ckpt").write_bytes(data[:keep])
        with pytest.raises(UserError, match=r"truncated or corrupt|is not a checkpoint"):
            read_resumable(tmp_path / "last.ckpt")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    for contents in (b"To be, or not to be", pickle.dumps({"a": 1}, protocol=2)):
        path.write_bytes(contents)
        with pytest.raises(UserError, match=r"last\.ckpt (contains code or is not a checkpoint|is truncated)"):
            charlab.load(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="not a checkpoint of charlab"):
        charlab.load(path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    path, sprung = tmp_path / "last.ckpt", tmp_path / "sprung"
    torch.save({**checkpoint, "surprise": Trap(sprung)}, path)
    with pytest.raises(UserError, match="contains code"):
        charlab.load(path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "target", ["os.mkdir", "charlab.models.decoding.torch.hub.load", "subprocess.run", "torch.relu"]
)
def test_a_model_that_is_a_function_is_not_called(checkpoint, tmp_path, target):
    path, sprung = tmp_path / "last.ckpt", tmp_path / "sprung"
    checkpoint["model_config"]["mixer"] = {"_target_": target, "path": str(sprung)}
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="was not called"):
        charlab.load(path)
    assert not sprung.exists()


class Activated(Bigram):
    """A bigram with a function as a part."""

    def __init__(self, vocab_size, *, activation):
        super().__init__(vocab_size)
        self.activation = activation

    def forward(self, tokens):
        return self.activation(super().forward(tokens))


def test_a_function_in_a_users_model_is_called_if_the_run_is_trusted(checkpoint, finished_run, tmp_path):
    model = Activated(len(charlab.load(finished_run.folder)[1]), activation=torch.tanh)
    activation = {"_target_": "torch.tanh", "_partial_": True}
    node = {"_target_": f"{__name__}.Activated", "activation": activation}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save(checkpoint | {"model_config": node, "state_dict": weights}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"torch\.tanh in .* was not called: give trust=true"):
        charlab.load(tmp_path / "last.ckpt")
    loaded, _ = charlab.load(tmp_path / "last.ckpt", trust=True)
    tokens = torch.zeros(1, 2, dtype=torch.long)
    assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize(
    "target", ["charlab.training.muon.Muon", "charlab.training.optimizers.adamw", "torch.optim.SGD"]
)
def test_a_model_may_have_an_optimizer_of_its_own(checkpoint, finished_run, tmp_path, target):
    model = Activated(len(charlab.load(finished_run.folder)[1]), activation=None)
    node = {"_target_": f"{__name__}.Activated", "activation": {"_target_": target, "_partial_": True, "lr": 0.1}}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save(checkpoint | {"model_config": node, "state_dict": weights}, tmp_path / "last.ckpt")
    loaded, _ = charlab.load(tmp_path / "last.ckpt")
    assert loaded.activation.func.__name__ == target.split(".")[-1]


def test_weights_of_another_model_are_refused(checkpoint, tmp_path):
    checkpoint["model_config"]["embed_dim"] = 8
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="of another model than Backbone"):
        charlab.load(tmp_path / "last.ckpt")


def test_what_a_callback_has_added_to_the_module_is_left_out(checkpoint, finished_run, tmp_path):
    checkpoint["state_dict"]["probe.weight"] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded, expected = (charlab.load(path)[0] for path in (tmp_path / "last.ckpt", finished_run.folder))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("contents", [b"", b"step 4\n", b"{", b"e", b"R", b"\x80\x02]q"])
def test_whatever_a_file_holds_it_is_refused_in_a_sentence(tmp_path, contents):
    path = tmp_path / "last.ckpt"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        charlab.load(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_config": None}, "does not say which model it belongs to"),
        ({"vocabulary": 3}, "does not say which tokens it knows"),
        ({"embed_size": 16}, r"cannot be built here \(.*unexpected keyword argument 'embed_size'"),
    ],
)
def test_a_description_that_fits_no_model_is_refused(checkpoint, tmp_path, changes, sentence):
    part = checkpoint if changes.keys() <= checkpoint.keys() else checkpoint["model_config"]
    part.update(changes)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=sentence):
        charlab.load(tmp_path / "last.ckpt")


def test_a_run_that_is_not_there_is_not_called_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"There is no run .*nowhere"):
        charlab.load(tmp_path / "nowhere")


def test_a_checkpoint_in_the_root_folder_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr("charlab.runs.checkpoint.Store.named", lambda self, run: Path(run))
    monkeypatch.setattr("charlab.runs.checkpoint.read_checkpoint", lambda path: checkpoint)
    assert charlab.load("/last.ckpt")[0].context_length == 8
    with pytest.raises(UserError, match="There is no run in /nowhere"):
        charlab.requalify("/nowhere")


def test_lightning_writes_to_a_remote_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = []
    for name in ("save_checkpoint", "load_checkpoint", "remove_checkpoint"):
        monkeypatch.setattr(TorchCheckpointIO, name, lambda self, *arguments, **_: called.append(arguments))
    remote, plugin = "s3://bucket/mine.ckpt", AtomicCheckpointIO()
    plugin.save_checkpoint({}, remote)
    plugin.load_checkpoint(remote)
    plugin.remove_checkpoint(remote)
    assert called == [({}, remote, None), (remote, "cpu"), (remote,)]
    assert not list(tmp_path.iterdir())
