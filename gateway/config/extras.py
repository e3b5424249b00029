"""Optional dependencies: which module proves that an extra is installed."""

from __future__ import annotations

import importlib.util

_MODULES = {"redis": "redis", "jwt": "joserfc", "basic": "pwdlib", "regex": "re2", "http2": "h2"}


def missing_extra(extra: str) -> str:
    """How to install ``extra``, or an empty string if it is there."""
    if importlib.util.find_spec(_MODULES[extra]) is not None:
        return ""
    return f'needs the extra "{extra}": pip install "gateway[{extra}]"'
