"""Settings in the config file of another toolkit: each one is read, known to have no effect, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError


class Settings:
    """Settings of a config, or of a section of it, that an importer has not read yet.

    Args:
        values: the settings.
        prefix: prefix of the settings' names in messages, for example "encoder.".
        path: path of the config file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str, path: Path):
        self._unread, self._prefix, self._path = dict(values), prefix, path

    def take(self, name: str, default: Any) -> Any:
        """Return the value of a setting, or the default if it is missing or null.

        Args:
            name: name of the setting.
            default: value if there is none.

        Raises:
            UserError: the value is a string and the default is not, or vice versa.
        """
        value = self._unread.pop(name, None)
        value = default if value is None else value
        if default is not None and isinstance(value, str) != isinstance(default, str):
            raise UserError(f"{self._path}: found {self._prefix}{name} = {value!r}, expected a value like {default!r}")
        return value

    def drop(self, *names: str) -> None:
        """Ignore settings that have no effect on the outputs of the network."""
        for name in names:
            self._unread.pop(name, None)

    def expect(self, **values: Any) -> None:
        """Check settings that are supported only in one value (or the values of a tuple), which is also their default.

        Args:
            **values: name of the setting and the supported value or values.

        Raises:
            UserError: a setting has another value.
        """
        for name, supported in values.items():
            allowed = supported if isinstance(supported, tuple) else (supported,)
            value = self._unread.pop(name, None)
            if value is not None and value not in allowed:
                raise UserError(f"{self._path}: found {self._prefix}{name} = {value!r}, expected {allowed[0]!r}")

    def finish(self) -> None:
        """Raise UserError for a setting that was not read, unless its value is null, false or 0."""
        for name, value in self._unread.items():
            if name != "_target_" and value not in (None, False, 0):
                raise UserError(f"{self._path}: found {self._prefix}{name} = {value!r}, which is not supported")
