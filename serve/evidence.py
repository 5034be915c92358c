"""Public evidence in the headers of a released photo, as structured fields (RFC 9651)."""

from __future__ import annotations

from typing import Any

LONGEST = 4096
"""Bytes of one header; proxies drop longer ones."""


def headers(faces: list[dict[str, Any]], release: str) -> dict[str, str]:
    """`faces`: the public evidence of each, left to right. Nothing else may come in here."""
    first = faces[0]
    released = ", ".join(f"({' '.join(name for name, value in face['released'].items() if value)})" for face in faces)
    found = {
        "Anonymousnet-Faces": str(len(faces)),
        "Anonymousnet-Epsilon": _number(first["epsilon"]),
        "Anonymousnet-Photo-Epsilon": _number(first["photo_epsilon"]),
        "Anonymousnet-Account": _string(first["account"]),
        "Anonymousnet-T": _number(first["t"]),
        "Anonymousnet-Strength": _number(first["strength"]),
        "Anonymousnet-Region": first["region"],
        "Anonymousnet-Perturbation": _number(first["perturbation"]),
        "Anonymousnet-Released": _token_case(released),
        "Anonymousnet-Unprotected": _token_case(", ".join(first["unprotected"])),
        "Anonymousnet-Covers": _string(first["covers"]),
        "Anonymousnet-Precision": first["precision"],
        "Anonymousnet-Weights": ", ".join(f'{name}="{sha}"' for name, sha in sorted(first["weights"].items())),
        "Anonymousnet-Release": _string(release),
    }
    return {name: value for name, value in found.items() if value and len(value) <= LONGEST}


def _number(value: float) -> str:
    """A decimal: at most three digits after the point."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if value < 1e12 else '"infinite"'


def _token_case(names: str) -> str:
    """A token begins with a letter or an asterisk: 5_o_Clock_Shadow does not."""
    return names.replace("5_o_Clock_Shadow", "*5_o_Clock_Shadow")


def _string(text: str) -> str:
    """Quoted, ASCII, without what would end it."""
    clean = text.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(c for c in clean if c.isprintable())}"'
