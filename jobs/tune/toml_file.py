"""A configuration as TOML: what `--config` reads."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from cmdcm.core.config import Config

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def config_toml(config: Config, settings: Collection[str] = ()) -> str:
    """Returns a configuration as TOML: what differs from the defaults, and chosen settings.

    Args:
        config: The configuration.
        settings: Settings (SECTION.KEY) to write even where they are the default, so that they
            hold beside a preset, too.

    Example:
        >>> print(config_toml(Config(seed=3), ["model.gate"]), end="")
        seed = 3
        <BLANKLINE>
        [model]
        gate = true
    """
    whole = config.model_dump(mode="json")
    shown = config.model_dump(mode="json", exclude_defaults=True)
    for name in settings:
        section, key = name.split(".")
        shown.setdefault(section, {})[key] = whole[section][key]
    top = {key: value for key, value in shown.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in shown.items() if isinstance(value, Mapping)}
    blocks = [_lines(top)] if top else []
    blocks += [[f"[{_key(name)}]", *_lines(table)] for name, table in tables.items()]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_lines(value))} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _string(value)
    return json.dumps(value)  # true, false and numbers are the same in both


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # TOML's escapes are JSON's; DEL must be escaped in TOML alone.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
