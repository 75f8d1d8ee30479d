"""A public function with four parameters or more names each of them in its docstring."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST = 3  # parameters that a signature explains by itself


def doors(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """(name, function, what its docstrings say) of each public function, method and constructor of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            about = ast.get_docstring(node) or ""
            for own in node.body:
                if isinstance(own, ast.FunctionDef) and not own.name.startswith("_"):
                    yield f"{node.name}.{own.name}", own, ast.get_docstring(own) or ""
                elif isinstance(own, ast.FunctionDef) and own.name in ("__init__", "__call__"):
                    yield f"{node.name}.{own.name}", own, f"{ast.get_docstring(own) or ''} {about}"


def silent(path: Path) -> list[str]:
    """The functions of a module whose docstrings leave parameters out, with those."""
    found = []
    for name, function, said in doors(ast.parse(path.read_text())):
        a = function.args
        names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        names = [x for x in names if x not in ("self", "cls")]
        missing = [x for x in names if not re.search(rf"\b{x}\b", said)]
        if len(names) > MOST and missing:
            found.append(f"{path.relative_to(ROOT)}: {name} says nothing of {', '.join(missing)}")
    return found


def test_every_parameter_is_explained():
    missing = [line for path in sorted((ROOT / "jaxrec").rglob("*.py")) for line in silent(path)]
    assert not missing, "\n".join(missing)
