import math

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from charlab.errors import UserError
from charlab.training.loggers import CSVLogger, build_logger
from tests.training import small


def log_steps(logger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        logger.log_metrics({"train/loss": 1 / step, "characters": step * 32, "seconds": step / 8}, step)


def events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def points(accumulator: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def steps(path) -> list[int]:
    return [int(line.partition(",")[0]) for line in path.read_text().splitlines()[1:]]


@pytest.fixture
def csv_logger(tmp_path):
    logger = CSVLogger(save_dir=str(tmp_path))
    yield logger
    logger.finalize("success")


def test_csv_has_one_line_per_measurement(tmp_path, csv_logger):
    csv_logger.log_metrics({"train/loss": 0.1 + 0.2, "learning_rate": 1e-3, "characters": 96, "seconds": 1.25}, 3)
    csv_logger.log_metrics({"train/nll": math.nan, "dev/nll": None}, 4)
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,characters,seconds,metric,value\n"
        "3,96,1.250,train/loss,0.30000000000000004\n"
        "3,96,1.250,learning_rate,0.001\n"
        "4,,,train/nll,nan\n"
    )


def test_csv_is_a_wide_table_in_one_line_of_pandas(tmp_path, csv_logger):
    pandas = pytest.importorskip("pandas")
    log_steps(csv_logger, 1, 3)
    csv_logger.log_metrics({"train/nll": 2.0}, 2)
    wide = pandas.read_csv(tmp_path / "metrics.csv").pivot(index="step", columns="metric", values="value")
    assert wide["train/loss"].tolist() == [1, 1 / 2, 1 / 3]
    assert wide.loc[2, "train/nll"] == 2


def test_what_is_logged_is_in_the_csv_at_once(csv_logger, tmp_path):
    """A SIGKILL leaves no time to flush."""
    log_steps(csv_logger, 1, 3)
    assert steps(tmp_path / "metrics.csv") == [1, 2, 3]
    assert csv_logger.position() == (tmp_path / "metrics.csv").stat().st_size


def test_a_resumed_csv_is_the_same_bytes_as_one_never_stopped(tmp_path):
    whole, halved = (CSVLogger(save_dir=str(tmp_path / name)) for name in ("whole", "halved"))
    for logger in (whole, halved):
        log_steps(logger, 1, 5)
    position = halved.position()
    log_steps(halved, 6, 8)  # after the checkpoint, before the kill
    resumed = CSVLogger(save_dir=str(tmp_path / "halved"))
    resumed.rewind(position)
    for logger in (whole, resumed):
        log_steps(logger, 6, 10)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "halved/metrics.csv").read_bytes()
    for logger in (whole, halved, resumed):
        logger.finalize("success")


