"""Configurations as ordinary Python values."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf


def plain(node: DictConfig) -> dict[str, Any]:
    """Returns a mapping of a configuration as dictionaries and lists, with everything that it refers to filled in."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
