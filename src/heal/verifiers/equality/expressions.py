r"""Expressions: tokens read as arithmetic, to the last token or not at all.

In: tokens. Out: a tree of plain tuples, `(operation, *operands)`. What the grammar does not know
(an integral, a word, dots) makes the whole expression unreadable: `UnreadableError` is raised, and
nothing is guessed.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from heal.verifiers.equality.spelling import Token

Tree = tuple[object, ...]
"""`("number", Fraction)`, `("symbol", name)`, or an operation's name and its operands."""

E, PI, I, INFINITY = (("constant", name) for name in ("e", "pi", "i", "infinity"))  # noqa: E741
SIGN: Tree = ("symbol", "±")
"""Stands for +1 or −1, the same in the whole answer."""

_DEEPEST = 80
_LONGEST = 1500
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_ONE_ARGUMENT = {"abs": "absolute", "floor": "floor", "ceil": "ceil"}
_FLOORS = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil")}
_CONSTANTS = {"e": E, "i": I, "\\pi": PI, "\\infty": INFINITY}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "sinh": "arcsinh", "cosh": "arccosh"}
# fmt: off
_FUNCTIONS = frozenset([
    "sin", "cos", "tan", "sec", "csc", "cot", "arcsin", "arccos", "arctan", "arcsec", "arccsc",
    "arccot", "sinh", "cosh", "tanh", "coth", "ln", "log", "lg", "exp", "det", "arg",
])
_SYMBOL_COMMANDS = frozenset([
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "ell",
    "hbar", "vartheta", "varrho", "mathbbR", "mathbbZ", "mathbbN", "mathbbQ", "mathbbC",
])
# fmt: on


class UnreadableError(ValueError):
    """The tokens are not an expression this grammar knows."""


def number(value: int | Fraction) -> Tree:
    """A number's leaf."""
    return ("number", Fraction(value))


def parse(tokens: Sequence[Token]) -> Tree:
    """The expression that the tokens spell. Raises: UnreadableError."""
    if not tokens or len(tokens) > _LONGEST:
        raise UnreadableError("nothing there" if not tokens else "too long")
    parser = _Parser(_letters_apart(tokens))
    tree = parser.sum()
    if not parser.is_at_end:
        raise UnreadableError(f"at {parser.peek()!r}")
    return tree


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
    return _replaced(tree, ("symbol", name), by)


def _replaced(tree: Tree, part: Tree, by: Tree) -> Tree:
    if tree == part:
        return by
    return tuple(_replaced(p, part, by) if isinstance(p, tuple) else p for p in tree)


def _constants(tree: Tree) -> frozenset[str]:
    if tree[0] == "constant":
        return frozenset([str(tree[1])])
    parts = (_constants(part) for part in tree[1:] if isinstance(part, tuple))
    return frozenset().union(*parts)


def _letters_apart(tokens: Sequence[Token]) -> list[Token]:
    """A run of letters is a product of them; more than four in a row are a word."""
    found: list[Token] = []
    for token in tokens:
        if token.kind == "letters" and len(token.text) > 1:
            if len(token.text) > 4:
                raise UnreadableError(f"the word {token.text!r}")
            found += [Token("letters", c, token.gap and i == 0) for i, c in enumerate(token.text)]
        elif token.kind == "word" and len(token.text) == 1:
            found.append(Token("letters", token.text, token.gap))
        else:
            found.append(token)
    return found


