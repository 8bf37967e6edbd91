import math

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from charlab.training.loggers import CSVLogger, RunLogger, TensorBoardLogger


def log_steps(logger: RunLogger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        logger.log_metrics({"train/loss": 1 / step, "characters": step * 32, "seconds": step / 8}, step)


def events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def points(accumulator: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


@pytest.fixture
def opened():
    """Opens loggers, and closes them after the test."""
    loggers = []

    def open_logger(kind: type[RunLogger], folder) -> RunLogger:
        folder.mkdir(exist_ok=True)
        loggers.append(kind())
        loggers[-1].open(folder)
        return loggers[-1]

    yield open_logger
    for logger in loggers:
        logger.finalize("success")


@pytest.fixture(params=[CSVLogger, TensorBoardLogger])
def logger(request, tmp_path, opened) -> RunLogger:
    return opened(request.param, tmp_path)


def curve(logger: RunLogger, folder) -> list[tuple[int, float]]:
    if isinstance(logger, TensorBoardLogger):
        return points(events(folder), "train/loss")
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return [(int(step), float(value)) for step, _, _, _, value in rows]


def test_csv_has_one_line_per_measurement(tmp_path, opened):
    logger = opened(CSVLogger, tmp_path)
    logger.log_metrics({"train/loss": 0.1 + 0.2, "learning_rate": 1e-3, "characters": 96, "seconds": 1.25}, 3)
    logger.log_metrics({"estimate/train/nll": math.nan, "estimate/train/perplexity": None}, 4)
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,characters,seconds,metric,value\n"
        "3,96,1.250,train/loss,0.30000000000000004\n"
        "3,96,1.250,learning_rate,0.001\n"
        "4,,,estimate/train/nll,nan\n"
    )


def test_csv_is_a_wide_table_in_one_line_of_pandas(tmp_path, opened):
    pandas = pytest.importorskip("pandas")
    logger = opened(CSVLogger, tmp_path)
    log_steps(logger, 1, 3)
    logger.log_metrics({"estimate/train/nll": 2.0}, 2)
    wide = pandas.read_csv(tmp_path / "metrics.csv").pivot(index="step", columns="metric", values="value")
    assert wide["train/loss"].tolist() == [1, 1 / 2, 1 / 3]
    assert wide.loc[2, "estimate/train/nll"] == 2


def test_what_is_logged_is_in_the_file_at_once(logger, tmp_path):
    """A SIGKILL leaves no time to flush."""
    log_steps(logger, 1, 3)
    assert [step for step, _ in curve(logger, tmp_path)] == [1, 2, 3]


def test_positions_are_the_sizes_of_the_files(logger, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    assert logger.positions() == {}
    log_steps(logger, 1, 3)
    assert logger.positions() == {p.name: p.stat().st_size for p in tmp_path.iterdir() if p.name != "record.json"}


def test_a_resumed_run_has_neither_gap_nor_repetition(logger, tmp_path, opened):
    log_steps(logger, 1, 5)
    positions = logger.positions()
    log_steps(logger, 6, 8)  # after the checkpoint, before the kill

    resumed = opened(type(logger), tmp_path)
    resumed.rewind(positions)
    log_steps(resumed, 6, 10)
    assert [step for step, _ in curve(resumed, tmp_path)] == list(range(1, 11))

    positions = resumed.positions()
    log_steps(resumed, 11, 12)
    again = opened(type(logger), tmp_path)
    log_steps(again, 99, 99)  # a file that no checkpoint knows of
    again.rewind(positions)
    log_steps(again, 11, 12)
    assert [step for step, _ in curve(again, tmp_path)] == list(range(1, 13))


def test_a_resumed_csv_is_the_same_bytes_as_one_never_stopped(tmp_path, opened):
    whole, halved = opened(CSVLogger, tmp_path / "whole"), opened(CSVLogger, tmp_path / "halved")
    for logger in (whole, halved):
        log_steps(logger, 1, 5)
    positions = halved.positions()
    log_steps(halved, 6, 8)
    halved.rewind(positions)
    for logger in (whole, halved):
        log_steps(logger, 6, 10)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "halved/metrics.csv").read_bytes()


def test_rewinding_to_the_beginning_leaves_the_files_of_others(logger, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "events.out.tfevents.1700000000.host").write_text("another program's")
    log_steps(logger, 1, 5)
    logger.rewind({})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.out.tfevents.1700000000.host", "record.json"]


def test_rewinding_never_lengthens_a_file(logger, tmp_path):
    log_steps(logger, 1, 2)
    (name, size), *_ = logger.positions().items()
    logger.rewind({name: size + 100})
    assert (tmp_path / name).stat().st_size == size


def test_resuming_leaves_the_event_file_that_a_viewer_is_reading(tmp_path, opened):
    logger = opened(TensorBoardLogger, tmp_path)
    log_steps(logger, 1, 5)
    positions = logger.positions()
    logger.rewind(positions)
    log_steps(logger, 6, 7)
    assert sorted(logger.positions()) == ["events.out.tfevents.0001", "events.out.tfevents.0002"]
    assert logger.positions()["events.out.tfevents.0001"] == positions["events.out.tfevents.0001"]


def test_a_logger_goes_on_in_its_file_after_lightning_closed_it(logger, tmp_path):
    log_steps(logger, 1, 2)
    logger.finalize("success")
    log_steps(logger, 3, 4)
    assert len(logger.positions()) == 1
    assert [step for step, _ in curve(logger, tmp_path)] == [1, 2, 3, 4]


def test_other_ranks_touch_nothing(logger, tmp_path, monkeypatch):
    log_steps(logger, 1, 2)
    positions = logger.positions()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_steps(logger, 3, 4)
    logger.log_text("sample", "text", 4)
    logger.log_hyperparameters({"seed": 1}, {"nll": 1.0})
    logger.rewind({})
    assert logger.positions() == positions


def test_logging_before_open_is_an_error():
    with pytest.raises(RuntimeError, match=r"CSVLogger\.open"):
        CSVLogger().log_metrics({"train/loss": 1.0}, 1)


def test_tensorboard_shows_metrics_by_steps_and_by_characters(tmp_path, opened):
    logger = opened(TensorBoardLogger, tmp_path)
    log_steps(logger, 1, 4)
    logger.log_metrics({"estimate/train/nll": 2.0}, 4)
    read = events(tmp_path)
    assert points(read, "train/loss") == [(step, np.float32(1 / step)) for step in range(1, 5)]
    assert points(read, "by_characters/train/loss") == [(32 * step, np.float32(1 / step)) for step in range(1, 5)]
    assert set(read.Tags()["scalars"]) == {"train/loss", "by_characters/train/loss", "estimate/train/nll"}


def test_tensorboard_shows_text_with_its_line_breaks(tmp_path, opened):
    logger = opened(TensorBoardLogger, tmp_path)
    logger.log_text("sample", "ROMEO:\n*O*, é", 7)
    (event,) = events(tmp_path).Tensors("sample")
    assert event.step == 7
    assert event.tensor_proto.string_val[0].decode() == "    ROMEO:\n    *O*, é"
    assert events(tmp_path).SummaryMetadata("sample").plugin_data.plugin_name == "text"


def test_tensorboard_shows_images(tmp_path, opened):
    from io import BytesIO

    from PIL import Image

    logger = opened(TensorBoardLogger, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    logger.log_image("attention/mixer", image, 7)
    (event,) = events(tmp_path).Images("attention/mixer")
    assert (event.step, event.width, event.height) == (7, 7, 5)
    assert np.array_equal(np.asarray(Image.open(BytesIO(event.encoded_image_string))), image)


def hparams_table(folder) -> tuple[set[str], list[str], dict[str, tuple[dict, dict]]]:
    """Asks TensorBoard's own plugin what it shows: hyper-parameters, metrics, and both of each session."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    metadata = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=10, include_metrics=True
    )
    groups = Handler(RequestContext(), context, "", request).run().session_groups
    return (
        {info.name for info in experiment.hparam_infos},
        [info.name.tag for info in experiment.metric_infos],
        {
            session.name: (
                {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
                {metric.name.tag: metric.value for metric in session.metric_values},
            )
            for group in groups
            for session in group.sessions
        },
    )


def test_hyperparameters_of_different_runs_share_one_table(tmp_path, opened):
    runs = {
        "bigram": ({"seed": 0, "model": {"name": "bigram"}, "fused": True, "dev": None}, {"blocks/train/nll": 2.5}),
        "long": (
            {"seed": 1, "model": {"name": "gpt", "layers": [4, 4]}},
            {"blocks/train/nll": 1.5, "best": 1.25, "no": None},
        ),
    }
    for name, (hparams, metrics) in runs.items():
        logger = opened(TensorBoardLogger, tmp_path / name)
        log_steps(logger, 1, 2)
        logger.log_hyperparameters(hparams, metrics, step=2)
        assert [p.name for p in (tmp_path / name).iterdir()] == ["events.out.tfevents.0001"]

    names, metrics, sessions = hparams_table(tmp_path)
    assert names == {"seed", "model.name", "model.layers", "fused"}
    assert metrics[:2] == ["at_end/best", "at_end/blocks/train/nll"]  # the tab opens with the first five
    hparams, results = sessions["bigram"]
    assert hparams == {"seed": 0, "model.name": "bigram", "fused": True}
    assert results["at_end/blocks/train/nll"] == 2.5
    hparams, results = sessions["long"]
    assert hparams == {"seed": 1, "model.name": "gpt", "model.layers": "[4, 4]"}
    assert results["at_end/best"] == 1.25
