"""From a configuration to what it describes."""

from __future__ import annotations

from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from charlab.configuration.messages import find_user_error


def plain(node: DictConfig) -> dict[str, Any]:
    """Returns a mapping of a configuration as dictionaries and lists, with everything that it refers to filled in."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def build(node: DictConfig | dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call what `_target_` names with the node's other keys, as plain lists and dictionaries, and these arguments.

    Raises:
        UserError: if the constructor raised it; Hydra would wrap it in an error of its own.
    """
    more.setdefault("_convert_", node.get("_convert_", "all"))
    try:
        return instantiate(node, *arguments, **more)
    except InstantiationException as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        raise mistake from None
