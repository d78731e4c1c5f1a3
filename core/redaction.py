"""Taking credentials out of what is recorded: of URLs, wherever they stand in a text."""

import re
from typing import Any

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s\"']*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?\"']*)\?[^\s\"']+")
_MASK = "***"


def has_credentials(url: str) -> bool:
    """Returns whether a URL carries a user, a password or a key.

    Example:
        >>> has_credentials("https://ann:secret@mlflow:5000"), has_credentials("https://mlflow:5000")
        (True, False)
    """
    return redact(url) != url


def redact(value: Any) -> Any:
    """Returns a value of JSON with user, password and query of every URL in it masked.

    Example:
        >>> redact({"base": "s3://key:secret@bucket/m", "sas": ["https://a/b?sig=x"], "n": 1})
        {'base': 's3://***@bucket/m', 'sas': ['https://a/b?***'], 'n': 1}
    """
    if isinstance(value, str):
        return _QUERY.sub(rf"\1?{_MASK}", _USER.sub(rf"\1{_MASK}@", value))
    if isinstance(value, dict):
        return {key: redact(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry) for entry in value]
    return value
