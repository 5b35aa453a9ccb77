"""How each kind of MySQL expression is written for SQLite, and its MySQL type; see `dialect`."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlglot import exp

from agenttuning.environments.db.messages import SQLError, syntax_error

if TYPE_CHECKING:
    from agenttuning.environments.db.dialect import Translator

Type = str | int | None
Typed = tuple[exp.Expression, Type]
DIVISION_DIGITS = 4  # MySQL's div_precision_increment
IN_AT_ONCE = 100  # SQLite's functions take 127 values
WINDOWS = (exp.RowNumber, exp.Rank, exp.DenseRank, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue)


class Set(exp.EQ):
    """An assignment, which is no comparison."""


class RowIn(exp.In):
    """rowid IN (query)."""


class Stored(exp.Paren):
    """A value on its way into a TEXT column."""


def my(name: str, *arguments: exp.Expression) -> exp.Expression:
    """A call of one of `functions.FUNCTIONS`."""
    return exp.Anonymous(this=f"my_{name}", expressions=list(arguments))


def _digits(literal: str) -> str:
    whole, point, rest = literal.partition(".")
    return (whole.lstrip("0") or "0") + point + rest


def _common(*kinds: Type) -> Type:
    known = [kind for kind in kinds if kind != "null"]
    if not known:
        return "null"
    if None in known:
        return None
    if "text" in known or "double" in known:
        return "text" if "text" in known else "double"
    scales = [kind for kind in known if isinstance(kind, int)]
    return max(scales) if scales else "int"


def _literal(_: Translator, node: exp.Literal) -> Typed:
    if node.is_string:
        return node, "text"
    text = node.this.lower()
    if "e" in text:
        return node, "double"
    return node, len(text.partition(".")[2]) if "." in text else "int"


def _column(self: Translator, node: exp.Column) -> Typed:
    name = node.name.lower()
    if isinstance(node.this, exp.Star):
        return node, None
    if name in self.named and (not node.table or name not in self.columns):
        return node, self.named[name]
    return node, "text" if name in self.columns else None


def _arithmetic(self: Translator, node: exp.Binary) -> Typed:
    (left, a), (right, b) = self.number(node.this), self.number(node.expression)
    if isinstance(node, exp.Div | exp.IntDiv | exp.Mod):
        name = {"div": "div", "intdiv": "intdiv", "mod": "mod"}[node.key]
        kind = "int" if name == "intdiv" else _common(a, b)
        if name == "div" and kind != "double":
            kind = DIVISION_DIGITS + (a if isinstance(a, int) else 0)
        return my(name, left, right), kind
    node.set("this", left)
    node.set("expression", right)
    kind = _common(a, b)
    if isinstance(node, exp.Mul) and isinstance(kind, int):
        kind = (a if isinstance(a, int) else 0) + (b if isinstance(b, int) else 0)
    return node, kind


def _comparison(self: Translator, node: exp.Binary) -> Typed:
    if isinstance(node.this, exp.Tuple) or isinstance(node.expression, exp.Tuple | exp.Any | exp.All):
        return self.inside(node), "int"
    call = my("cmp", self.visit(node.this)[0], self.visit(node.expression)[0])
    return type(node)(this=call, expression=exp.Literal.number(0)), "int"


def _truth(self: Translator, node: exp.Expression) -> Typed:
    for key in ("this", "expression"):
        if isinstance(node.args.get(key), exp.Expression):
            node.set(key, self.number(node.args[key])[0])
    return node, "int"


def _xor(self: Translator, node: exp.Xor) -> Typed:
    left, right = (exp.Not(this=exp.Paren(this=self.number(side)[0])) for side in (node.this, node.expression))
    return exp.Paren(this=exp.NEQ(this=exp.Paren(this=left), expression=exp.Paren(this=right))), "int"


def _is(self: Translator, node: exp.Is) -> Typed:
    if isinstance(node.expression, exp.Boolean):
        node.set("this", self.number(node.this)[0])
        return node, "int"
    node.set("this", self.visit(node.this)[0])
    return node, "int"


def _in(self: Translator, node: exp.In) -> Typed:
    if node.args.get("query") or isinstance(node.this, exp.Tuple) or not node.expressions:
        return self.inside(node), "int"
    value, *others = (self.visit(part)[0] for part in (node.this, *node.expressions))
    found = [my("in", value.copy(), *others[i : i + IN_AT_ONCE]) for i in range(0, len(others), IN_AT_ONCE)]
    return exp.Paren(this=exp.or_(*found)) if len(found) > 1 else found[0], "int"


def _like(self: Translator, node: exp.Like, *more: exp.Expression) -> Typed:
    call = my("like", self.visit(node.this)[0], self.visit(node.expression)[0], *more)
    return (exp.Not(this=call) if node.args.get("negate") else call), "int"


def _escape(self: Translator, node: exp.Escape) -> Typed:
    return _like(self, node.this, node.expression)


def _case(self: Translator, node: exp.Case) -> Typed:
    subject = node.args.get("this")
    branches, results = [], []
    for branch in node.args["ifs"]:
        test = branch.this if subject is None else exp.EQ(this=subject.copy(), expression=branch.this)
        results.append(self.visit(branch.args["true"]))
        branches.append(exp.If(this=self.number(test)[0], true=results[-1][0]))
    other = self.visit(node.args["default"]) if node.args.get("default") else (exp.Null(), "null")
    return _branches(branches, results, other)


def _if(self: Translator, node: exp.If) -> Typed:
    then = self.visit(node.args["true"])
    other = self.visit(node.args["false"]) if node.args.get("false") else (exp.Null(), "null")
    return _branches([exp.If(this=self.number(node.this)[0], true=then[0])], [then], other)


def _branches(branches: list[exp.If], results: list[Typed], other: Typed) -> Typed:
    kind = _common(*(k for _, k in results), other[1])
    if kind == "text":
        for branch, (made, own) in zip(branches, results, strict=True):
            branch.set("true", _as_text(made, own))
        other = (_as_text(*other), "text")
    return exp.Case(ifs=branches, default=other[0]), kind


def _as_text(made: exp.Expression, kind: Type) -> exp.Expression:
    if kind in ("text", "null"):
        return made
    if isinstance(made, exp.Literal) and kind != "double":
        return exp.Literal.string(_digits(made.this))
    return my("stored", made, exp.Literal.number(kind)) if isinstance(kind, int) else my("text", made)


def _concat(name: str) -> Callable[[Translator, exp.Expression], Typed]:
    return lambda self, node: (my(name, *(_as_text(*self.visit(part)) for part in node.expressions)), "text")


def _coalesce(self: Translator, node: exp.Coalesce) -> Typed:
    parts = [self.visit(part) for part in (node.this, *node.expressions)]
    kind = _common(*(k for _, k in parts))
    made = [_as_text(*part) if kind == "text" else part[0] for part in parts]
    return (exp.Anonymous(this="COALESCE", expressions=made) if len(made) > 1 else made[0]), kind


def _nullif(self: Translator, node: exp.Nullif) -> Typed:
    made, kind = self.visit(node.this.copy())
    same = exp.EQ(this=node.this, expression=node.expression)
    return exp.Case(ifs=[exp.If(this=self.visit(same)[0], true=exp.Null())], default=made), kind


def _aggregate(self: Translator, node: exp.AggFunc) -> Typed:
    inner = node.this
    distinct = isinstance(inner, exp.Distinct)
    if isinstance(node, exp.Count):
        if distinct and len(inner.expressions) > 1:
            made = my(
                "concat", *(x for part in inner.expressions for x in (self.visit(part)[0], exp.Literal.string("\0")))
            )
            return exp.Count(this=exp.Distinct(expressions=[made])), "int"
        return self.inside(node), "int"
    of = inner.expressions[0] if distinct else inner
    if isinstance(node, exp.Min | exp.Max):
        if node.expressions:
            raise syntax_error(node.sql("mysql"))
        made, kind = self.visit(of)
    else:
        made, kind = self.number(of)
        if isinstance(node, exp.Avg):
            kind = DIVISION_DIGITS + (kind if isinstance(kind, int) else 0) if kind != "double" else kind
        else:
            kind = 0 if kind == "int" else kind
    return type(node)(this=exp.Distinct(expressions=[made]) if distinct else made), kind


def _group_concat(self: Translator, node: exp.GroupConcat) -> Typed:
    inner, key, descending = node.this, exp.Null(), 0
    if isinstance(inner, exp.Order):
        first = inner.expressions[0]
        key, descending, inner = self.visit(first.this)[0], int(bool(first.args.get("desc"))), inner.this
    distinct = isinstance(inner, exp.Distinct)
    values = inner.expressions if distinct else [inner]
    mark = node.args.get("separator") or exp.Literal.string(",")
    settings = [exp.Literal.number(int(distinct)), mark, exp.Literal.number(descending), key]
    return my("group_concat", *settings, *(self.visit(value)[0] for value in values)), "text"


def _cast(self: Translator, node: exp.Cast) -> Typed:
    made, _ = self.visit(node.this)
    to = node.args["to"]
    name = to.this.name if isinstance(to, exp.DataType) else str(to)
    if "INT" in name:
        return my("int", made), "int"
    if name == "DECIMAL":
        digits = int(to.expressions[1].name) if len(to.expressions) > 1 else 0
        return my("round_dec", made, exp.Literal.number(digits)), digits
    if name in ("CHAR", "VARCHAR", "NCHAR", "TEXT"):
        return my("text", made), "text"
    if name in ("FLOAT", "DOUBLE", "REAL"):
        return my("num", made), "double"
    raise SQLError(f"1235 (42000): This version of MySQL doesn't yet support 'CAST AS {name}'")


def _round(self: Translator, node: exp.Round) -> Typed:
    made, kind = self.number(node.this)
    places = node.args.get("decimals")
    if kind == "double":
        return my("round_double", made, *([places] if places else [])), "double"
    digits = int(places.name) if isinstance(places, exp.Literal) and places.name.isdigit() else 0
    if kind != "int":
        kind = min(digits, kind) if isinstance(kind, int) else kind
    return my("round_dec", made, *([self.visit(places)[0]] if places else [])), kind


def _whole(name: str) -> Callable[[Translator, exp.Expression], Typed]:
    def handler(self: Translator, node: exp.Expression) -> Typed:
        made, kind = self.number(node.this)
        return my(name, made), "double" if kind == "double" else kind if name == "abs" else "int"

    return handler


def _truncate(self: Translator, node: exp.Trunc) -> Typed:
    made, kind = self.number(node.this)
    places = node.args.get("decimals") or exp.Literal.number(0)
    digits = int(places.name) if isinstance(places, exp.Literal) and places.name.isdigit() else 0
    return my("truncate", made, self.visit(places)[0]), min(digits, kind) if isinstance(kind, int) else kind


def _extreme(name: str) -> Callable[[Translator, exp.Expression], Typed]:
    def handler(self: Translator, node: exp.Expression) -> Typed:
        parts = [self.visit(part) for part in (node.this, *node.expressions)]
        return my(name, *(made for made, _ in parts)), _common(*(kind for _, kind in parts))

    return handler


def _function(name: str, kind: Type, *keys: str) -> Callable[[Translator, exp.Expression], Typed]:
    def handler(self: Translator, node: exp.Expression) -> Typed:
        arguments = []
        for key in keys:
            value = node.args.get(key)
            parts = value if isinstance(value, list) else [] if value is None else [value]
            arguments += [
                self.visit(part)[0] if isinstance(part, exp.Expression) else exp.Literal.string(str(part))
                for part in parts
            ]
        return my(name, *arguments), kind

    return handler


def _length(self: Translator, node: exp.Length) -> Typed:
    return my("length" if node.args.get("binary") else "char_length", self.visit(node.this)[0]), "int"


def _locate(self: Translator, node: exp.StrPosition) -> Typed:
    parts = [node.args["substr"], node.this, node.args.get("position")]
    return my("locate", *(self.visit(part)[0] for part in parts if part is not None)), "int"


def _pad(self: Translator, node: exp.Pad) -> Typed:
    parts = [node.this, node.expression, node.args.get("fill_pattern") or exp.Literal.string(" ")]
    return my("lpad" if node.args.get("is_left") else "rpad", *(self.visit(part)[0] for part in parts)), "text"


def _date(name: str) -> Callable[[Translator, exp.Expression], Typed]:
    def handler(self: Translator, node: exp.Expression) -> Typed:
        inner = node.this.this if isinstance(node.this, exp.TsOrDsToDate) else node.this
        return my(name, self.visit(inner)[0]), "int"

    return handler


_BY_NAME: dict[str, tuple[str, Type]] = {
    "MID": ("substring", "text"), "SUBSTR": ("substring", "text"), "FIELD": ("field", "int"),
    "FIND_IN_SET": ("find_in_set", "int"), "UCASE": ("upper", "text"), "LCASE": ("lower", "text"),
    "TRUNCATE": ("truncate", "double"), "FORMAT": ("format", "text"),
}  # fmt: skip


def _anonymous(self: Translator, node: exp.Anonymous) -> Typed:
    name = str(node.this)
    if name.upper() not in _BY_NAME:
        raise SQLError(f"1305 (42000): FUNCTION {self.table}.{name} does not exist")
    call, kind = _BY_NAME[name.upper()]
    return my(call, *(self.visit(part)[0] for part in node.expressions)), kind


def _query(self: Translator, node: exp.Select) -> Typed:
    for part in ("locks", "hint", "into", "operation_modifiers"):
        node.set(part, None)
    kinds = []
    shown = []
    for number, expression in enumerate(node.expressions):
        bare = expression.unalias()
        # An output column's name decides what ORDER BY means, so it stays what it was.
        alias = expression.alias or (None if isinstance(bare, exp.Column | exp.Star) else f"_{number}_")
        made, kind = self.visit(bare)
        kinds.append(kind)
        if kind == "text" and not isinstance(bare, exp.Column | exp.Literal):
            made = exp.Collate(this=exp.Paren(this=made), expression=exp.Var(this="mysql"))
        shown.append(exp.alias_(made, alias, quoted=True) if alias else made)
    node.set("expressions", shown)
    for key, value in list(node.args.items()):
        if key == "expressions":
            continue
        if key in ("where", "having"):
            if value is not None:
                value.set("this", self.number(value.this)[0])
        elif isinstance(value, exp.Expression):
            node.set(key, self.visit(value)[0])
        elif isinstance(value, list):
            node.set(key, [self.visit(x)[0] if isinstance(x, exp.Expression) else x for x in value])
    return node, kinds[0] if len(kinds) == 1 else None


def _where(self: Translator, node: exp.Where) -> Typed:
    node.set("this", self.number(node.this)[0])
    return node, None


def _subquery(self: Translator, node: exp.Subquery) -> Typed:
    made, kind = self.visit(node.this)
    node.set("this", made)
    for key in ("order", "limit", "offset", "joins"):
        value = node.args.get(key)
        if isinstance(value, exp.Expression):
            node.set(key, self.visit(value)[0])
        elif isinstance(value, list):
            node.set(key, [self.visit(x)[0] for x in value])
    return node, kind


def _ordered(self: Translator, node: exp.Ordered) -> Typed:
    made, kind = self.visit(node.this)
    if kind == "text" and not isinstance(made, exp.Column):
        made = exp.Collate(this=made, expression=exp.Var(this="mysql"))
    return exp.Ordered(this=made, desc=node.args.get("desc"), nulls_first=not node.args.get("desc")), None


def _group(self: Translator, node: exp.Group) -> Typed:
    parts = [self.visit(part) for part in node.expressions]
    collated = [
        exp.Collate(this=made, expression=exp.Var(this="mysql"))
        if kind == "text" and not isinstance(made, exp.Column)
        else made
        for made, kind in parts
    ]
    return exp.Group(expressions=collated), None


def _stored(self: Translator, node: Stored) -> Typed:
    return _as_text(*self.visit(node.this)), "text"


def _keep(kind: Type) -> Callable[[Translator, exp.Expression], Typed]:
    return lambda self, node: (self.inside(node), kind)


def _same(self: Translator, node: exp.Expression) -> Typed:
    made, kind = self.visit(node.this)
    node.set("this", made)
    return node, kind


def _negative(self: Translator, node: exp.Neg) -> Typed:
    made, kind = self.number(node.this)
    node.set("this", made)
    return node, kind


def _assign(self: Translator, node: Set) -> Typed:
    return exp.EQ(this=node.this, expression=self.visit(node.expression)[0]), None


def _row_in(self: Translator, node: RowIn) -> Typed:
    return exp.In(this=node.this, query=self.visit(node.args["query"])[0]), "int"


HANDLERS: dict[type, Callable[[Translator, exp.Expression], Typed]] = {
    Set: _assign, RowIn: _row_in, Stored: _stored,
    exp.Literal: _literal, exp.Column: _column, exp.Star: _keep(None), exp.Null: _keep("null"),
    exp.Boolean: lambda self, node: (exp.Literal.number(int(bool(node.this))), "int"),
    exp.Alias: _same, exp.Paren: _same, exp.Neg: _negative,
    exp.Select: _query, exp.Subquery: _subquery, exp.Where: _where, exp.Ordered: _ordered, exp.Group: _group,
    exp.Add: _arithmetic, exp.Sub: _arithmetic, exp.Mul: _arithmetic, exp.Div: _arithmetic, exp.IntDiv: _arithmetic,
    exp.Mod: _arithmetic, exp.EQ: _comparison, exp.NEQ: _comparison, exp.GT: _comparison, exp.GTE: _comparison,
    exp.LT: _comparison, exp.LTE: _comparison, exp.NullSafeEQ: _function("same", "int", "this", "expression"),
    exp.And: _truth, exp.Or: _truth, exp.Not: _truth, exp.Xor: _xor, exp.Is: _is, exp.In: _in,
    exp.Between: _function("between", "int", "this", "low", "high"), exp.Like: _like, exp.Escape: _escape,
    exp.RegexpLike: _function("regexp", "int", "this", "expression"), exp.Exists: _keep("int"),
    exp.Case: _case, exp.If: _if, exp.Coalesce: _coalesce, exp.Nullif: _nullif,
    exp.Count: _aggregate, exp.Sum: _aggregate, exp.Avg: _aggregate, exp.Min: _aggregate, exp.Max: _aggregate,
    exp.GroupConcat: _group_concat, exp.Cast: _cast, exp.Round: _round, exp.Trunc: _truncate,
    exp.Floor: _whole("floor"), exp.Ceil: _whole("ceil"), exp.Abs: _whole("abs"),
    exp.Sign: _function("sign", "int", "this"), exp.Pow: _function("pow", "double", "this", "expression"),
    exp.Sqrt: _function("sqrt", "double", "this"), exp.Greatest: _extreme("greatest"), exp.Least: _extreme("least"),
    exp.Concat: _concat("concat"), exp.ConcatWs: _concat("concat_ws"),
    exp.Substring: _function("substring", "text", "this", "start", "length"),
    exp.SubstringIndex: _function("substring_index", "text", "this", "delimiter", "count"),
    exp.Left: _function("left", "text", "this", "expression"),
    exp.Right: _function("right", "text", "this", "expression"),
    exp.Upper: _function("upper", "text", "this"), exp.Lower: _function("lower", "text", "this"),
    exp.Reverse: _function("reverse", "text", "this"), exp.Repeat: _function("repeat", "text", "this", "times"),
    exp.Replace: _function("replace", "text", "this", "expression", "replacement"),
    exp.Trim: lambda self, node: (my("trim", self.visit(node.this)[0], *(
        [self.visit(node.expression)[0] if node.expression else exp.Literal.string(" "),
         exp.Literal.string(str(node.args.get("position") or "BOTH"))])), "text"),
    exp.NumberToStr: _function("format", "text", "this", "format"), exp.MD5: _function("md5", "text", "this"),
    exp.Length: _length, exp.StrPosition: _locate, exp.Pad: _pad, exp.Window: _same,
    exp.Year: _date("year"), exp.Month: _date("month"), exp.Day: _date("day"), exp.DayOfMonth: _date("day"),
    exp.CurrentDate: lambda self, node: (exp.Literal.string(datetime.date.today().isoformat()), "text"),
    exp.CurrentSchema: lambda self, node: (exp.Literal.string(self.table), "text"),
    exp.Anonymous: _anonymous, **{window: _keep("int") for window in (exp.RowNumber, exp.Rank, exp.DenseRank)},
}  # fmt: skip
