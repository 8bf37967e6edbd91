"""From a configuration to what it describes."""

from __future__ import annotations

from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from charlab.configuration.messages import find_user_error
from charlab.configuration.signatures import find

HYDRA_1_4 = not hydra.__version__.startswith("1.3.")


def plain(node: DictConfig) -> dict[str, Any]:
    """Returns a mapping of a configuration as dictionaries and lists, with everything that it refers to filled in."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def build(node: DictConfig | dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call what `_target_` names with the node's other keys, as plain lists and dictionaries, and these arguments.

    Raises:
        UserError: if the constructor raised it; Hydra would wrap it in an error of its own.
    """
    more.setdefault("_convert_", node.get("_convert_", "all"))
    if HYDRA_1_4:  # it asks who trusts the targets: a configuration is its user's, a checkpoint's is looked at before
        more["_execution_whitelist_"] = sorted(_targets(plain(node) if isinstance(node, DictConfig) else node))
    try:
        return instantiate(node, *arguments, **more)
    except InstantiationException as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        raise mistake from None


def _targets(node: Any) -> set[str]:
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    named = set()
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        found = find(node["_target_"])  # torch.nn.LayerNorm is defined in a module of another name
        named = {node["_target_"], f"{found.__module__}.{found.__qualname__}"}
    return named.union(*map(_targets, parts))
