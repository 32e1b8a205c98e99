"""One form for several ways to say the same: what is done to each answer before the rules.

In and out: forms. Signs are expanded, true chains of numbers end in their value, false ones are
contradictions, and `x = 5, 7` names both of its values.
"""

from collections.abc import Sequence

from heal.verifiers.equality.amounts import same_quantity
from heal.verifiers.equality.forms import Contradiction, Form, Relation, Row, Value
from heal.verifiers.equality.reading import signs_expanded
from heal.verifiers.equality.trees import Tree, symbols


def simplified(form: Form) -> Form:
    """Signs expanded, true chains of numbers ended, one value for one name."""
    form = signs_expanded(form)
    if isinstance(form, Relation):
        return _simplified_relation(form)
    if isinstance(form, Row) and form.kind == "list":
        return _simplified_list(form)
    if isinstance(form, Row) and form.kind == "set":
        return Row("set", _flat([signs_expanded(item) for item in form.items]))
    return form


def _simplified_relation(form: Relation) -> Form:
    if set(form.operators) != {"="}:
        return form
    constants = [s for s in form.sides if isinstance(s, Value) and constant(s) is not None]
    if not all(same_quantity(constants[0], c).same for c in constants[1:]):
        return Contradiction(form.sides)
    if len(constants) == len(form.sides):
        return form.sides[-1]
    if len(form.sides) == 2 and constant(form.sides[0]) is not None:
        form = Relation(form.operators, form.sides[::-1])
    several = signs_expanded(form.sides[-1])
    if len(form.sides) == 2 and isinstance(several, Row) and several is not form.sides[-1]:
        return Row("list", tuple(Relation(("=",), (form.sides[0], v)) for v in several.items))
    if len(form.sides) > 2 and constants and form.sides[-1] in constants:
        return Relation(("=",), (form.sides[0], form.sides[-1]))
    return form


def _simplified_list(form: Row) -> Form:
    flat = _flat([simplified(item) for item in form.items])
    first = flat[0]
    if is_equation(first) and len(flat) > 1 and all(isinstance(f, Value) for f in flat[1:]):
        assert isinstance(first, Relation)  # x = 5, 7
        flat = (first, *(Relation(("=",), (first.sides[0], f)) for f in flat[1:]))
    return flat[0] if len(flat) == 1 else Row("list", flat)


def _flat(items: Sequence[Form]) -> tuple[Form, ...]:
    found: list[Form] = []
    for item in items:
        found += item.items if isinstance(item, Row) and item.kind == "list" else [item]
    return tuple(found)


def is_equation(form: Form) -> bool:
    """Whether a form is one equation of two sides."""
    return isinstance(form, Relation) and form.operators == ("=",)


def constant(form: Form) -> Tree | None:
    """The expression of a value without symbols."""
    if isinstance(form, Value) and not symbols(form.tree):
        return form.tree
    return None
