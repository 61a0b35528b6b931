"""What an exported program says as text that PyTorch evaluates: size expressions, guards and the names of operators."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

_LONGEST = 100_000
# The classes that sympy's srepr writes for sizes, and torch.utils._sympy.functions.
_CLASSES = frozenset(
    [
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "Mod",
        "Abs",
        "floor",
        "ceiling",
        "And",
        "Or",
        "Not",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "LShift",
        "RShift",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
        "IsNonOverlappingAndDenseIndicator",
    ]
)
_NODES = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Load,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.operator,
    ast.BoolOp,
    ast.boolop,
    ast.Compare,
    ast.cmpop,
    ast.Call,
    ast.keyword,
)
_WORD = re.compile(r"(?!__)\w+|-?\d+\.\d+(?:e[+-]?\d+)?", re.ASCII)
# A guard names the sizes of an input so, and calls these.
_SIZE = re.compile(r"L\['[A-Za-z0-9_]+'\](?:\[\d+\])?\.(?:size|stride)\(\)\[\d+\]")
_CALL = re.compile(r"\b(?:torch\.(sym_max|sym_min|sym_float|sym_int|sym_not)|math\.(trunc|floor|ceil|sqrt))\(")
_GUARD_CALLS = frozenset(
    [
        "sym_max",
        "sym_min",
        "sym_float",
        "sym_int",
        "sym_not",
        "trunc",
        "floor",
        "ceil",
        "sqrt",
        "max",
        "min",
        "float",
        "int",
    ]
)
_TARGET = re.compile(
    r"torch\.ops\.(?:aten|prims|torchvision|quantized|quantized_decomposed)(?:\.(?!__)\w+){1,2}"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond|scan|while_loop|map_impl)"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|torch\.(?:sym_max|sym_min|sym_float|sym_int|sym_not|sym_ite|sym_sum|_sym_sqrt)"
    r"|math\.(?:trunc|floor|ceil|sqrt)",
    re.ASCII,
)


def text_faults(program: Any) -> Iterator[str]:
    """What in a program's parsed JSON, which PyTorch would evaluate, is more than arithmetic or a known operator."""
    for key, value in _strings(program):
        if key == "expr_str" and not is_arithmetic(value, _CLASSES):
            yield f"its size expression {value[:40]!r} is more than arithmetic"
        elif key == "guards_code" and not is_guard(value):
            yield f"its guard {value[:40]!r} is more than arithmetic"
        elif key == "target" and not _TARGET.fullmatch(value):
            yield f"its operator {value[:60]!r} is none of PyTorch's or torchvision's"


def is_guard(text: str) -> bool:
    """Whether a guard is arithmetic and comparisons of the sizes of the inputs."""
    if len(text) > _LONGEST or "\n" in text:
        return False
    plain = _CALL.sub(lambda found: f"{found[1] or found[2]}(", _SIZE.sub("size", text))
    return "'" not in plain and '"' not in plain and is_arithmetic(plain, _GUARD_CALLS)


def is_arithmetic(text: str, functions: frozenset[str] = _CLASSES) -> bool:
    """Whether a text is numbers, names, operators and calls of these functions by name, and not too long to parse."""
    if len(text) > _LONGEST:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_plain(node, functions) for node in nodes)


def _is_plain(node: ast.AST, functions: frozenset[str]) -> bool:
    if isinstance(node, ast.Constant):
        value = node.value
        return isinstance(value, (int, float)) or (isinstance(value, str) and bool(_WORD.fullmatch(value)))
    if isinstance(node, ast.Name):
        return not node.id.startswith("__") and node.id.isascii()
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in functions
    return isinstance(node, _NODES)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value
