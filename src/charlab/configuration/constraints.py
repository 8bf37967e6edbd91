"""Rules about several values at once, as far as they can be known before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from charlab.configuration.classes import class_constant
from charlab.errors import UserError

_LONGEST_NAME = 200  # bytes; file systems take 255


def check_constraints(config: DictConfig) -> None:
    """Checks the rules below wherever the values that they are about stand.

    Args:
        config: a configuration whose values are of their types.

    Raises:
        UserError: for the first rule that is broken.
    """
    _name_is_a_folder(config)
    _output_dir_is_named(config)
    _seed_fits(config)
    _components_are_built(config)
    for path, chain in _mappings(config):
        values = [_Values(node) for node in chain]
        _heads_divide_embedding(path, values)
        _key_value_heads_divide_heads(path, values[-1])
        _several_heads_are_projected(path, values[-1])
        _position_fits_mixer(path, values[-1])
        _mixer_looks_both_ways(path, values[-1])
        _states_are_pairs(path, values[-1])
        _shares_sum_to_one_at_most(path, values[-1])
        _least_is_not_above_most(path, values[-1])


def _name_is_a_folder(config: DictConfig) -> None:
    name = _Values(config).get("name")
    if isinstance(name, str) and not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"name={name!r} is no name for a folder: use letters, digits and the signs _ . + - only.")
    if isinstance(name, str) and len(name.encode()) > _LONGEST_NAME:
        raise UserError(f"name has {len(name)} characters, too many for a folder: use {_LONGEST_NAME} at most.")


def _output_dir_is_named(config: DictConfig) -> None:
    """Runs would go to the root of the file system otherwise."""
    if _Values(config).get("output_dir") == "":
        raise UserError("output_dir is empty: name a folder, or output_dir=. for the one you are in.")


def _seed_fits(config: DictConfig) -> None:
    """Random-number generators take seeds of 64 bits."""
    seed = _Values(config).get("seed")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise UserError(f"seed={seed} is too large for a random-number generator: give at most 18 digits.")


def _components_are_built(config: DictConfig) -> None:
    """Each callback and logger is something to be built, or nothing."""
    for group in ("callbacks", "logger"):
        components = _Values(config).get(group)
        for key in map(str, components) if isinstance(components, DictConfig) else ():
            component = _Values(components).get(key)
            if component is not None and _class_name(component) is None:
                raise UserError(
                    f"{group}.{key} must be a mapping with a _target_, or null, which leaves it out; "
                    f"change what is in it with {group}.{key}.KEY=…."
                )


def _heads_divide_embedding(path: list[str], values: list[_Values]) -> None:
    """Attention splits the embedding among its heads, unless their size is given."""
    num_heads = values[-1].get("num_heads")
    depth = max((i for i, node in enumerate(values) if isinstance(node.get("embed_dim"), int)), default=None)
    if not isinstance(num_heads, int) or values[-1].get("head_dim") is not None or depth is None:
        return
    embed_dim = values[depth].get("embed_dim")
    if embed_dim % num_heads:
        raise UserError(
            f"{_dotted(path, 'num_heads')}={num_heads} does not divide "
            f"{_dotted(path[:depth], 'embed_dim')}={embed_dim}; "
            f"the nearest that {_nearest_divisors(embed_dim, num_heads)}."
        )


def _key_value_heads_divide_heads(path: list[str], values: _Values) -> None:
    """In grouped-query attention each key and value serves the same number of queries."""
    num_heads, num_key_value_heads = values.get("num_heads"), values.get("num_key_value_heads")
    if isinstance(num_heads, int) and isinstance(num_key_value_heads, int) and num_heads % num_key_value_heads:
        raise UserError(
            f"{_dotted(path, 'num_key_value_heads')}={num_key_value_heads} does not divide "
            f"{_dotted(path, 'num_heads')}={num_heads}; the nearest that "
            f"{_nearest_divisors(num_heads, num_key_value_heads)}."
        )


def _several_heads_are_projected(path: list[str], values: _Values) -> None:
    """Without a projection there is nothing to bring several heads back to the size of the embedding."""
    num_heads = values.get("num_heads")
    if values.get("projection") is False and isinstance(num_heads, int) and num_heads > 1:
        raise UserError(
            f"{_dotted(path, 'projection')}=false leaves {_dotted(path, 'num_heads')}={num_heads} heads side by side, "
            f"wider than the embedding: set one to true or the other to 1."
        )


def _position_fits_mixer(path: list[str], values: _Values) -> None:
    """A position encoding may need attention scores to act on, and a size that is even since it pairs components."""
    position = _class_name(values.get("position"))
    if position is None:
        return
    encoding = f"{_dotted(path, 'position')} is {_short(position)}"
    needs_scores, even_size = class_constant(position, "needs_scores"), class_constant(position, "even_size")
    mixers = _parts(values.get("mixer"), _dotted(path, "mixer"))
    names = list(filter(None, (_class_name(mixer) for _, mixer in mixers)))
    if needs_scores and names and all(class_constant(name, "has_scores") is False for name in names):
        raise UserError(
            f"{encoding}, which acts on attention scores, but {_dotted(path, 'mixer')} is "
            f"{' and '.join(dict.fromkeys(map(_short, names)))}, which has none: "
            f"choose another of either, {_dotted(path, 'position').replace('.', '/')}=none for instance."
        )
    for key, mixer in mixers:
        size = _head_dim(values, _Values(mixer)) if even_size == "head_dim" else values.get(even_size or "")
        if isinstance(size, int) and size % 2:
            whose = f"{key}.head_dim" if even_size == "head_dim" else _dotted(path, even_size)
            raise UserError(f"{encoding}, which needs an even {whose}, not {size}: change the one or the other.")


def _mixer_looks_both_ways(path: list[str], values: _Values) -> None:
    """A model that fills in characters is to see those on both sides of them."""
    model, mixers = _class_name(values), _parts(values.get("mixer"), _dotted(path, "mixer"))
    if (
        model is None
        or values.get("mixer") is None
        or all(_Values(mixer).get("causal") is False for _, mixer in mixers)
    ):
        return
    if class_constant(model, "looks_both_ways"):
        key, mixer = next(part for part in mixers if _Values(part[1]).get("causal") is not False)
        raise UserError(
            f"{key} is {_short(_class_name(mixer) or 'none')}, which looks to the left only, but "
            f"{_dotted(path, '_target_')} is {_short(model)}, which fills in from both sides: "
            f"choose {_dotted(path, 'mixer').replace('.', '/')}=bidirectional_attention."
        )


def _states_are_pairs(path: list[str], values: _Values) -> None:
    """A mixer's states may come in conjugate pairs."""
    state_dim, name = values.get("state_dim"), _class_name(values)
    if isinstance(state_dim, int) and state_dim % 2 and name and class_constant(name, "even_size") == "state_dim":
        raise UserError(
            f"{_dotted(path, 'state_dim')}={state_dim} is odd, but the states of {_short(name)} come in conjugate "
            f"pairs: make it even."
        )


