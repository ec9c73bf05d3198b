"""What breaks between a released schema and today's: the evolution rule of docs/contract.md as a function."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
IGNORED = frozenset({"description", "title", "default"})


def breaks(old: Json, new: Json) -> list[str]:
    """Sentences about every change between two maps of schemas that a reader or writer of `old` would feel."""
    found = []
    for name, before in old.items():
        if name not in new:
            found.append(f"{name} is gone")
            continue
        found += _object_breaks(name, before, new[name])
    return found


def _object_breaks(name: str, old: Json, new: Json) -> list[str]:
    found = []
    properties: Json = new.get("properties", {})
    for field, before in old.get("properties", {}).items():
        if field not in properties:
            found.append(f"{name}.{field} is gone")
        elif not _accepts(properties[field], before):
            found.append(f"{name}.{field} no longer takes every value that it took")
    was_required = set(old.get("required", ()))
    found += [f"{name}.{field} is required now" for field in sorted(set(new.get("required", ())) - was_required)]
    # A field that every reader relies on must stay in every record, or old readers refuse the new ones.
    return found + [
        f"{name}.{field} may be missing now" for field in sorted(was_required - set(new.get("required", ())))
    ]


def _accepts(new: Any, old: Any) -> bool:
    """Whether every value that fits `old` fits `new`, for the schemas that msgspec writes."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return bool(new == old)
    for key in (set(old) | set(new)) - IGNORED:
        before, after = old.get(key), new.get(key)
        if key == "enum":
            fits = before is not None and set(before) <= set(after or before)
        elif key == "minimum":
            fits = after is None or (before is not None and after <= before)
        elif key == "maximum":
            fits = after is None or (before is not None and after >= before)
        elif key == "anyOf" and isinstance(before, list) and isinstance(after, list):
            fits = all(any(_accepts(wide, narrow) for wide in after) for narrow in before)
        else:
            fits = _accepts(after, before)
        if not fits:
            return False
    return True
