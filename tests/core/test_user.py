"""Who runs a process: a name, or a number where the system knows none."""

import os
import pwd

from cmdcm.core.user import user_name


def test_a_user_without_an_entry_is_a_number(monkeypatch):
    # An image with `USER 65532` has no such entry.
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_name() == f"uid {os.getuid()}"
    monkeypatch.setenv("USER", "ann")
    assert user_name() == "ann"
