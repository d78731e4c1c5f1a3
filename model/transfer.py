"""Weights of one model -> another, whose vocabularies, features, heads or layers may differ.

What means the same is copied, whatever its place: rows of a table by the value that looks them up,
columns of the inputs by name (`model/input_columns.py`), everything else by its place in the
network, such as `towers/direct/logit/kernel`, if the shapes are equal.

What is new stays as it was initialised, with two exceptions that keep predictions as they were:

- The rows of a kernel that read a new input are zero: it adds nothing until training has moved
  them. Their gradient is not zero, since that of a row is its input times what comes from above.
- A new value of a vocabulary, or a newly known id, starts as the unknown one, which it was.

A removed input's rows are left out. For a number that is as if it always had its mean, since
numbers are standardised.

The shares of `model/horizon.py` are those of the new examples, not the old model's. But an offset
that the old model's towers have learnt without stays off: they say themselves what it would say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cmdcm.features.spec import Feature, FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.horizon import KNOTS
from cmdcm.model.input_columns import Column, Columns, input_columns
from cmdcm.model.network import LinearTower

Places = npt.NDArray[np.int64]
"""For each place in the new model the one in the old model, -1 for none."""

TABLE = "trunk/encoder/table"

LISTS = "trunk/encoder/ids/"
"""The lists of known ids, which belong to the examples and not to the training before."""

SHARES = "horizon/shares"
"""How many purchases come in time, which the new examples tell as well."""


@dataclass(frozen=True)
class Match:
    """How much of something was found in the old model.

    Attributes:
        kind: `table` counts rows, `input` columns of the trunk's input, `weight` numbers.
        name: The table, the feature or sequence, or the weight's place in the network.
        size: How many the new model has.
        matched: How many of them were copied.
        dropped: How many the old model has beyond these.
        note: Why, where it is not plain.
    """

    kind: Literal["table", "input", "weight"]
    name: str
    size: int
    matched: int
    dropped: int
    note: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing was new and nothing was dropped."""
        return self.size == self.matched and not self.dropped


def transfer(source: RankingModel, target: RankingModel) -> list[Match]:
    """Copies what means the same in both models, which are built; returns what matched."""
    before, after = variables(source), variables(target)
    names_before, names_after = _axes(source), _axes(target)
    rows, matches = _table_rows(source, target)
    matches += _inputs(source, target)
    dims = source.trunk.encoder.dim, target.trunk.encoder.dim
    columns = np.where(np.arange(dims[1]) < dims[0], np.arange(dims[1]), -1)
    matches += _horizon(source, target)
    _copy(before[TABLE], after[TABLE], (rows, columns), zero=False)
    for path, variable in after.items():
        if path in (TABLE, SHARES) or path.startswith(LISTS):
            continue
        size = int(np.prod(variable.shape))
        if path not in before:
            matches.append(Match("weight", path, size, 0, 0, "not in the source"))
            continue
        old = before[path]
        places = _places(
            names_before.get(path), names_after.get(path), tuple(old.shape), tuple(variable.shape)
        )
        if places is None:
            note = f"another shape: {tuple(old.shape)} before, {tuple(variable.shape)} now"
            matches.append(Match("weight", path, size, 0, int(np.prod(old.shape)), note))
            continue
        _copy(old, variable, places, zero=path.endswith("/kernel"))
        copied = int(np.prod([np.count_nonzero(p >= 0) for p in places]))
        matches.append(Match("weight", path, size, copied, int(np.prod(old.shape)) - copied))
    for path in sorted(path for path in before.keys() - after if not path.startswith(LISTS)):
        dropped = int(np.prod(before[path].shape))
        matches.append(Match("weight", path, 0, 0, dropped, "not in the new model"))
    return matches


def variables(model: RankingModel) -> dict[str, Any]:
    """Returns the weights of a built model by their place in the network."""
    root = model.checkpoint()
    view = tf.train.TrackableView(root)
    found, seen, level = dict[str, Any](), {id(root)}, [("", root)]
    while level:
        children = [
            (f"{path}/{name}" if path else name, child)
            for path, parent in level
            for name, child in view.children(parent).items()
        ]
        level = []
        for path, child in children:
            if id(child) in seen:
                continue
            seen.add(id(child))
            # A table may be shared out over servers: it is one thing all the same.
            if isinstance(child, tf.Variable) or path == TABLE:
                found[path] = child
            else:
                level.append((path, child))
    return found