def test_rewinding_to_the_beginning_removes_the_csv_and_nothing_else(csv_logger, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    log_steps(csv_logger, 1, 5)
    csv_logger.rewind(0)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_rewinding_never_lengthens_the_csv(csv_logger, tmp_path):
    log_steps(csv_logger, 1, 2)
    size = csv_logger.position()
    csv_logger.rewind(size + 100)
    assert (tmp_path / "metrics.csv").stat().st_size == size


def test_the_csv_goes_on_after_lightning_closed_it(csv_logger, tmp_path):
    log_steps(csv_logger, 1, 2)
    csv_logger.finalize("success")
    log_steps(csv_logger, 3, 4)
    assert steps(tmp_path / "metrics.csv") == [1, 2, 3, 4]


def test_lightnings_csv_logger_keeps_what_was_logged_before_a_kill(tmp_path):
    for resumed_step, first, last in ((None, 1, 5), (3, 4, 6)):
        logger = build_logger("mine", {"_target_": "lightning.pytorch.loggers.CSVLogger"}, tmp_path, resumed_step)
        log_steps(logger, first, last)
        logger.save()
    files = sorted(tmp_path.glob("lightning_logs/*/metrics.csv"))
    assert [len(file.read_text().splitlines()) - 1 for file in files] == [5, 3]


@pytest.mark.parametrize("target", ["collections.OrderedDict", "json.dumps"])
def test_what_is_no_logger_is_named(tmp_path, target):
    with pytest.raises(UserError, match=rf"^logger\.mine is {target}, which is not a Lightning logger: name one\.$"):
        build_logger("mine", {"_target_": target}, tmp_path, None)


def test_other_ranks_touch_nothing(csv_logger, tmp_path, monkeypatch):
    log_steps(csv_logger, 1, 2)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_steps(csv_logger, 3, 4)
    csv_logger.rewind(0)
    board = small.tensorboard(tmp_path)
    log_steps(board, 3, 4)
    board.log_text("sample", "text", 4)
    board.log_outcome({"seed": 1}, {"nll": 1.0}, 4, succeeded=True)
    assert steps(tmp_path / "metrics.csv") == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def build(folder, resumed_step=None):
    target = "charlab.training.loggers.TensorBoardLogger"
    return build_logger("tensorboard", {"_target_": target}, folder, resumed_step)


def test_a_resumed_run_has_neither_gap_nor_repetition_in_tensorboard(tmp_path):
    logger = build(tmp_path)
    log_steps(logger, 1, 8)  # the last checkpoint was at step 5
    logger.finalize("failed")
    resumed = build(tmp_path, 5)
    log_steps(resumed, 6, 9)
    resumed.finalize("failed")
    again = build(tmp_path, 7)
    log_steps(again, 8, 12)
    again.finalize("success")
    assert [step for step, _ in points(events(tmp_path), "train/loss")] == list(range(1, 13))


def test_logs_of_an_attempt_without_a_checkpoint_are_forgotten(tmp_path):
    logger = build(tmp_path)
    log_steps(logger, 1, 3)
    logger.finalize("failed")
    resumed = build(tmp_path, -1)
    log_steps(resumed, 1, 2)
    resumed.finalize("success")
    assert [step for step, _ in points(events(tmp_path), "train/loss")] == [1, 2]


def test_tensorboard_opens_on_the_losses_side_by_side(tmp_path):
    logger = build(tmp_path)
    metrics = ["train/loss", "train/nll", "validation/nll", "dev/nll", "learning_rate", "gradient_norm", "epoch"]
    logger.log_metrics(dict.fromkeys([*metrics, "characters", "seconds", "characters_per_second"], 1.0), 1)
    logger.log_image("attention/mixer", np.zeros((2, 2, 3), np.uint8), 1)
    logger.log_outcome({"seed": 1}, {"blocks/validation/nll": 2.0}, 1, succeeded=True)
    logger.finalize("success")
    tags = events(tmp_path).Tags()
    cards = sorted([*tags["scalars"], *tags["images"]])
    assert cards[:4] == ["nll/dev", "nll/train", "nll/validation", "train/loss"]  # a group of charts, and the next one
    (layout,) = events(tmp_path).Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(layout.tensor_proto.string_val[0]).category
    assert list(category.chart[0].multiline.tag) == ["nll/train", "nll/validation", "nll/dev"]


def test_tensorboard_shows_text_with_its_line_breaks(tmp_path):
    logger = build(tmp_path)
    logger.log_text("sample", "ROMEO:\r*O*, é\r\nend", 7)
    logger.finalize("success")
    (event,) = events(tmp_path).Tensors("sample/text_summary")
    assert event.step == 7
    assert event.tensor_proto.string_val[0].decode() == "    ROMEO:\n    *O*, é\n    end"


def test_tensorboard_shows_images(tmp_path):
    from io import BytesIO

    from PIL import Image

    logger = build(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    logger.log_image("attention/mixer", image, 7)
    logger.finalize("success")
    (event,) = events(tmp_path).Images("views/attention/mixer")
    assert (event.step, event.width, event.height) == (7, 7, 5)
    assert np.array_equal(np.asarray(Image.open(BytesIO(event.encoded_image_string))), image)


def hparams_table(folder) -> tuple[set[str], list[str], dict[str, tuple[dict, dict, int]]]:
    """Ask TensorBoard's own plugin what it shows: hyper-parameters, metrics, and both of each session."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    metadata = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=statuses, slice_size=10, include_metrics=True)
    groups = Handler(RequestContext(), context, "", request).run().session_groups
    return (
        {info.name for info in experiment.hparam_infos},
        [info.name.tag for info in experiment.metric_infos],
        {
            session.name: (
                {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
                {metric.name.tag: metric.value for metric in session.metric_values},
                session.status,
            )
            for group in groups
            for session in group.sessions
        },
    )


def test_hyperparameters_of_different_runs_share_one_table(tmp_path):
    runs = {
        "bigram": (
            {"seed": 0, "model": {"name": "bigram"}, "compile": False, "clip": math.inf, "dev": None}
            | {"trainer": {"_target_": "lightning.pytorch.Trainer", "devices": "auto", "fast_dev_run": False}},
            {"blocks/train/nll": 2.5},
        ),
        "long": (
            {"seed": 1, "model": {"name": "gpt", "layers": [4, 4]}, "compile": "auto", "clip": 1}
            | {"trainer": {"_target_": "lightning.pytorch.Trainer", "devices": 1, "max_steps": 5, "fast_dev_run": 2}},
            {"blocks/train/nll": 1.5, "best": 1.25, "no": None},
        ),
        "diverged": ({"seed": 2}, {}),
    }
    for name, (hparams, metrics) in runs.items():
        logger = build(tmp_path / name)
        log_steps(logger, 1, 2)
        logger.finalize("success")  # as Lightning does after training
        logger.log_outcome(hparams, metrics, 2, succeeded=bool(metrics))
        logger.finalize("success")

    names, metrics, sessions = hparams_table(tmp_path)
    results = {"result.blocks/train/nll", "result.best"}
    trainer = {f"trainer.{key}" for key in ("_target_", "devices", "max_steps", "fast_dev_run")}
    assert names == {"seed", "model.name", "model.layers", "compile", "clip", *trainer, *results}
    assert metrics == ["train/loss", "watch/characters", "watch/seconds"]  # no charts of one dot
    hparams, _, status = sessions["bigram"]
    trainer = {"trainer._target_": "lightning.pytorch.Trainer", "trainer.devices": "auto"}
    described = {"seed": 0, "model.name": "bigram", "compile": "false", "trainer.fast_dev_run": "false"}
    assert hparams == described | trainer | {"result.blocks/train/nll": 2.5}
    assert status == api_pb2.STATUS_SUCCESS
    hparams, _, status = sessions["long"]
    described = {"seed": 1, "model.name": "gpt", "model.layers": "[4, 4]", "compile": "auto", "clip": 1.0}
    trainer |= {"trainer.devices": "1", "trainer.max_steps": 5, "trainer.fast_dev_run": "2"}
    assert hparams == described | trainer | {"result.blocks/train/nll": 1.5, "result.best": 1.25}
    assert sessions["diverged"][2] == api_pb2.STATUS_FAILURE
