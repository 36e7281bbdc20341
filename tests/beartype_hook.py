"""An import hook that checks types at run time, for packages without shapes in their types.

jaxtyping's hook does the same and binds shapes, which takes 13 µs a call; beartype's decorator
takes one, and the functions of a fit are called tens of thousands of times. beartype's own hook
also decorates classes, and does not find the types that a dataclass inherits from another module.
Functions whose types are not imported at run time are left unchecked.
"""

from __future__ import annotations

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any

from beartype import BeartypeConf, beartype

# An int may be given for a float, as in PEP 484.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

_DECORATOR = ast.parse(f"__import__({__name__!r}, fromlist=['checked']).checked", mode="eval").body


class _Loader(SourceFileLoader):
    def source_to_code(  # type: ignore[override]
        self, data: Any, path: Any, *, _optimization: int = -1
    ) -> CodeType:
        tree = ast.parse(data)
        unknown = _not_imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not (
                    _has_param_spec(node) or unknown & _names_in_types(node)):
                node.decorator_list.append(ast.copy_location(_DECORATOR, node))
        ast.fix_missing_locations(tree)
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimization)

    def path_stats(self, path: str) -> Any:
        """Neither read nor write compiled modules, which belong to the plain sources."""
        raise OSError


def _has_param_spec(node: ast.FunctionDef) -> bool:
    """Whether it takes `*args: P.args`, which beartype does not read as text."""
    return node.args.vararg is not None and isinstance(node.args.vararg.annotation, ast.Attribute)


def _not_imported(tree: ast.Module) -> set[str]:
    """Names that only type checkers import."""
    blocks = [node for node in tree.body if isinstance(node, ast.If)
              and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"]
    return {alias.asname or alias.name for block in blocks for node in ast.walk(block)
            if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}


def _names_in_types(node: ast.FunctionDef) -> set[str]:
    arguments = [each.annotation for each in ast.walk(node.args) if isinstance(each, ast.arg)]
    types = [each for each in (*arguments, node.returns) if each is not None]
    return {each.id for of in types for each in ast.walk(of) if isinstance(each, ast.Name)}


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.package and not name.startswith(self.package + "."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_types_of(package: str) -> None:
    """Check arguments and results of a package's functions, if it is imported after this call."""
    sys.meta_path.insert(0, _Finder(package))