def _axes(model: RankingModel) -> dict[str, tuple[Columns | None, ...]]:
    """Names the axes of the weights that belong to input columns, by their place."""
    columns = input_columns(model.trunk)
    x = columns.trunk
    experts = model.trunk.experts
    first = ["mlp/_sublayers/0/kernel"]
    if experts is not None:
        first = [f"experts/{place}" for place in experts.input_kernels()]
    axes: dict[str, tuple[Columns | None, ...]] = {f"trunk/{place}": (x, None) for place in first}
    for side, numbers in (
        ("user", columns.user_numbers),
        ("candidate", columns.candidate_numbers),
    ):
        axes[f"trunk/encoder/{side}_scale/mean"] = (numbers,)
        axes[f"trunk/encoder/{side}_scale/deviation"] = (numbers,)
    for name, pairs in columns.pairs.items():
        axes[f"trunk/encoder/rates/{name}/prior_logit"] = (pairs, None)
        axes[f"trunk/encoder/rates/{name}/log_strength"] = (pairs, None)
    for name, keys in columns.keys.items():
        both = tuple(
            Column("product", f"{q.part} {k.part}")
            for q, k in zip(columns.target, keys, strict=True)
        )
        for layer, read in (("query", columns.target), ("key", keys), ("product", both)):
            axes[f"trunk/attention/{name}/{layer}/kernel"] = (read, None)
    for n in range(model.config.cross_layers):
        axes[f"trunk/cross/_dense_u_kernels/{n}/kernel"] = (x, None)
        axes[f"trunk/cross/_dense_v_kernels/{n}/kernel"] = (None, x)
        axes[f"trunk/cross/_dense_v_kernels/{n}/bias"] = (x,)
    if columns.domain:
        axes["trunk/domain_gate/hidden/kernel"] = ((*columns.domain, *_again(x)), None)
        axes["trunk/domain_gate/scale/kernel"] = (None, x)
        axes["trunk/domain_gate/scale/bias"] = (x,)
    width = model.config.trunk_units[-1]
    shared = tuple(Column("shared", f"{i} of {width}") for i in range(width))
    for name, tower in model.towers.items():
        if isinstance(tower, LinearTower):
            axes[f"towers/{name}/logit/kernel"] = (columns.modifiers, None)
            continue
        for n in range(len(tower.gates)):
            axes[f"towers/{name}/gates/{n}/hidden/kernel"] = ((*columns.prior, *shared), None)
    return axes


def _again(columns: Columns) -> Columns:
    """The same columns under names of their own, where they stand beside some of themselves."""
    return tuple(Column("all inputs", f"{c.feature} {c.part}") for c in columns)


def _places(
    before: Sequence[Columns | None] | None,
    after: Sequence[Columns | None] | None,
    old_shape: tuple[int, ...],
    new_shape: tuple[int, ...],
) -> tuple[Places, ...] | None:
    """Returns where each axis of a weight comes from; None if the weights do not match."""
    if len(old_shape) != len(new_shape) or (before is None) != (after is None):
        return None
    places = []
    none = [None] * len(new_shape)
    for old, new, old_size, new_size in zip(
        before or none, after or none, old_shape, new_shape, strict=True
    ):
        if old is not None and new is not None:
            at = {column: place for place, column in enumerate(old)}
            if (len(at), len(new)) != (old_size, new_size):
                raise ValueError(f"{len(at)}, {len(new)} columns for {old_size}, {new_size} rows")
            places.append(np.array([at.get(column, -1) for column in new], np.int64))
        elif old_size == new_size:
            places.append(np.arange(new_size))
        else:
            return None
    return tuple(places)


def _copy(old: Any, new: Any, places: tuple[Places, ...], *, zero: bool) -> None:
    """Copies what has a place; with `zero`, first rows without one become zero."""
    value = tf.convert_to_tensor(new).numpy()
    if zero:
        value[places[0] < 0] = 0
    to = np.ix_(*(np.flatnonzero(place >= 0) for place in places))
    value[to] = tf.convert_to_tensor(old).numpy()[np.ix_(*(place[place >= 0] for place in places))]
    new.assign(value)


def _table_rows(source: RankingModel, target: RankingModel) -> tuple[Places, list[Match]]:
    """Returns the rows of the fused table, and how much of each table matched."""
    old, new = source.trunk.encoder, target.trunk.encoder
    rows, matches = np.full(new.ids.rows, -1, np.int64), []
    for table, size in new.ids.tables.items():
        if table not in old.ids.tables:
            matches.append(Match("table", table, size, 0, 0, "not in the source"))
            continue
        if table in old.ids.listed and table in new.ids.listed:
            places, copied, note = _rows_of_ids(*(e.ids.keys(table) for e in (old, new)))
        else:
            places, copied, note = _rows_of_table(table, old.spec, new.spec)
        first = new.ids.offsets[table]
        rows[first : first + size] = np.where(places >= 0, places + old.ids.offsets[table], -1)
        matches.append(Match("table", table, size, copied, old.ids.tables[table] - copied, note))
    for table in sorted(old.ids.tables.keys() - new.ids.tables.keys()):
        matches.append(Match("table", table, 0, 0, old.ids.tables[table], "not in the new model"))
    return rows, matches


