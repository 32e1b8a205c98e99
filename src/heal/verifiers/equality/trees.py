"""Trees: expressions as plain tuples, `(operation, *operands)`.

Knows how a tree is built and searched, not how it is written or what it is worth.
"""

from fractions import Fraction

Tree = tuple[object, ...]
"""`("number", Fraction)`, `("symbol", name)`, or an operation's name and its operands."""

E, PI, I, INFINITY = (("constant", name) for name in ("e", "pi", "i", "infinity"))  # noqa: E741
SIGN: Tree = ("symbol", "±")
"""Stands for +1 or −1, the same in the whole answer."""


def number(value: int | Fraction) -> Tree:
    """A number's leaf."""
    return ("number", Fraction(value))


def symbols(tree: Tree) -> frozenset[str]:
    """Names of the symbols in an expression."""
    if tree[0] == "symbol":
        return frozenset([str(tree[1])])
    if tree[0] in ("sum", "prod"):
        _, index, first, last, body = tree
        assert isinstance(first, tuple) and isinstance(last, tuple) and isinstance(body, tuple)
        bound = frozenset([str(index[1])]) if isinstance(index, tuple) else frozenset()
        return symbols(first) | symbols(last) | (symbols(body) - bound)
    parts = (symbols(part) for part in tree[1:] if isinstance(part, tuple))
    return frozenset().union(*parts)


def operations(tree: Tree) -> frozenset[str]:
    """Names of the operations in an expression."""
    parts = (operations(part) for part in tree[1:] if isinstance(part, tuple))
    return frozenset([str(tree[0])]).union(*parts)


def substitute(tree: Tree, name: str, by: Tree) -> Tree:
    """The expression with a symbol replaced."""
    return replaced(tree, ("symbol", name), by)


def replaced(tree: Tree, part: Tree, by: Tree) -> Tree:
    """The expression with a part of it replaced, wherever it occurs."""
    if tree == part:
        return by
    return tuple(replaced(p, part, by) if isinstance(p, tuple) else p for p in tree)


def constants(tree: Tree) -> frozenset[str]:
    """Names of the constants in an expression."""
    if tree[0] == "constant":
        return frozenset([str(tree[1])])
    parts = (constants(part) for part in tree[1:] if isinstance(part, tuple))
    return frozenset().union(*parts)
