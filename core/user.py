"""Who runs this process, for locks and audit logs."""

import getpass
import os


def user_name() -> str:
    """Returns the user's name, or the number of a user without one, as containers have them.

    Example:
        >>> user_name() != ""
        True
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"uid {os.getuid()}"
