import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from charlab.models.bigram import Bigram
from charlab.training.callbacks import attention_maps as drawing
from charlab.training.callbacks.attention_maps import AttentionMaps, attention_maps, draw_heads
from tests.training import small


@pytest.fixture
def model():
    torch.manual_seed(0)
    return small.SmallAttention(5).eval()


def logged(folder) -> dict[str, list[int]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {tag: [event.step for event in accumulator.Images(tag)] for tag in accumulator.Tags()["images"]}


def test_maps_are_the_weights_of_the_input_that_the_mixer_got(model):
    window = torch.tensor([0, 3, 1, 4, 4, 2, 0])
    maps = attention_maps(model, window)
    assert list(maps) == ["mixer"]
    expected = model.mixer.attention_weights(model.embedding(window[None, :-1]))[0]
    torch.testing.assert_close(maps["mixer"], expected)
    assert maps["mixer"].shape == (2, 6, 6)
    torch.testing.assert_close(maps["mixer"].sum(-1), torch.ones(2, 6))


def test_looking_leaves_no_hook_behind(model):
    attention_maps(model, torch.tensor([0, 1, 2]))
    with pytest.raises(IndexError):  # the embedding does not know this character
        attention_maps(model, torch.tensor([0, 9, 2]))
    assert not model.mixer._forward_pre_hooks


@pytest.fixture
def looks(monkeypatch) -> list[torch.Tensor]:
    """The windows that were looked at, each time in evaluation mode."""
    windows = []
    look = drawing.attention_maps

    def remember(model, window):
        assert not any(part.training for part in model.modules())
        windows.append(window)
        return look(model, window)

    monkeypatch.setattr(drawing, "attention_maps", remember)
    return windows


def test_maps_are_logged_every_n_steps_and_at_the_end(tmp_path, looks):
    callbacks, loggers = [AttentionMaps(every_n_steps=2, length=6)], [small.tensorboard(tmp_path)]
    small.fit(tmp_path, small.SmallAttention, callbacks, loggers=loggers, max_steps=3, accumulate_grad_batches=2)
    assert logged(tmp_path) == {"views/attention/mixer": [2, 3]}
    beginning = small.datamodule().splits["validation"][:7]
    assert [torch.equal(window, beginning) for window in looks] == [True, True]


def test_the_window_is_no_longer_than_the_context(tmp_path, looks):
    callbacks = [AttentionMaps(length=1000)]
    small.fit(tmp_path, small.SmallAttention, callbacks, loggers=[small.tensorboard(tmp_path)], max_steps=1)
    assert [len(window) for window in looks] == [8 + 1]


def test_a_model_without_attention_has_no_maps(tmp_path):
    loggers = [small.tensorboard(tmp_path)]
    small.fit(tmp_path, Bigram, [AttentionMaps(every_n_steps=1)], loggers=loggers, max_steps=2)
    assert logged(tmp_path) == {}


def test_a_map_that_fails_is_a_warning_and_training_goes_on(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(drawing, "draw_heads", fail)
    callbacks, loggers = [AttentionMaps(every_n_steps=1)], [small.tensorboard(tmp_path)]
    trained = small.fit(tmp_path, small.SmallAttention, callbacks, loggers=loggers, max_steps=2)
    assert trained.micro_batches == 2
    assert "The attention map failed (no font); the run continues without it." in caplog.text


def test_training_does_not_notice(tmp_path, monkeypatch):
    class DrawsGlobally(small.SmallAttention):
        def nll(self, window, **options):
            if not self.training:
                torch.rand(7)
            return super().nll(window, **options)

    monkeypatch.setattr(drawing, "draw_heads", lambda *_, **__: np.zeros((2, 2, 3), dtype=np.uint8))
    weights = []
    for every in (None, 1):
        callbacks = [AttentionMaps(every_n_steps=every)]
        module = small.fit(tmp_path, DrawsGlobally, callbacks, loggers=[small.tensorboard(tmp_path)], max_steps=5)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        assert all(part.training for part in module.model.modules())
    assert torch.equal(*weights)


def test_an_error_while_drawing_ends_nothing_and_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(drawing, "draw_heads", lambda *_, **__: 1 / 0)
    callbacks, loggers = [AttentionMaps(every_n_steps=1)], [small.tensorboard(tmp_path)]
    module = small.fit(tmp_path, small.SmallAttention, callbacks, loggers=loggers, max_steps=3)
    assert module.trainer.global_step == 3
    assert "The attention map failed (division by zero)" in caplog.text


def test_a_row_is_a_query_and_a_column_a_key():
    def place(query: int, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels that one weight darkens."""
        weights = np.zeros((1, 6, 6))
        weights[0, query, key] = 1.0
        return np.nonzero((draw_heads(weights, "abcdef", title="x") != blank).any(-1))

    blank = draw_heads(np.zeros((1, 6, 6)), "abcdef", title="x")
    (first_row, first_column), (row, column) = place(0, 0), place(5, 2)
    side = np.ptp(row) + 1
    assert (row.mean() - first_row.mean()) / side == pytest.approx(5, abs=0.2)
    assert (column.mean() - first_column.mean()) / side == pytest.approx(2, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("num_heads", "text"), [(5, "a $b_^\\\n\té漢\x1b"), (1, "x" * 70)])
def test_any_characters_and_number_of_heads_can_be_drawn(num_heads, text):
    weights = np.full((num_heads, len(text), len(text)), 1 / len(text))
    image = draw_heads(weights, text, title="blocks.0.mixer $")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


@pytest.mark.slow
def test_the_title_of_many_heads_is_above_them():
    weights = np.full((48, 8, 8), 1 / 8)
    named, unnamed = (draw_heads(weights, "abcdefgh", title=title) for title in ("blocks.0.mixer", ""))
    rows, _ = np.nonzero((named != unnamed).any(-1))
    assert 0 < rows.max() < 0.35 * 110  # the panels and their titles begin further down
