"""How a YAML file becomes a typed model: inheritance, ``key=value`` overrides, clear errors.

A file may name another with ``inherit: NAME``; its own keys are laid over that one's. On the
command line ``model.width=16`` sets one value, in YAML's spelling.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from hpc_srct.errors import InputError


class Settings(pydantic.BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    def dump(self) -> dict[str, Any]:
        """Give plain values, fit for YAML and JSON."""
        return self.model_dump(mode="json")


S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """YAML without base-60 numbers: in ``rows=10:38`` nobody means 638."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        number = tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        return "tag:yaml.org,2002:str" if number and ":" in value else tag


def configs_folder() -> Path:
    """Find the shipped ``configs``: inside an installed wheel, or beside a checkout's package."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """Find a settings file: beside the file that names it, as given, or among those shipped.

    Beside comes first: a file is to mean the same wherever it is called from.

    Raises
    ------
    InputError
        There is none; the message names where it was looked for.
    """
    name = Path(name)
    shipped = configs_folder()
    places = [*([beside / name] if beside else []), name, shipped / name]
    if not name.is_absolute() and name.parts[:1] == ("configs",):
        places.append(shipped.joinpath(*name.parts[1:]))
    for place in places:
        if place.is_file():
            return place
    if name.is_dir():
        raise InputError(f"{name}: is a folder; expected a settings file (YAML).")
    looked = ", ".join(str(place.parent) for place in places if place != name)
    raise InputError(f"{name}: no such settings file (looked here and in {looked}).")


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file with everything that it inherits, as one tree."""
    return _read(find_config(path), ())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        chain = " → ".join(p.name for p in (*seen, path))
        raise InputError(f"{path}: inherits from itself ({chain}).")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{path}:{where} not valid YAML: {problem}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys and values, found a {type(tree).__name__}.")
    parent = tree.pop("inherit", None)
    if parent is None:
        return tree
    return _laid_over(_read(find_config(parent, beside=path.parent), (*seen, path)), tree)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _laid_over(merged[key], value)
        else:
            merged[key] = value
    return merged


def override(tree: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Lay ``a.b=value`` assignments over a tree; values are read as YAML."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InputError(f"'{assignment}': expected key=value, for example model.width=16.")
        try:
            value = yaml.load(text, _Loader) if text else None
        except yaml.YAMLError as error:
            raise InputError(f"'{assignment}': the value is not valid YAML.") from error
        branch: dict[str, Any] = {}
        leaf = branch
        *parents, last = key.strip().split(".")
        for parent in parents:
            leaf[parent] = leaf = {}
        leaf[last] = value
        tree = _laid_over(tree, branch)
    return tree


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Spell a tree out as ``a.b`` keys, as they are written on the command line."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def load(
    kind: type[S],
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> S:
    """Read settings of one kind.

    Parameters
    ----------
    kind
        The model to fill.
    path
        A YAML file, or None for the defaults.
    overrides
        ``key=value`` words from the command line.

    Raises
    ------
    InputError
        A file that is missing or not YAML, an unknown key (its nearest neighbour is named),
        a value of the wrong type or range.
    """
    tree = read_tree(path) if path is not None else {}
    return from_tree(kind, override(tree, overrides), str(path) if path is not None else "settings")


def from_tree(kind: type[S], tree: dict[str, Any], source: str) -> S:
    """Validate a tree; `source` names it in messages."""
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise InputError(_in_words(kind, error, source)) from error


# What a value was to be, by pydantic's name of the error; its limits are in the error's context.
_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "path_type": "a path",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "at least {min_length} in it",
    "too_long": "at most {max_length} in it",
}
# Where a value may be of several kinds, pydantic tells each kind's error apart by a last part.
_KINDS = "str|int|float|bool|path|none|constrained|list|tuple|dict|literal|function"
_KIND = re.compile(rf"({_KINDS})\b.*")


def _in_words(kind: type[Settings], error: pydantic.ValidationError, source: str) -> str:
    by_key: dict[str, list[Any]] = {}
    for one in error.errors(include_url=False):
        where = [str(part) for part in one["loc"]]
        if len(where) > 1 and _KIND.fullmatch(where[-1]):
            where.pop()
        by_key.setdefault(".".join(where), []).append(one)
    (key, errors), *more = by_key.items()
    first = errors[0]
    if first["type"] == "extra_forbidden":
        known = _keys_at(kind, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}."
        text = f"{source}: unknown key '{key}'; {hint}"
    elif first["type"] == "missing":
        text = f"{source}: '{key}' is required and is not set."
    else:
        wanted = dict.fromkeys(_wanted(one) for one in errors)
        # Words of our own say all; they go before what any kind of value would have had to be.
        own = [one["msg"] for one in errors if one["type"] == "value_error"]
        said = own[0].removeprefix("Value error, ") if own else f"expected {' or '.join(wanted)}"
        place = f"{source}: '{key}'" if key else source
        text = f"{place}: {said}; found {first['input']!r}."
    return text + (f"\n({len(more)} more problem(s) after this one.)" if more else "")


def _wanted(error: Any) -> str:
    expected = _EXPECTED.get(error["type"])
    return expected.format(**error.get("ctx", {})) if expected else error["msg"]


def _keys_at(kind: type[Settings], where: Sequence[str | int]) -> list[str]:
    for part in where:
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field else None
        candidates = [inner, *getattr(inner, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, Settings)]
        if not models:
            return []
        kind = models[0]
    return list(kind.model_fields)