def _shares_sum_to_one_at_most(path: list[str], values: _Values) -> None:
    """A learning-rate schedule and a split share out one whole each."""
    for first, second in (("warmup", "decay"), ("train_fraction", "validation_fraction")):
        one, other = values.get(first), values.get(second)
        if _is_number(one) and _is_number(other) and one + other > 1:
            raise UserError(
                f"{_dotted(path, first)}={one} and {_dotted(path, second)}={other} "
                f"are more than the whole; let them sum to at most 1."
            )


def _least_is_not_above_most(path: list[str], values: _Values) -> None:
    """The ends of a range are given in order."""
    least, most = values.get("min_step"), values.get("max_step")
    if _is_number(least) and _is_number(most) and least > most:
        raise UserError(
            f"{_dotted(path, 'min_step')}={least} is above {_dotted(path, 'max_step')}={most}: exchange them."
        )


def _nearest_divisors(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted]
    above = [d for d in divisors if d > wanted]
    near = [*below[-1:], *above[:1]]
    return f"does is {near[0]}" if len(near) == 1 else f"do are {near[0]} and {near[1]}"


def _head_dim(model: _Values, mixer: _Values) -> int | None:
    """Returns the size of a mixer's heads, which is the embedding's share if it is not given."""
    given, embed_dim, num_heads = mixer.get("head_dim"), model.get("embed_dim"), mixer.get("num_heads")
    if given is None and isinstance(embed_dim, int) and isinstance(num_heads, int):
        return embed_dim // num_heads
    return given


def _parts(node: Any, key: str) -> list[tuple[str, Any]]:
    """Returns what a configuration gives for a part, one or a list of them, each with its key."""
    if isinstance(node, ListConfig):
        return [(f"{key}[{index}]", part) for index, part in enumerate(node)]
    return [(key, node)]


def _class_name(node: Any) -> str | None:
    """Returns the dotted name of what a node constructs; None if it constructs nothing."""
    target = (node if isinstance(node, _Values) else _Values(node)).get("_target_")
    return target if isinstance(target, str) else None


def _short(target: str) -> str:
    return target.rpartition(".")[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dotted(path: list[str], key: str) -> str:
    return ".".join([*path, key])


def _mappings(config: DictConfig) -> Iterator[tuple[list[str], list[DictConfig]]]:
    """Yields each mapping's path with the mappings that enclose it, itself last; Hydra's are left out."""

    def within(value: Any, path: list[str], chain: list[DictConfig]) -> Iterator[tuple[list[str], list[DictConfig]]]:
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing() or value._is_interpolation()):
            yield path, [*chain, value]
            for key, inner in value.items_ex(resolve=False):
                if path or key != "hydra":
                    yield from within(inner, [*path, str(key)], [*chain, value])
        elif isinstance(value, ListConfig) and not (
            value._is_none() or value._is_missing() or value._is_interpolation()
        ):
            for index, inner in enumerate(value._iter_ex(resolve=False)):
                yield from within(inner, [*path[:-1], f"{path[-1]}[{index}]"], [*chain, value])  # type: ignore[list-item]

    yield from within(config, [], [])


class _Values:
    """A mapping's values, resolved only when a rule asks for them; anything else has none."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def get(self, key: str) -> Any:
        """Returns a value; None if there is none, or it cannot be resolved."""
        try:
            # OmegaConf's own `in` makes an error for every key that is not there, which takes it long.
            known = isinstance(self._node, DictConfig) and key in self._node.keys()  # noqa: SIM118
            return self._node[key] if known else None
        except OmegaConfBaseException:
            return None
