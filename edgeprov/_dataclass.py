# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Value classes: the part of ``dataclasses`` that the device uses, at a tenth of its cost at import.

Only for what runs on the device. ``dataclasses`` compiles six functions for each class, even where no object
is ever made of it: a boot check would take 113 % more instructions, those of loading the TPM library not
counted (`./tests/run bench tricks`). Here only ``__init__`` is compiled, and only for a class that has many
objects; comparing, hashing and showing work on the fields directly. The classes are still data classes for
everybody else (``dataclasses.asdict``, ``replace``, type checkers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, Literal, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")

_MISSING: Final = object()
_COMPILE_AFTER: Final = 20
_set: Final = object.__setattr__


class _Field:
    __slots__ = ("default", "factory", "shown")

    def __init__(self, default: Any = _MISSING, factory: Any = _MISSING, *, shown: bool = True) -> None:
        self.default, self.factory, self.shown = default, factory, shown


def field(*, default: Any = _MISSING, default_factory: Any = _MISSING, repr: bool = True) -> Any:  # noqa: A002
    """As dataclasses.field: a default, or a function that makes one, and whether ``repr`` shows the field."""
    return _Field(default, default_factory, shown=repr)


@dataclass_transform(field_specifiers=(field,))
def dataclass(
    *, frozen: bool = False, slots: Literal[True] = True, kw_only: bool = False, order: bool = False
) -> Callable[[type[T]], type[T]]:
    """As dataclasses.dataclass, always with slots."""
    del slots  # written out where it is used, as readers of data classes expect

    def decorate(cls: type[T]) -> type[T]:
        made: type[T] = _build(cls, frozen=frozen, kw_only=kw_only, order=order)
        return made

    return decorate


def replace(value: T, /, **changes: Any) -> T:
    """A copy with some fields changed."""
    kind: Any = type(value)
    made: T = kind(**{name: changes.pop(name, getattr(value, name)) for name in field_names(kind)}, **changes)
    return made


def field_names(kind: type) -> tuple[str, ...]:
    """Names of a value class's fields, in their order."""
    return tuple(kind.__value_fields__)  # type: ignore[attr-defined]


def _build(cls: Any, *, frozen: bool, kw_only: bool, order: bool) -> Any:
    fields: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields |= base.__dict__.get("__value_fields__", {})
    body = {name: item for name, item in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    own = [name for name, kind in cls.__annotations__.items() if "ClassVar" not in str(kind)]
    for name in own:
        value = body.pop(name, _MISSING)
        fields[name] = value if isinstance(value, _Field) else _Field(value)
    names = tuple(fields)
    values = attrgetter(*names) if len(names) > 1 else _single(names[0])
    body["__slots__"] = tuple(own)
    body["__value_fields__"] = fields
    body["__match_args__"] = () if kw_only else names
    body["__dataclass_fields__"] = _DataclassFields(fields, kw_only=kw_only)
    body.setdefault("__repr__", _repr(fields))
    body["__eq__"] = _compare(values, tuple.__eq__)
    body["__hash__"] = (lambda self: hash(values(self))) if frozen else None
    if order:
        comparisons = {"__lt__": tuple.__lt__, "__le__": tuple.__le__, "__gt__": tuple.__gt__, "__ge__": tuple.__ge__}
        body |= {name: _compare(values, operation) for name, operation in comparisons.items()}
    if frozen:
        body["__setattr__"], body["__delattr__"] = _refuse, _refuse
    body["__getstate__"] = lambda self: list(values(self))
    body["__setstate__"] = _restore
    made: Any = type(cls)(cls.__name__, cls.__bases__, body)
    made.__init__ = _first_init(made, fields, kw_only=kw_only)
    return made


def _single(name: str) -> Callable[[Any], tuple[Any, ...]]:
    return lambda self: (getattr(self, name),)


def _first_init(cls: Any, fields: Mapping[str, _Field], *, kw_only: bool) -> Callable[..., None]:
    # Compiling costs as much as twenty objects made this way, and few classes have so many: compiled at once,
    # a boot check takes 11 % more (`./tests/run bench tricks`).
    made = 0

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        nonlocal made
        made += 1
        given = dict(zip(fields, args, strict=False)) | kwargs
        plain = len(given) == len(args) + len(kwargs) and fields.keys() >= given.keys() >= required
        if made > _COMPILE_AFTER or not plain or (args and kw_only):  # compiled, it says what is wrong
            cls.__init__ = _compile_init(cls, fields, kw_only=kw_only)
            cls.__init__(self, *args, **kwargs)
            return
        for name, item in fields.items():
            value = given[name] if name in given else item.default if item.factory is _MISSING else item.factory()
            _set(self, name, value)
        if hasattr(cls, "__post_init__"):
            self.__post_init__()

    required = {name for name, item in fields.items() if item.default is _MISSING and item.factory is _MISSING}
    return __init__


def _compile_init(cls: Any, fields: Mapping[str, _Field], *, kw_only: bool) -> Callable[..., None]:
    scope: dict[str, Any] = {"_missing": _MISSING}
    parameters, lines = [], []
    for name, item in fields.items():
        value = name
        if item.factory is not _MISSING:
            scope[f"_make_{name}"] = item.factory
            value = f"_make_{name}() if {name} is _missing else {name}"
            parameters.append(f"{name}=_missing")
        elif item.default is not _MISSING:
            scope[f"_default_{name}"] = item.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        scope[f"_set_{name}"] = getattr(cls, name).__set__  # of the slot: past __setattr__, which may refuse
        lines.append(f"  _set_{name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("  self.__post_init__()")
    listed = ", ".join(["self", *(["*"] if kw_only and parameters else []), *parameters])
    exec(f"def __init__({listed}):\n" + "\n".join(lines or ["  pass"]), scope)  # noqa: S102 - names of our own classes
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _compare(values: Callable[[Any], Any], operation: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: object) -> Any:
        return operation(values(self), values(other)) if other.__class__ is self.__class__ else NotImplemented

    return compare


def _repr(fields: Mapping[str, _Field]) -> Callable[[Any], str]:
    shown = [name for name, item in fields.items() if item.shown]

    def represent(self: Any) -> str:
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    return represent


def _refuse(_self: Any, name: str, *_: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot change field {name!r}")


def _restore(self: Any, state: list[Any]) -> None:
    for name, value in zip(field_names(type(self)), state, strict=True):
        _set(self, name, value)


class _DataclassFields:
    """``__dataclass_fields__`` for those who ask by the standard library."""

    def __init__(self, fields: Mapping[str, _Field], *, kw_only: bool) -> None:
        self._fields = fields
        self._kw_only = kw_only

    def __get__(self, _value: object, owner: type) -> dict[str, Any]:
        import dataclasses

        made = []
        hints = {
            name: kind
            for base in reversed(owner.__mro__)
            for name, kind in vars(base).get("__annotations__", {}).items()
        }
        for name, item in self._fields.items():
            options: dict[str, Any] = {"repr": item.shown, "kw_only": self._kw_only}
            if item.factory is not _MISSING:
                options["default_factory"] = item.factory
            elif item.default is not _MISSING:
                options["default"] = item.default
            made.append((name, hints[name], dataclasses.field(**options)))
        return dataclasses.make_dataclass(owner.__name__, made).__dataclass_fields__  # type: ignore[attr-defined, no-any-return]
