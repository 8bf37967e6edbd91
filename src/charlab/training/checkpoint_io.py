"""The files of checkpoints: written atomically, read without executing code."""

from __future__ import annotations

import errno
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from charlab.errors import UserError
from charlab.files import write_atomically

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"

RESUMED = (  # parts of a checkpoint that Lightning, the module and the callbacks need to go on
    *("global_step", "epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
    *("progress", "evaluation", "objective", "training_over", "log_positions", "best_step"),
)


class AtomicCheckpointIO(CheckpointIO):
    """Write checkpoints atomically, and read them without executing code.

    The first two checkpoints are verified: they must be readable without executing code.
    """

    def __init__(self) -> None:
        self._to_verify = 2

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if self._to_verify:
            self._to_verify -= 1
            _verify(checkpoint)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _verify(checkpoint: dict[str, Any]) -> None:
    """Raise `UserError` if a part of a checkpoint cannot be read back without executing code."""
    parts = {f"the state of the callback {name}": state for name, state in checkpoint.get("callbacks", {}).items()}
    parts |= {f"“{name}”": part for name, part in checkpoint.items() if name != "callbacks"}
    for name, part in parts.items():
        file = io.BytesIO()
        try:
            torch.save(part, file)
            file.seek(0)
            torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0].partition(". ")[0]
            raise UserError(
                f"A checkpoint could not be read back, because {name} holds more than numbers, text, lists, "
                f"dictionaries and tensors ({reason}): convert what it holds to those."
            ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a charlab checkpoint, with all tensors on the CPU.

    Raises:
        UserError: if the file is missing, unreadable, truncated, contains code (which is not executed), or is not a
            charlab checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}: name a run that has trained for a while.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds code, or is no checkpoint at all, and was not read: use one that charlab wrote."
        ) from error
    except PermissionError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror}): make it readable.") from error
    except Exception as error:  # unpickling corrupt bytes can raise any exception
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a truncated file gives EINVAL
            raise UserError(
                f"The checkpoint {path} cannot be read ({error.strerror}): see that the disk answers, and try again."
            ) from error
        raise UserError(f"The checkpoint {path} is truncated or corrupt: delete it and start the run again.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "vocabulary" not in checkpoint:
        raise UserError(f"The file {path} is not a checkpoint of charlab: use one that it wrote.")
    return checkpoint


def read_resumable(path: Path) -> dict[str, Any]:
    """Return the contents of the checkpoint from which a run resumes; see `read_checkpoint`.

    Raises:
        UserError: also if a part is missing that only training needs.
    """
    checkpoint = read_checkpoint(path)
    missing = [part for part in RESUMED if part not in checkpoint]
    if missing:
        raise UserError(
            f"The checkpoint {path} lacks {', '.join(missing)}, without which training cannot go on: start anew with "
            "force=true."
        )
    return checkpoint
