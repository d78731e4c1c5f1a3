"""A small generated log in the format of the public Criteo conversion log."""

from pathlib import Path

import numpy as np

DAY = 86_400


def write_log(
    path: Path, rows: int = 3_000, days: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """Writes clicks in the order of time, and returns click and conversion times in seconds.

    The first category and the first integer tell how likely a click converts (2 % to 60 %), and
    delays are exponential with a mean of 12 hours. Every field is sometimes empty.
    """
    random = np.random.default_rng(seed)
    click = np.sort(random.integers(0, days * DAY, rows))
    kind, size = random.integers(0, 4, rows), random.integers(0, 5, rows)
    p = 0.02 + 0.1 * kind + 0.07 * size
    converts = random.random(rows) < p
    delay = random.exponential(DAY / 2, rows).astype(np.int64)
    conversion = np.where(converts, click + delay, -1)
    lines = []
    for n in range(rows):
        integers = [str(v) for v in (10 ** size[n], *random.integers(-1, 100, 7))]
        words = [f"{v:08x}" for v in (kind[n], *random.integers(0, 50, 8))]
        fields = [*integers, *words]
        for empty in random.integers(1, len(fields), 2):
            fields[empty] = "" if empty != 8 else fields[empty]
        bought = str(conversion[n]) if converts[n] else ""
        lines.append("\t".join([str(click[n]), bought, *fields]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"click": click, "conversion": conversion}