class _Parser:
    """Recursive descent; every method leaves the place after what it read."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._bars = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._tokens)

    def peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].kind if at < len(self._tokens) else ""

    def take(self, text: str) -> bool:
        if not self.is_at_end and self.peek() == text:
            self._at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise UnreadableError(f"no {text!r}")

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UnreadableError("too deep")
        total = self._signed_product()
        while True:
            if self.take("+"):
                total = ("add", total, self._product())
            elif self.take("-"):
                total = ("add", total, ("negative", self._product()))
            elif self.take("\\pm"):
                total = ("add", total, ("multiply", SIGN, self._product()))
            elif self.take("\\mp"):
                total = ("add", total, ("negative", ("multiply", SIGN, self._product())))
            else:
                break
        self._depth -= 1
        return total

    def _signed_product(self) -> Tree:
        if self.take("+"):
            return self._product()
        if self.take("-"):
            return ("negative", self._product())
        if self.take("\\pm"):
            return ("multiply", SIGN, self._product())
        if self.take("\\mp"):
            return ("negative", ("multiply", SIGN, self._product()))
        return self._product()

    def _product(self) -> Tree:
        total = self._power()
        while True:
            if self.peek() in ("*", "\\cdot", "\\times"):
                self._at += 1
                total = ("multiply", total, self._signed_power())
            elif self.take("/"):
                total = ("divide", total, self._signed_power())
            elif self._starts_factor():
                total = ("multiply", total, self._power())
            else:
                return total

    def _signed_power(self) -> Tree:
        if self.take("-"):
            return ("negative", self._power())
        self.take("+")
        return self._power()

    def _starts_factor(self) -> bool:
        if self.is_at_end:
            return False
        text, kind = self.peek(), self.kind()
        if text == "|":
            return not self._bars
        if kind == "number":
            return self._tokens[self._at - 1].text == "!"  # 3!7!
        if kind in ("letters", "based") or text in ("(", "[", "{", "\\lfloor", "\\lceil"):
            return kind != "based"
        return kind == "command" and _is_operand(text)

    def _power(self) -> Tree:
        base = self._postfix(self._atom())
        if not self.take("^"):
            return base
        exponent = self._exponent()
        return self._postfix(("power", base, exponent))

    def _postfix(self, tree: Tree) -> Tree:
        while True:
            if self.peek() == "!" and self.peek(1) == "!":
                self._at += 2
                tree = ("double_factorial", tree)
            elif self.take("!"):
                tree = ("factorial", tree)
            elif self.take("\\degree"):
                tree = ("multiply", tree, ("divide", PI, number(180)))
            else:
                return tree

    def _exponent(self) -> Tree:
        if self.take("-"):
            return ("negative", self._exponent())
        self.take("+")
        if self.peek() == "{":
            return self._group()
        atom = self._atom()
        # 2^3^2 is 2^(3^2)
        return ("power", atom, self._exponent()) if self.take("^") else atom

    def _group(self) -> Tree:
        opening = self.peek()
        closing = _CLOSING.get(opening)
        if closing is None or opening == "\\{":
            raise UnreadableError(f"at {opening!r}")
        self._at += 1
        bars, self._bars = self._bars, 0
        inner = self.sum()
        if self.take("\\choose"):
            inner = ("binomial", inner, self.sum())
        self._bars = bars
        self.expect(closing)
        return inner

    def _atom(self) -> Tree:
        if self.is_at_end:
            raise UnreadableError("it ends too soon")
        text, kind = self.peek(), self.kind()
        if kind == "number":
            return self._number()
        if kind == "letters":
            return self._symbol()
        if text in ("(", "[", "{"):
            return self._group()
        if text == "|":
            return self._between_bars()
        if kind == "command":
            return self._command()
        raise UnreadableError(f"at {text!r}")

    def _between_bars(self) -> Tree:
        self.expect("|")
        self._bars += 1
        inner = self.sum()
        self._bars -= 1
        self.expect("|")
        return ("absolute", inner)

    def _number(self) -> Tree:
        text = self.peek()
        self._at += 1
        if self.kind() == "number":
            return self._mixed(text, plain=True)
        if self.peek() in ("\\overline", "\\bar", "\\dot") and "." in text:
            return self._repeating(text)
        if self.peek() == "\\ldots":
            return self._going_on(text)
        if text.isdecimal() and self.peek() == "\\frac":
            return self._mixed(text, plain=False)
        if self.peek() == "_":
            raise UnreadableError("a number with an index")
        return number(_fraction(text))

    def _mixed(self, whole: str, plain: bool) -> Tree:
        """3 1/2 or 3\\frac{1}{2}: a sum; but 2\\frac{x}{3} is a product."""
        start = self._at
        if plain:
            ok = whole.isdecimal() and self._tokens[start].gap and self.peek(1) == "/"
            if not ok or self.kind(2) != "number":
                raise UnreadableError("two numbers in a row")
            top, bottom = self.peek(), self.peek(2)
            self._at += 3
        else:
            self._at += 1
            parts = [self._argument(), self._argument()]
            values = [_whole(part) for part in parts]
            if None in values:
                self._at = start
                return number(_fraction(whole))
            top, bottom = (str(value) for value in values)
        if not (top.isdecimal() and bottom.isdecimal() and 0 < int(top) < int(bottom)):
            if plain:
                raise UnreadableError("two numbers in a row")
            self._at = start
            return number(_fraction(whole))
        return number(_fraction(whole) + Fraction(int(top), int(bottom)))

    def _repeating(self, text: str) -> Tree:
        self._at += 1
        inner = self._argument_tokens()
        if len(inner) != 1 or not inner[0].text.isdecimal():
            raise UnreadableError("no repeating digits")
        digits, places = inner[0].text, len(text.partition(".")[2])
        period = Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
        return number(_fraction(text) + period)

    def _going_on(self, text: str) -> Tree:
        """0.1666...: the digits that are seen to repeat go on."""
        whole, _, places = text.partition(".")
        match = re.fullmatch(r"(\d*?)(?:(\d)\2\2+|(\d{2,12}?)\3+)", places)
        if match is None:
            raise UnreadableError("digits that go on somehow")
        self._at += 1
        period = match[2] or match[3]
        shown = Fraction(f"{whole}.{match[1]}0")
        repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(match[1]))
        return number(shown + repeated)

    def _symbol(self) -> Tree:
        name = self.peek()
        self._at += 1
        index = self._index()
        primes = ""
        while self.peek() in ("'", "''"):
            primes += self.peek()
            self._at += 1
        if not index and not primes and name in _CONSTANTS:
            return _CONSTANTS[name]
        return ("symbol", name + (f"_{index}" if index else "") + primes)

    def _index(self) -> str:
        if not self.take("_"):
            return ""
        return " ".join(token.text for token in self._argument_tokens())

    def _argument_tokens(self) -> list[Token]:
        """Tokens of a braced group, or one token."""
        if not self.take("{"):
            self._at += 1
            if self._at > len(self._tokens):
                raise UnreadableError("it ends too soon")
            return [self._tokens[self._at - 1]]
        start, depth = self._at, 1
        while depth:
            if self.is_at_end:
                raise UnreadableError("no '}'")
            depth += {"{": 1, "}": -1}.get(self.peek(), 0)
            self._at += 1
        return list(self._tokens[start : self._at - 1])

    def _argument(self) -> Tree:
        """What a command is given: a braced group, or one digit, as TeX has it."""
        if self.peek() == "{":
            return self._group()
        if self.kind() == "number" and self.peek().isdecimal() and len(self.peek()) > 1:
            token = self._tokens[self._at]
            tokens = list(self._tokens)
            rest = Token("number", token.text[1:], False)
            tokens[self._at : self._at + 1] = [Token("number", token.text[0], token.gap), rest]
            self._tokens = tokens
        return self._atom_without_mixing()

    def _atom_without_mixing(self) -> Tree:
        if self.kind() == "number":
            self._at += 1
            return number(_fraction(self._tokens[self._at - 1].text))
        return self._atom()

    def _command(self) -> Tree:
        text = self.peek()
        name = text[1:]
        if text in _FLOORS:
            return self._floor(text)
        if name in _SYMBOL_COMMANDS or text in _CONSTANTS:
            return self._symbol()
        self._at += 1
        if name == "frac":
            top, bottom = self._argument(), self._argument()
            if top == ("symbol", "d") and "d" in symbols(bottom):
                raise UnreadableError("a derivative")
            return ("divide", top, bottom)
        if name in ("sum", "prod"):
            return self._series(name)
        if name == "binom":
            return ("binomial", self._argument(), self._argument())
        if name in ("sqrt", "surd", "cbrt", "cuberoot"):
            return self._root(name)
        if name in ("gcd", "lcm", "min", "max"):
            return self._of_several(name)
        if name in _ONE_ARGUMENT:
            return (_ONE_ARGUMENT[name], self._group())
        if name in _FUNCTIONS:
            return self._function(name)
        raise UnreadableError(f"at {text!r}")

    def _floor(self, opening: str) -> Tree:
        closing, operation = _FLOORS[opening]
        self._at += 1
        inner = self.sum()
        self.expect(closing)
        return (operation, inner)

    def _root(self, name: str) -> Tree:
        degree: Tree = number(3 if name in ("cbrt", "cuberoot") else 2)
        if name == "sqrt" and self.take("["):
            degree = self.sum()
            self.expect("]")
        is_group = self.peek() in ("{", "(")
        inside = self._group() if is_group else self._atom_without_mixing()
        return ("root", degree, inside)

    def _series(self, name: str) -> Tree:
        r"""\sum_{k=1}^{n} of the product that follows; `sum` and `prod` hold four operands."""
        self.expect("_")
        index, *first = self._argument_tokens()
        if index.kind != "letters" or len(first) < 2 or first[0].text != "=":
            raise UnreadableError(f"a {name} without its first term")
        self.expect("^")
        last = self._exponent()
        body = self._product()
        if index.text == "i":
            body = _replaced(body, I, ("symbol", "i"))
        if "infinity" in _constants(last) or index.text in symbols(last):
            raise UnreadableError(f"an infinite {name}")
        return (name, ("symbol", index.text), parse(first[1:]), last, body)

    def _of_several(self, name: str) -> Tree:
        closing = _CLOSING.get(self.peek())
        if closing is None:
            raise UnreadableError(f"{name} of nothing")
        self._at += 1
        parts = [self.sum()]
        while self.take(","):
            parts.append(self.sum())
        self.expect(closing)
        return (name, *parts)

    def _function(self, name: str) -> Tree:
        base: Tree | None = None
        if name == "log" and self.take("_"):
            base = self._argument_of_log()
        exponent = self._exponent() if self.take("^") else None
        if exponent == ("negative", number(1)) and name in _INVERSE:
            name, exponent = _INVERSE[name], None
        elif exponent is not None and self._is_negative(exponent):
            raise UnreadableError("a negative power of a function's name")
        inside = self._group() if self.peek() in ("(", "{", "[") else self._bare_operand()
        tree: Tree
        if name == "lg":
            name, base = "log", number(10)
        if base is not None:
            tree = ("divide", ("ln", inside), ("ln", base))
        else:
            tree = ("power", E, inside) if name == "exp" else (_one_name(name), inside)
        return tree if exponent is None else ("power", tree, exponent)

    def _argument_of_log(self) -> Tree:
        return self._group() if self.peek() == "{" else self._atom_without_mixing()

    @staticmethod
    def _is_negative(tree: Tree) -> bool:
        return tree[0] == "negative"

    def _bare_operand(self) -> Tree:
        """`\\sin 2x`: factors up to the next operator, function or bracket."""
        total = self._power()
        while self._starts_factor() and not self._starts_function() and self.peek() not in "([":
            total = ("multiply", total, self._power())
        return total

    def _starts_function(self) -> bool:
        return self.kind() == "command" and self.peek()[1:] in _FUNCTIONS


def _is_operand(command: str) -> bool:
    name = command[1:]
    operators = ("frac", "binom", "sqrt", "surd", "cbrt", "cuberoot", "gcd", "lcm", "min", "max")
    known = name in _FUNCTIONS or name in _SYMBOL_COMMANDS or command in _CONSTANTS
    return known or name in operators or name in _ONE_ARGUMENT


def _one_name(name: str) -> str:
    # without a base, a logarithm is the natural one
    return "ln" if name == "log" else name


def _whole(tree: Tree) -> int | None:
    value = tree[1] if tree[0] == "number" else None
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else None


def _fraction(text: str) -> Fraction:
    if len(text) > 4000:
        raise UnreadableError("a number of more than 4,000 digits")
    mantissa, _, exponent = text.partition("e")
    if exponent and abs(int(exponent)) > 100_000:
        raise UnreadableError("an exponent of more than 100,000")
    return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
