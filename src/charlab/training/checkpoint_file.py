"""Read the files of checkpoints without executing code. This module does not import Lightning, which is slow."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import torch

from charlab.errors import UserError

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"

REQUIRED_TO_RESUME = (  # parts of a checkpoint that Lightning, the module and the callbacks need to resume
    *("global_step", "epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
    *("progress", "evaluation", "objective", "training_over", "log_positions", "best_step"),
)


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
            f"{path} contains code or is not a checkpoint, and was not loaded: use one that charlab wrote."
        ) from error
    except PermissionError as error:
        raise UserError(f"The checkpoint {path} cannot be read ({error.strerror}): make it readable.") from error
    except Exception as error:  # unpickling corrupt bytes can raise any exception
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a truncated file gives EINVAL
            raise UserError(
                f"The checkpoint {path} cannot be read ({error.strerror}): check the disk, and try again."
            ) from error
        raise UserError(f"The checkpoint {path} is truncated or corrupt: delete it and start the run again.") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "vocabulary" not in checkpoint:
        raise UserError(f"The file {path} is not a checkpoint of charlab: use one that it wrote.")
    return checkpoint


def unpruned(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of a checkpoint, with masked ones as they act, in a model that is built without masks."""
    weights = dict(checkpoint["state_dict"])
    for name, (weight, mask) in checkpoint.get("pruned", {}).items():
        for suffix in ("_orig", "_mask"):
            weights.pop(f"{name}{suffix}", None)
        weights.setdefault(name, weight * mask)
    return weights


def read_resumable(path: Path) -> dict[str, Any]:
    """Return the contents of the checkpoint from which a run resumes; see `read_checkpoint`.

    Raises:
        UserError: also if a part that only training needs is missing.
    """
    checkpoint = read_checkpoint(path)
    missing = [part for part in REQUIRED_TO_RESUME if part not in checkpoint]
    if missing:
        raise UserError(
            f"The checkpoint {path} lacks {', '.join(missing)}, without which training cannot resume: start over "
            "with force=true."
        )
    return checkpoint
