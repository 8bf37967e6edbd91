"""A tracker that does not answer."""

from functools import cached_property

from lightning.pytorch.loggers.logger import Logger


class Tracker(Logger):
    """Does not answer when it is started, or after some measurements."""

    def __init__(self, answers: int = 0) -> None:
        super().__init__()
        self.answers = answers
        self.heard = []

    name = version = "tracker"

    @cached_property
    def experiment(self):
        if not self.answers:
            raise ConnectionError("connection refused")
        return self

    def log_hyperparams(self, params, *_, **__):
        self.params = params

    def log_metrics(self, metrics, step=None):
        if len(self.heard) == self.answers:
            raise ConnectionError("connection reset")
        self.heard.append(step)
