r"""One spelling: Unicode signs, LaTeX layout and typed ASCII become one set of tokens.

In: an answer as a person or a model wrote it. Out: tokens. Nothing that carries meaning is
dropped: text stays as words, case stays, gaps between tokens are remembered.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from heal.wording import plural

Kind = Literal["number", "based", "command", "letters", "word", "sign"]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an answer: its kind, its one spelling, whether a gap stands before it."""

    kind: Kind
    text: str
    gap: bool = False
    is_text: bool = False
    r"""Whether it stood inside `\text{}` or the like."""


# fmt: off
_GREEK = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi",
    "psi", "omega",
]
_GREEK_LETTERS = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _GREEK, strict=True))
_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ",
    "·": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/", "∶": ":", "∕": "/", "⁄": "/",
    "√": r"\surd ",
    "∛": r"\cuberoot ", "∞": r"\infty ", "°": r"^\circ ", "º": r"^\circ ", "℃": r"^\circ C",
    "℉": r"^\circ F", "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ",
    "≈": r"\approx ", "≃": r"\approx ", "≅": r"\cong ", "≡": r"\equiv ", "±": r"\pm ",
    "∓": r"\mp ", "∈": r"\in ", "∉": r"\notin ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "⊂": r"\subset ", "⊆": r"\subseteq ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "→": r"\to ", "⇒": r"\implies ", "∧": r"\land ", "∨": r"\lor ", "¬": r"\neg ",
    "∀": r"\forall ", "∃": r"\exists ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ",
    "∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots ", "⋯": r"\ldots ", "∑": r"\sum ",
    "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ", "′": "'", "’": "'", "″": "''", "、": ",",
    "€": r"\text{ euros}", "£": r"\text{ pounds}", "¥": r"\text{ yen}", "¢": r"\text{ cents}",
    "₹": r"\text{ rupees}", "\u00ad": "", "\u200b": "", "\u2061": "", "\u2062": "", "ϕ": r"\phi ",
    "ϵ": r"\epsilon ", "ε": r"\epsilon ", "∆": r"\Delta ", "Ω": r"\Omega ", "µ": r"\mu ",
    **{letter: f"\\{name} " for letter, name in _GREEK_LETTERS.items()},
    **{chr(ord(letter) - 32): f"\\{name.capitalize()} " for letter, name in _GREEK_LETTERS.items()},
}
_TABLE = {
    ord(sign): spelled for sign, spelled in _SIGNS.items() if len(sign) == 1
} | {ord("ς"): r"\sigma "}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱˣ", "0123456789+-nix", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢⱼₖₓₘ", "0123456789+-nijkxm", strict=True))
_SAME_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "le": "leq", "ge": "geq", "leqslant": "leq", "geqslant": "geq", "ne": "neq", "lt": "<",
    "gt": ">", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrace": r"\{", "rbrace":
    r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "varnothing": "emptyset",
    "ldots": "ldots", "cdots": "ldots", "dots": "ldots", "dotsc": "ldots", "varphi": "phi",
    "varepsilon": "epsilon", "colon": ":", "ast": "*", "sim": "approx", "simeq": "approx",
    "div": "/", "rightarrow": "to", "wedge": "land", "vee": "lor", "arcctg": "arccot", "tg":
    "tan", "ctg": "cot", "arctg": "arctan", "lg": "lg", "mod": "bmod", "backslash": "setminus",
    "infinity": "infty", "degree": "degree", "textdegree": "degree", "Longrightarrow":
    "implies", "Rightarrow": "implies", "dollar": "$",
}
_LAYOUT = frozenset([
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl",
    "biggr", "Biggl", "Biggr", "displaystyle", "textstyle", "limits", "nolimits", "mathbf",
    "boldsymbol", "bm", "mathit", "mathsf", "mathcal", "mathnormal", "underline", "boxed", "fbox",
    "hbox", "bf", "rm", "it",
])
_SPACES = frozenset(["quad", "qquad", "enspace", "thinspace", "hspace", "medspace", "space"])
_TEXT = frozenset([
    "text", "textbf", "textit", "textrm", "textsf", "texttt", "mathrm", "mbox", "operatorname",
    "emph", "ce",
])
_FUNCTIONS = frozenset([
    "sin", "cos", "tan", "sec", "csc", "cot", "arcsin", "arccos", "arctan", "arcsec", "arccsc",
    "arccot", "sinh", "cosh", "tanh", "coth", "ln", "log", "lg", "exp", "sqrt", "cbrt", "gcd",
    "lcm", "min", "max", "det", "arg", "abs", "floor", "ceil",
])
_NAMED = {
    "infinity": "infty", "inf": "infty", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "emptyset": "emptyset", "union": "cup", "degrees": "degree", "degree": "degree", "deg":
    "degree",
}
_PRODUCT_OF_NAMES = re.compile(r"(sin|cos|tan|ln|log|exp|sqrt)([a-z])|([a-z])(sin|cos|tan|ln|exp)")
# fmt: on

