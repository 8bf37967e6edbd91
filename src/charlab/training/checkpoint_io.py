"""How checkpoints reach the disk and come back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from charlab.errors import UserError
from charlab.files import write_atomically


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, next to where they belong, and reads them without running code in them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint of charlab holds, on the CPU.

    Raises:
        UserError: if the file is missing, unreadable, truncated, holds code (not run then), or is no such checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}: name a run that has trained for a while.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds code, or is no checkpoint at all, and was not read: use one that charlab wrote."
        ) from error
    except OSError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror}): make it readable.") from error
    except Exception as error:  # on bytes that are no checkpoint, unpickling stumbles in any way there is
        raise UserError(f"The checkpoint {path} is truncated or corrupt: delete it and start the run again.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "vocabulary" not in checkpoint:
        raise UserError(f"The file {path} is not a checkpoint of charlab: use one that it wrote.")
    return checkpoint
