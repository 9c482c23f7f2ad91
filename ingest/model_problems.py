"""From pydantic's errors to problems that a person can act on: key, line, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from ingest.source_lines import Place, Problem, Source

_TYPES = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "whole_number",
    "int_parsing": "whole_number",
    "int_from_float": "whole_number",
    "float_type": "number",
    "float_parsing": "number",
    "finite_number": "number",
    "bool_type": "true_false",
    "bool_parsing": "true_false",
    "list_type": "list",
    "tuple_type": "list",
    "dict_type": "mapping",
    "model_type": "mapping",
    "model_attributes_type": "mapping",
}
_BOUNDS = {"greater_than_equal": "≥ {ge}", "less_than_equal": "≤ {le}", "greater_than": "> {gt}", "less_than": "< {lt}"}


def problems_of(
    error: ValidationError,
    source: Source,
    base: Place,
    model: type[BaseModel],
    subject: tuple[str, str] | None,
    codes: dict[str, str] | None = None,
) -> list[Problem]:
    """Every complaint of `error`, as problems in the file's order.

    `base` is where the validated data stand in the source; `codes` renames generic codes for a key path without
    its numbers ("properties.roles.leader" -> "grid.missing_role"). A custom error's code and facts are taken as they
    are; its fact `place` says where in the model it belongs.
    """
    found = []
    for one in error.errors(include_url=False, include_input=True):
        context = dict(one.get("ctx") or {})
        place = (*one["loc"], *context.pop("place", ()))
        code, facts = _told(one["type"], context, place, one.get("input"), model)
        facts["key"] = facts.get("key", key_path(place))
        bare = ".".join(part for part in place if isinstance(part, str))
        code = (codes or {}).get(f"{code} {bare}", code)
        found.append(Problem(source.file, source.line((*base, *place)), code, facts, subject))
    return sorted(found, key=lambda problem: problem.line)


def key_path(place: Iterable[str | int]) -> str:
    """`zones[0].polygon[2]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _told(
    kind: str, context: dict[str, Any], place: Place, given: Any, model: type[BaseModel]
) -> tuple[str, dict[str, Any]]:
    if kind == "camera.bad_url":
        return f"{kind}.{context.pop('fault')}", context
    if "." in kind:  # our own
        return kind, context
    if kind == "extra_forbidden":
        known = _keys_at(model, place[:-1])
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        if close:
            return "file.unknown_key_close", {"close": close[0]}
        return "file.unknown_key", {"known": ", ".join(known)}
    if kind == "missing":
        return "file.missing_key", {}
    if kind in _TYPES:
        return f"file.needs_{_TYPES[kind]}", {"given": shown(given)}
    if kind in _BOUNDS:
        return "file.out_of_range", {"given": shown(given), "expected": _BOUNDS[kind].format(**context)}
    if kind == "literal_error":
        return "file.not_one_of", {"given": shown(given), "expected": context["expected"].replace(" or ", ", ")}
    if kind == "string_pattern_mismatch":
        return "file.bad_pattern", {"given": shown(given), "expected": context["pattern"]}
    if kind in ("too_short", "too_long"):
        least = context.get("min_length", 0)
        return f"file.{kind}", {"least": least, "most": context.get("max_length"), "count": context["actual_length"]}
    return "file.bad_value", {"given": shown(given), "why": kind}


def _keys_at(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that `model` knows at a place; goes down through lists, optional and nested models."""
    at: Any = model
    for part in place:
        if isinstance(part, int):
            continue
        at = next(iter(_models_in(at.model_fields[part].annotation)), None) if part in at.model_fields else None
        if at is None:
            return []
    return [field.alias or name for name, field in at.model_fields.items()]


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def shown(value: Any) -> str:
    """A user's value in a sentence: short, on one line, without a password that stands in the wrong place."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"://\S*@", "://***@", " ".join(text.split()))
    return text if len(text) <= 60 else text[:57] + "…"
