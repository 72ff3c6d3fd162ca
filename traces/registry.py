"""What users name by text: one of a table of ours, or `some.module:Class` of anybody's.

Knows nothing of what the named classes do. A table is the only place that lists them: errors, `--help` and
`seqsched list` read it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import InputError, raised_outside
from .spec import coerce, nearest, parse, sentences

T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """What a text names: a callable, and the options that the text gives it.

    `label` is what errors call it (`policy vanilla`, `predictor mine:Always`); `is_outside` tells
    `some.module:Class` from an entry of the table.
    """

    make: Callable[..., Any]
    options: Mapping[str, Any]
    label: str
    is_outside: bool = False

    def build(self, *context: Any) -> Any:
        """`make(*context, **options)`; InputError where it refuses them, or is from outside and fails."""
        return _call(self.make, context, self.options, self.label, self.is_outside)

    def call(self, built: object, method: str, *arguments: Any, returns: type[T]) -> T:
        """What a method of the built object returns; InputError where one from outside fails in it, or
        returns another type.
        """
        try:
            returned = getattr(built, method)(*arguments)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            if self.is_outside:
                raise raised_outside(f"{self.label}: {method}", error) from error
            raise
        if not isinstance(returned, returns):
            raise InputError(
                f"{self.label}: {method} returned {type(returned).__name__}, not a {returns.__name__}"
            )
        return returned


class Registry:
    """Things of one kind by name, and from outside by `some.module:Class`.

    An entry of `table` is a class or a function, called as `entry(*context, **options)`. Its options are read
    from text by its `Options` dataclass, where it has one; with `fields_are_options` by its own fields, where
    it is a dataclass itself (else it has none); else they stay texts. The first sentence of its docstring
    describes it.
    """

    def __init__(
        self, kind: str, table: Mapping[str, Callable[..., Any]], *, fields_are_options: bool = False
    ) -> None:
        self.kind, self.table, self.fields_are_options = kind, table, fields_are_options

    @property
    def names(self) -> tuple[str, ...]:
        """The names of our own, in the order of the table."""
        return tuple(self.table)

    def is_outside(self, spec: str) -> bool:
        """Whether a text has the form `some.module:Class[:...]`, of no name of the table."""
        module, _, rest = spec.strip().partition(":")
        is_module = bool(module) and module not in self.table and not set(module) & set("/\\")
        return is_module and rest.partition(":")[0].isidentifier()

    def resolve(self, spec: str) -> Named:
        """What `NAME[:key=value,...]` or `some.module:Class[:key=value,...]` names, its options checked.

        Raises InputError for an unknown name, a class that cannot be imported, and options that it does not
        take.
        """
        is_outside = self.is_outside(spec)
        if is_outside:
            module, _, rest = spec.strip().partition(":")
            name, texts = parse(rest, self.kind)
            make, label = self._class(spec, self._import(spec), name), f"{self.kind} {module}:{name}"
        else:
            name, texts = parse(spec, self.kind)
            if name not in self.table:
                known = f"{', '.join(self.table)}, nor some.module:Class"
                hint = nearest(name, self.table) or self._as_option(name)
                raise InputError(f"{self.kind} {name!r} is not one of {known}{hint}")
            make, label = self.table[name], f"{self.kind} {name}"
        return Named(make, self._options(make, texts, label, is_outside), label, is_outside)

    def _as_option(self, name: str) -> str:
        """The end of an error about a name that is no entry, but the value of an option of one."""
        for entry, make in self.table.items():
            options = self._options_class(make)
            for field, hint in get_type_hints(options).items() if options is not None else ():
                if get_origin(hint) is Literal and name in get_args(hint):
                    return f"; did you mean {entry}:{field}={name}?"
        return ""

    def module_file(self, spec: str) -> Path | None:
        """The file of the module that a text names; None for a name of the table, and where there is no file.

        Raises InputError for a module that cannot be imported.
        """
        file = getattr(self._import(spec), "__file__", None) if self.is_outside(spec) else None
        return None if file is None else Path(file)

    def describe(self, name: str) -> str:
        """One sentence about an entry of the table: the first of its docstring."""
        entry = self.table[name]
        documented = entry if inspect.isclass(entry) or inspect.isfunction(entry) else _maker(entry)
        paragraph = " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
        return paragraph.partition(". ")[0].removesuffix(".")

    def options_of(self, name: str) -> dict[str, tuple[Any, str]]:
        """Option -> default (`dataclasses.MISSING`: must be given) and sentence, of an entry of the table."""
        options = self._options_class(self.table[name])
        if options is None:
            return {}
        about = sentences(options)
        return {f.name: (f.default, about.get(f.name, "")) for f in fields(options) if f.init}

    def help(self, listing: str) -> str:
        """What a flag takes, for its `--help`; `listing` is what `seqsched list` calls this kind."""
        return (
            f"NAME[:key=value,...]: {', '.join(self.table)}, or some.module:Class[:key=value,...] "
            f"(`seqsched list {listing}` describes them)."
        )

    def _options_class(self, make: Callable[..., Any]) -> type[Any] | None:
        options = getattr(make, "Options", None)
        if isinstance(options, type) and is_dataclass(options):
            return options
        return make if self.fields_are_options and isinstance(make, type) and is_dataclass(make) else None

    def _options(
        self, make: Callable[..., Any], texts: Mapping[str, str], label: str, is_outside: bool
    ) -> dict[str, Any]:
        options = self._options_class(make)
        if options is None:
            if texts and self.fields_are_options:
                raise InputError(
                    f"{label}: options are fields of a dataclass; this is none ({', '.join(texts)})"
                )
            if texts and not is_outside:
                raise InputError(f"{label}: unknown option {next(iter(texts))!r}; it has no options")
            return dict(texts)
        values = coerce(options, texts, label)
        if options is not make:  # else it is checked when it is built
            _call(options, (), values, label, is_outside)
        return values

    def _import(self, spec: str) -> ModuleType:
        module = spec.strip().partition(":")[0]
        try:
            with redirect_stdout(sys.stderr):  # a module may greet; what we print may be JSON
                return importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"{self.kind} {spec!r}: {error}") from error
        except (Exception, SystemExit) as error:
            raise raised_outside(f"{self.kind} {spec!r}: importing {module}", error) from error

    def _class(self, spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
        try:
            member = getattr(module, name)
        except AttributeError as error:
            known = [key for key, value in vars(module).items() if inspect.isclass(value)]
            raise InputError(f"{self.kind} {spec!r}: {error}{nearest(name, known)}") from None
        if not callable(member):
            raise InputError(f"{self.kind} {spec!r}: {name} is not a class")
        factory: Callable[..., Any] = member
        return factory


def _call(
    make: Callable[..., Any],
    context: tuple[Any, ...],
    options: Mapping[str, Any],
    label: str,
    is_outside: bool,
) -> Any:
    try:
        return make(*context, **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{label}: {error}") from error
    except (Exception, SystemExit) as error:
        if is_outside:
            raise raised_outside(label, error) from error
        raise


def _maker(entry: Any) -> Any:
    """What documents an entry that is an object: the function that it calls."""
    return getattr(entry, "make", entry)
