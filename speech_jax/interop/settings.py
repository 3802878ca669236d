"""The settings in somebody else's config file: each one is taken, known to change nothing, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError


class Settings:
    """What is left of a config, or of a section of it, while an importer goes through it.

    prefix: what stands before a setting's name in messages, "encoder." for a section.
    """

    def __init__(self, found: Mapping[str, Any], prefix: str, path: Path):
        self._left, self._prefix, self._path = dict(found), prefix, path

    def take(self, name: str, default: Any) -> Any:
        """The value, or the default where there is none. Raises UserError for a text in place of a number, or back."""
        value = self._left.pop(name, None)
        value = default if value is None else value
        if default is not None and isinstance(value, str) != isinstance(default, str):
            raise UserError(f"{self._path}: found {self._prefix}{name} = {value!r}, expected one like {default!r}")
        return value

    def drop(self, *names: str) -> None:
        """Settings that change nothing of what the network computes."""
        for name in names:
            self._left.pop(name, None)

    def expect(self, **values: Any) -> None:
        """Settings that we have only in one value (or the values of a tuple), which is also their default."""
        for name, wanted in values.items():
            allowed = wanted if isinstance(wanted, tuple) else (wanted,)
            found = self._left.pop(name, None)
            if found is not None and found not in allowed:
                raise UserError(f"{self._path}: found {self._prefix}{name} = {found!r}, expected {allowed[0]!r}")

    def finish(self) -> None:
        """Raises UserError for a setting that nobody has asked for, unless it is switched off."""
        for name, value in self._left.items():
            if name != "_target_" and value not in (None, False, 0):
                raise UserError(f"{self._path}: found {self._prefix}{name} = {value!r}, a setting that is not known")