_UNSEEN = frozenset(["color", "textcolor", "phantom", "hphantom", "vphantom", "tag", "label"])
# a function only before its argument: 7 min, 5 sec, max
_ALSO_WORDS = frozenset(["min", "max", "sec", "arg", "det", "floor", "ceil", "abs"])
_OPENS_ARGUMENT = re.compile(r"\s*(?:[({^_|]|\\left|\\\{)")
_OCLOCK = re.compile(r"\bo'? ?clock\b", re.IGNORECASE)

_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\\,|\{,\}|,\\! ?)(?=\d{3}(?!\d))")
_BRACKETED_PERIOD = re.compile(r"(\d\.\d*)\((\d+)\)$")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,_^])\d{1,3}(?: \d{3})+(?![\d.,])")
_THOUSANDS = r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)(?:\.\d+)?"
_PLAIN_NUMBER = (
    r"(?:\d+(?:\.\d+|\.(?=\s?\\(?:overline|bar|dot)\b))?|(?<!\d)\.\d+)(?:[eE][+-]?\d+(?![\w.]))?"
)
_REST = (
    r"|(?P<command>\\[a-zA-Z]+|\\[^a-zA-Z])|(?P<letters>[^\W\d_]+)"
    r"|(?P<sign><=|>=|->|=>|\.{3}|\*\*|''|[^\s])"
)
_BASED = r"(?P<based>\b0[xX][0-9a-fA-F]+|\b0[bB][01]+)|"
_TOKEN = {
    True: re.compile(f"{_BASED}(?P<number>{_THOUSANDS}|{_PLAIN_NUMBER}){_REST}"),
    False: re.compile(f"{_BASED}(?P<number>{_PLAIN_NUMBER}){_REST}"),
}
_SIGN_COMMANDS = {"<=": "\\leq", ">=": "\\geq", "->": "\\to", "=>": "\\implies", "...": "\\ldots"}
_WORD = re.compile(r"[^\W\d_]+(?:['.-][^\W\d_]+)*")
_LONGEST = 20_000


def tokens(answer: str, commas_group: bool) -> list[Token]:
    """The tokens of an answer; `commas_group`: whether 1,234 is one number or a list of two.

    Raises: ValueError for more than 20,000 characters, which no answer has.
    """
    if len(answer) > _LONGEST:
        raise ValueError(f"the answer has {plural(len(answer), 'character')}")
    return _read(_one_spelling(answer, commas_group), commas_group, is_text=False)


