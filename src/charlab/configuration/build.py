"""Build the objects that a configuration describes."""

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
    """Return a configuration node as plain dictionaries and lists, with all interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def build(node: DictConfig | dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call the node's `_target_` with its other keys, as plain lists and dictionaries, and the given arguments.

    Raises:
        UserError: if the constructor raises one. Hydra would wrap it in an `InstantiationException`.
    """
    more.setdefault("_convert_", node.get("_convert_", "all"))
    if HYDRA_1_4:  # requires a whitelist of targets; users trust their own configs, and checkpoints are checked earlier
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
        found = find(node["_target_"])  # the defining module may have another name, as for torch.nn.LayerNorm
        named = {node["_target_"], f"{found.__module__}.{found.__qualname__}"}
    return named.union(*map(_targets, parts))
