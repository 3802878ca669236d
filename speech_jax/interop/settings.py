"""Settings in the config file of another toolkit: each one is read, known to have no effect, or refused.

A setting that is missing has that toolkit's default. A setting that is null is not missing: it means what that toolkit
makes of it, which the caller states; where that is an error there too, it is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError

MAX_LAYERS, MAX_FEATURES = 1024, 4096  # no network has more; a damaged config costs no memory
REQUIRED: Any = object()  # as a default: the setting must be there
REFUSED: Any = object()  # as the meaning of null: there is none


class Settings:
    """Settings of a config, or of a section of it, that an importer has not read yet.

    Args:
        values: the settings.
        prefix: prefix of the settings' names in messages, for example "encoder.".
        path: path of the config file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str, path: Path):
        self._unread, self._prefix, self._path = dict(values), prefix, path

    def integer(self, name: str, default: Any = REQUIRED, least: int = 1, most: int = 1 << 20, null: Any = REFUSED):
        """Return a whole number from `least` to `most`.

        Args:
            name: name of the setting.
            default: value if it is missing.
            least: smallest value.
            most: largest value.
            null: value that null means.

        Raises:
            UserError: the setting is missing without a default, or has another value.
        """
        value = self._value(name, default, null, f"a whole number from {least} to {most}")
        if value is default or value is null:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(name, value, f"a whole number from {least} to {most}")
        return value

    def number(
        self, name: str, default: float, least: float = 0.0, most: float = 1e9, null: Any = REFUSED,
        names: Mapping[str, float] | None = None,
    ) -> float:  # fmt: skip
        """Return a number from `least` to `most`; `names` are words for numbers, the rest is as in `integer`."""
        value = self._value(name, default, null, f"a number from {least:g} to {most:g}")
        value = (names or {}).get(value, value) if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.refuse(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list of 1 to 64 whole numbers from 1 to 65536. Raises UserError if the setting is something else."""
        value = self._unread.pop(name, default)
        whole = isinstance(value, list | tuple) and all(type(n) is int and 1 <= n <= 1 << 16 for n in value)
        if not whole or not 1 <= len(value) <= 64:
            self.refuse(name, value, "a list of whole numbers from 1 to 65536")
        return tuple(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return a switch; null is off, as in Python. Raises UserError for anything but true, false, 1, 0 and null."""
        value = self._unread.pop(name, default)
        if not isinstance(value, bool | int | None) or value not in (True, False, None):
            self.refuse(name, value, "true or false")
        return bool(value)

    def choice(self, name: str, *supported: Any) -> Any:
        """Return the one of the supported values, of which the first is the default, that a setting has.

        null is among them only if None is.

        Args:
            name: name of the setting.
            *supported: values, the default first.

        Raises:
            UserError: the setting has another value.
        """
        value = self._unread.pop(name, supported[0])
        for one in supported:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return one
        return self.refuse(name, value, " or ".join(_show(one) for one in supported))

    def take(self, name: str, default: Any = None) -> Any:
        """Return a value of any type, unchecked; null is returned as None."""
        return self._unread.pop(name, default)

    def expect(self, **values: Any) -> None:
        """Check settings that are supported only in one value (or the values of a tuple), the first as their default.

        Args:
            **values: name of the setting and the supported value or values.

        Raises:
            UserError: a setting has another value.
        """
        for name, supported in values.items():
            self.choice(name, *(supported if isinstance(supported, tuple) else (supported,)))

    def drop(self, *names: str) -> None:
        """Ignore settings that have no effect on the outputs of the network."""
        for name in names:
            self._unread.pop(name, None)

    def drop_for_training(self, *names: str) -> list[str]:
        """Ignore settings that act in training only and have no counterpart; return "name = value" of those in use."""
        values = {name: self._unread.pop(name, None) for name in names}
        return [f"{self._prefix}{name} = {_show(value)}" for name, value in values.items() if value]

    def refuse(self, name: str, value: Any, expected: str) -> Any:
        """Raise UserError for a setting's value."""
        raise UserError(f"{self._path}: found {self._prefix}{name} = {_show(value)}, expected {expected}")

    def located(self, error: UserError, section: str) -> UserError:
        """Return an error of the network's or the features' own config with the file's path, if it has none."""
        return error if str(error).startswith(str(self._path)) else UserError(f"{self._path}: {section}{error}")

    def finish(self) -> None:
        """Raise UserError for a setting that was not read, unless its value is null, false or 0."""
        for name, value in self._unread.items():
            if name != "_target_" and value not in (None, False, 0):
                raise UserError(f"{self._path}: found {self._prefix}{name} = {_show(value)}, which is not supported")

    def _value(self, name: str, default: Any, null: Any, expected: str) -> Any:
        value = self._unread.pop(name, default)
        if value is REQUIRED:
            raise UserError(f"{self._path}: found no {self._prefix}{name}, expected {expected}")
        if value is None and default is not None:
            return self.refuse(name, value, expected) if null is REFUSED else null
        return value


def _show(value: Any) -> str:
    """Return a value for a message: at most 80 characters, None as config files write it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