def _one_spelling(answer: str, commas_group: bool) -> str:
    text = _RAISED_RUN.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", answer)
    text = _LOWERED_RUN.sub(lambda m: "_{" + "".join(_LOWERED[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    text = _OCLOCK.sub("oclock", _delimiters_off(text))
    text = _BRACKETED_PERIOD.sub(r"\1\\overline{\2}", text.strip())
    text = _THIN_THOUSANDS.sub("," if commas_group else "", text)
    if commas_group:
        text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    return text.strip()


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _delimiters_off(text: str) -> str:
    # what is no dollar sign of money only says that mathematics begins or ends
    text = re.sub(r"\\[()\[\]]", " ", text).replace("\\$", "\\dollar ")
    if text.count("$") % 2:
        text = re.sub(r"\$(?=[\d.])", r"\\dollar ", text, count=1)
    return text.replace("$", " ")


def _read(text: str, commas_group: bool, is_text: bool) -> list[Token]:
    found: list[Token] = []
    pattern, at, gap = _TOKEN[commas_group], 0, False
    while match := pattern.search(text, at):
        gap = gap or match.start() > at or (is_text and at == 0)
        at = match.end()
        kind, piece = match.lastgroup or "", match[0]
        if kind == "letters":
            at = _read_letters(text, match, gap, is_text, found)
        elif kind == "command":
            at, gap = _read_command(text, match, gap, commas_group, found)
            continue
        elif kind == "sign" and piece == "~":
            gap = True
            continue
        else:
            found.append(_plain_token(kind, piece, gap, is_text))
        gap = False
    return found


def _plain_token(kind: str, piece: str, gap: bool, is_text: bool) -> Token:
    if kind == "number":
        return Token("number", piece.replace(",", "").lower(), gap, is_text)
    if kind == "based":
        return Token("based", piece.lower(), gap, is_text)
    if piece in _SIGN_COMMANDS:
        return Token("command", _SIGN_COMMANDS[piece], gap, is_text)
    return Token("sign", "^" if piece == "**" else piece, gap, is_text)


def _read_letters(
    text: str, match: re.Match[str], gap: bool, is_text: bool, found: list[Token]
) -> int:
    """A run of letters outside commands: a name such as `sin` or `pi`, a word, or letters."""
    word = _WORD.match(text, match.start())
    assert word is not None
    run = match[0]
    is_function = run in _FUNCTIONS and (
        run not in _ALSO_WORDS or _OPENS_ARGUMENT.match(text, match.end()) is not None
    )
    if is_text and run == word[0] and (is_function or run == "infinity"):
        found.append(Token("command", "\\" + _NAMED.get(run, run), gap))
        return match.end()
    if is_text or len(word[0]) > len(run) > 1:
        found.append(Token("word", word[0], gap, is_text))
        return word.end()
    if is_function or run in _GREEK or run in _NAMED:
        found.append(Token("command", "\\" + _NAMED.get(run, run), gap))
    elif product := _PRODUCT_OF_NAMES.fullmatch(run):
        for part in (part for part in product.groups() if part):
            kind: Kind = "command" if part in _FUNCTIONS else "letters"
            found.append(Token(kind, f"\\{part}" if kind == "command" else part, gap))
            gap = False
    else:
        found.append(Token("letters", run, gap))
    return match.end()


def _read_command(
    text: str, match: re.Match[str], gap: bool, commas_group: bool, found: list[Token]
) -> tuple[int, bool]:
    """Append what a command says; the place after it, and whether it leaves a gap."""
    name, at = match[0][1:], match.end()
    if name in _TEXT and (end := _group_end(text, at)) is not None:
        inside = text[text.index("{", at) + 1 : end - 1]
        named = inside.strip()
        if name == "operatorname" and (named in _FUNCTIONS or named in _NAMED):
            found.append(Token("command", "\\" + _NAMED.get(named, named), gap))
            return end, False
        inner = _read(inside, commas_group, is_text=True)
        if inner and not inside[:1].isspace():
            inner[0] = Token(inner[0].kind, inner[0].text, gap, True)
        found += inner
        return end, inside[-1:].isspace()
    if name == "mathbb" and (letter := re.compile(r"\s*\{?\s*([A-Z])\s*\}?").match(text, at)):
        found.append(Token("command", f"\\mathbb{letter[1]}", gap))
        return letter.end(), False
    if name in _UNSEEN and (end := _group_end(text, at)) is not None:
        return end, gap
    if name in _LAYOUT or name == "!":
        # "\left." is no bracket at all
        empty = re.compile(r"\s*\.").match(text, at) if name in ("left", "right") else None
        return (empty.end() if empty else at), gap
    if name in _SPACES or name in (",", ";", ":", " ", ">", "\n"):
        return at, True
    name = _SAME_COMMANDS.get(name, name)
    is_command = name.isalpha() or name in ("{", "}", "\\", "%")
    if name == "\\":
        found.append(Token("sign", "\\\\", gap))
    elif name.startswith("\\") or not is_command:
        found.append(Token("sign", name, gap))
    else:
        found.append(Token("command" if name.isalpha() else "sign", "\\" + name, gap))
    return at, False


def _group_end(text: str, at: int) -> int | None:
    """One past the closing brace of the group at `at`; None if there is none."""
    opening = re.compile(r"\s*\{").match(text, at)
    if opening is None:
        return None
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None
