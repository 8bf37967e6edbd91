"""What a class says of itself in its source, where the check of a configuration needs to know it.

A part declares what it has or needs as a constant in its class (`has_scores = True`). A new part takes part in the
rules of `constraints` by doing the same, or by inheriting it.
"""

from __future__ import annotations

import ast
from typing import Any

from charlab.configuration.modules import Definition, find, follow
from charlab.errors import UserError


def class_constant(target: str, name: str) -> Any:
    """Returns the constant that a class, or the nearest of its bases that has one, calls `name`.

    Args:
        target: dotted name of the class. It is read, not imported.
        name: of a class attribute.

    Returns:
        Its value; None if there is no such attribute, or the source does not tell.
    """
    try:
        found = find(target)
        return _constant(found, name) if isinstance(found, Definition) else None
    except UserError:
        return None


def _constant(definition: Definition, name: str) -> Any:
    node = definition.node
    if not isinstance(node, ast.ClassDef):
        return None
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=bound)], value=ast.Constant(value=value)) if bound == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=bound), value=ast.Constant(value=value)) if bound == name:
                return value
    for base in node.bases:
        found = follow(base, definition.module)
        value = _constant(found, name) if isinstance(found, Definition) else None
        if value is not None:
            return value
    return None