def _rows_of_table(table: str, old: FeatureSpec, new: FeatureSpec) -> tuple[Places, int, str]:
    """Returns the rows of one table in its old one, how many are of the same value, and a note."""
    old_size, size = old.tables()[table], new.tables()[table]
    nowhere = np.full(size, -1, np.int64)
    before, after = ([f for f in spec.inputs if f.table == table] for spec in (old, new))
    if _kinds(before) != _kinds(after):
        return nowhere, 0, f"{_kinds(before)} before, {_kinds(after)} now"
    words = [list(dict.fromkeys(f.vocabulary for f in features)) for features in (before, after)]
    if words[0] == words[1]:
        if old_size == size:
            return np.arange(size), size, ""
        if any(f.encoding == "hash" for f in after):
            note = f"hashes of {old_size} buckets do not tell those of {size}"
            return nowhere, 0, note
        # `identity`: a number means the same among any number of buckets.
        both = min(size, old_size)
        nowhere[:both] = np.arange(both)
        return nowhere, both, ""
    if len(words[0]) != 1 or len(words[1]) != 1:
        return nowhere, 0, "several vocabularies share the table, and one changed"
    known = {word: place for place, word in enumerate(words[0][0])}
    unknown = len(known)
    places = np.array([*(known.get(w, unknown) for w in words[1][0]), unknown], np.int64)
    added = [word for word in words[1][0] if word not in known]
    gone = sorted(known.keys() - set(words[1][0]))
    notes = [f"new, as the unknown value: {', '.join(added)}"] if added else []
    notes += [f"gone: {', '.join(gone)}"] if gone else []
    return places, size - len(added), "; ".join(notes)


def _rows_of_ids(old: Places, new: Places) -> tuple[Places, int, str]:
    """The same for known ids, given their ascending keys; the last row is that of all others."""
    at = np.minimum(np.searchsorted(old, new), old.size - 1)
    found = old[at] == new
    added, gone = int(np.count_nonzero(~found)), old.size - int(np.count_nonzero(found))
    notes = [f"newly known, as the unknown id: {added:,}"] if added else []
    notes += [f"no longer known: {gone:,}"] if gone else []
    places = np.append(np.where(found, at, old.size), old.size)
    return places, new.size - added + 1, "; ".join(notes)


def _horizon(source: RankingModel, target: RankingModel) -> list[Match]:
    """Leaves the offset off that the source's towers have learnt without."""
    before, after = source.horizon, target.horizon
    if after is None or after.off or not (before is None or before.off):
        return []
    after.set_shares(np.ones(len(KNOTS)))
    return [Match("weight", SHARES, len(KNOTS), 0, 0, "off, since the source learnt without it")]


def _kinds(features: Sequence[Feature]) -> str:
    return ", ".join(
        sorted(
            {
                f"{f.encoding} of {f.dtype}" + (f" by {f.hashes}" if f.hashes > 1 else "")
                for f in features
            }
        )
    )


def _inputs(source: RankingModel, target: RankingModel) -> list[Match]:
    """Returns how many columns of each input matched."""
    before, after = (_by_feature(input_columns(model.trunk).trunk) for model in (source, target))
    return [
        Match(
            "input",
            name,
            len(new := after.get(name, set())),
            len(new & (old := before.get(name, set()))),
            len(old - new),
        )
        for name in {**after, **before}
    ]


def _by_feature(columns: Columns) -> Mapping[str, set[Column]]:
    grouped: dict[str, set[Column]] = {}
    for column in columns:
        grouped.setdefault(column.feature, set()).add(column)
    return grouped


def as_text(matches: Sequence[Match]) -> str:
    """Returns what matched as text: all tables, and the inputs and weights that changed."""
    shown = [match for match in matches if match.kind == "table" or not match.whole]
    lines = [f"{'':6} {'':44} {'now':>12} {'copied':>12} {'dropped':>12}"]
    lines += [
        f"{m.kind:6} {m.name:44} {m.size:12,} {m.matched:12,} {m.dropped:12,}  {m.note}".rstrip()
        for m in shown
    ]
    for kind in ("input", "weight"):
        of_kind = [match for match in matches if match.kind == kind]
        lines.append(f"{sum(m.whole for m in of_kind)} of {len(of_kind)} {kind}s are as they were")
    return "\n".join(lines)
