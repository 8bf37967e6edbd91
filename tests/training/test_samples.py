import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.models.side_effects import evaluation_mode
from charlab.training.callbacks.samples import SampleText
from tests.training import small


def logged(folder) -> dict[int, str]:
    events = EventAccumulator(str(folder)).Reload().Tensors("sample/text_summary")
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events}
    assert len(texts) == len(events)
    return {step: "\n".join(line.removeprefix("    ") for line in text.split("\n")) for step, text in texts.items()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_texts_are_drawn_every_n_steps_and_at_the_end(tmp_path, accumulate):
    samples = SampleText(every_n_steps=2, length=20, seed=1)
    loggers = [small.tensorboard(tmp_path)]
    small.fit(tmp_path, Bigram, [samples], loggers=loggers, max_steps=5, accumulate_grad_batches=accumulate)
    texts = logged(tmp_path)
    assert list(texts) == [2, 4, 5]
    assert {len(text) for text in texts.values()} == {20}
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == texts[5] + "\n"


def test_the_last_step_is_not_drawn_twice(tmp_path):
    samples = SampleText(every_n_steps=2, length=20, seed=1)
    small.fit(tmp_path, Bigram, [samples], loggers=[small.tensorboard(tmp_path)], max_steps=4)
    assert list(logged(tmp_path)) == [2, 4]
    assert (tmp_path / "samples.txt").exists()


def test_a_text_is_what_the_model_says_after_a_newline(tmp_path):
    samples = SampleText(length=30, temperature=0.7, seed=3)
    module = small.fit(tmp_path, small.SmallAttention, [samples], max_steps=2)
    vocabulary = small.datamodule().vocabulary
    newline = torch.tensor([[vocabulary.characters.index("\n")]])
    with evaluation_mode(module.model):
        ids = module.model.sample(newline, 30, temperature=0.7, generator=torch.Generator().manual_seed(3))
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == vocabulary.decode(ids[0, 1:]) + "\n"


def test_a_text_without_newlines_starts_from_its_first_character(tmp_path):
    data = small.datamodule(small.TEXT.replace("\n", " "))
    module = small.module(Bigram(len(data.vocabulary)))
    trainer = small.trainer(tmp_path, [SampleText(length=30, seed=3)], max_steps=1)
    trainer.fit(module, datamodule=data)
    assert len((tmp_path / "samples.txt").read_text(encoding="utf-8")) == 31


class DrawsGlobally(small.SmallAttention):
    """A user's model that ignores the generator it is given."""

    def sample(self, prompt, length, **options):
        torch.rand(7)
        return super().sample(prompt, length, **options)


@pytest.mark.parametrize("model", [small.SmallAttention, DrawsGlobally])
def test_training_does_not_notice(tmp_path, model):
    weights = []
    for every in (None, 1):
        module = small.fit(tmp_path, model, [SampleText(every_n_steps=every, length=20, seed=1)], max_steps=5)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        assert module.model.training
    assert torch.equal(*weights)


def test_drawing_is_not_training_time(tmp_path, monkeypatch):
    module = small.fit(tmp_path, Bigram, [SampleText(length=20, seed=1)], max_steps=1)
    running = []
    draw = Bigram.sample
    monkeypatch.setattr(
        Bigram, "sample", lambda *a, **k: (running.append(module.training_clock.running), draw(*a, **k))[1]
    )
    small.trainer(tmp_path, [SampleText(every_n_steps=1, length=20, seed=1)], max_steps=1).fit(
        module, datamodule=small.datamodule()
    )
    assert running == [False, False]


def test_a_resumed_run_does_not_log_a_text_again(tmp_path):
    """The first half of an accumulated step still counts the step before, at which a text was drawn."""

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4 and not trainer.should_stop:
                trainer.save_checkpoint(tmp_path / "last.ckpt")
                trainer.should_stop = True

    settings = {"max_steps": 5, "accumulate_grad_batches": 2}
    callbacks = [SampleText(every_n_steps=2, length=20, seed=1), Save()]
    small.fit(tmp_path, Bigram, callbacks, loggers=[small.tensorboard(tmp_path)], **settings)
    data = small.datamodule()
    module = small.module(Bigram(len(data.vocabulary)))
    callbacks = [SampleText(every_n_steps=2, length=20, seed=1)]
    trainer = small.trainer(tmp_path, callbacks, loggers=[small.tensorboard(tmp_path)], **settings)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert list(logged(tmp_path)) == [2, 4, 5]


def test_a_failing_disk_leaves_the_former_sample_and_ends_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "samples.txt").write_text("the former sample")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    small.fit(tmp_path, Bigram, [SampleText(length=20, seed=1)], max_steps=1)
    assert "The sample failed" in caplog.text
    assert (tmp_path / "samples.txt").read_text() == "the former sample"


def test_an_error_while_drawing_ends_nothing_and_is_said(tmp_path, caplog):
    class CannotWrite(Bigram):
        def sample(self, *arguments, **options):
            raise ValueError("out of ink")

    module = small.fit(tmp_path, CannotWrite, [SampleText(every_n_steps=1, length=5, seed=1)], max_steps=3)
    assert module.trainer.global_step == 3
    assert "The sample failed (out of ink)" in caplog.text


def test_a_seed_that_is_too_large_is_said_before_training():
    with pytest.raises(UserError, match="too large"):
        SampleText(length=5, seed=2**64)
