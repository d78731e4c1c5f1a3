"""The columns of the network's inputs by name, in the order in which its layers read them.

Two models of different feature specs have the same column in different places; a warm start
(`model/transfer.py`) goes by the names. The order is that of `model/inputs.py` and
`model/network.py`, and is checked there against the weights' shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cmdcm.features.spec import Feature
from cmdcm.model.inputs import InputEncoder, is_number
from cmdcm.model.network import Trunk


class Column(NamedTuple):
    """One column. Columns with the same name hold the same thing, in whatever model.

    Attributes:
        feature: The feature, or the sequence, that it comes from.
        part: What it holds of it.
    """

    feature: str
    part: str


Columns = tuple[Column, ...]


@dataclass(frozen=True)
class InputColumns:
    """What the layers of a trunk read.

    Attributes:
        user_numbers: Numbers and rates of the user's side.
        candidate_numbers: Of the candidate's side.
        pairs: Pairs of kinds of each counter vector with rates.
        target: The candidate in the attention.
        keys: A past item in the attention, by sequence.
        prior: The prior of the gates.
        domain: What the gate of the domain reads beside the columns of the trunk, if there is one.
        trunk: The cross layers and the MLP.
        modifiers: The linear heads.
    """

    user_numbers: Columns
    candidate_numbers: Columns
    pairs: dict[str, Columns]
    target: Columns
    keys: dict[str, Columns]
    prior: Columns
    domain: Columns
    trunk: Columns
    modifiers: Columns


def input_columns(trunk: Trunk) -> InputColumns:
    """Names the columns of a trunk."""
    encoder = trunk.encoder
    spec, dim = encoder.spec, encoder.dim
    user, candidate = (_numbers(encoder, s) for s in (spec.user_inputs, spec.candidate_inputs))
    of_user, of_candidate = (_ids(s, dim) for s in (spec.user_inputs, spec.candidate_inputs))
    keys = {
        name: _item(name, any(f.table == "category" for f in features), dim)
        for name, features in spec.sequences().items()
    }
    sequences = tuple(column for columns in keys.values() for column in columns)
    attended = tuple(
        column
        for name, columns in keys.items()
        for column in (columns if trunk.attention[name].sums_keys else _encoded(name, dim))
    )
    scalars = {f.name for f in spec.candidate_inputs if not f.sequence}
    modifiers = [(user if m.side == "user" else candidate)[m.columns] for m in trunk.modifiers]
    return InputColumns(
        user_numbers=user,
        candidate_numbers=candidate,
        pairs={name: _pairs(encoder, spec[name]) for name in encoder.rates},
        target=_item("target", "category_id" in scalars, dim),
        keys=keys,
        prior=_of(trunk.prior_ids, *of_user, *of_candidate) or (*user, *sequences),
        domain=_of(trunk.domain_inputs, *of_user, *user),
        trunk=(*of_user, *user, *of_candidate, *candidate, *attended),
        modifiers=tuple(column for columns in modifiers for column in columns),
    )


def _of(names: Sequence[str], *columns: Column) -> Columns:
    return tuple(column for column in columns if column.feature in names)


def _ids(features: Sequence[Feature], dim: int) -> Columns:
    scalars = [f for f in features if f.table and not f.sequence]
    return tuple(Column(f.name, f"{f.table}[{i}]") for f in scalars for i in range(dim))


def _numbers(encoder: InputEncoder, features: Sequence[Feature]) -> Columns:
    numbers = [
        Column(f.name, f"{f.encoding} {part}")
        for f in features
        if is_number(f)
        for part in _parts(f)
    ]
    rates = [
        Column(f.name, f"{pair.part} {window}")
        for f in features
        if f.name in encoder.rates
        for pair in _pairs(encoder, f)
        for window in dict.fromkeys(c.rpartition("_")[2] for c in f.components)
    ]
    return (*numbers, *rates)


def _parts(feature: Feature) -> Sequence[str]:
    if feature.shape == "scalar":
        return [""]
    return feature.components or [str(i) for i in range(feature.length)]


def _pairs(encoder: InputEncoder, feature: Feature) -> Columns:
    kinds = list(dict.fromkeys(c.rpartition("_")[0] for c in feature.components))
    pairs = encoder.rates[feature.name].pairs
    return tuple(Column(feature.name, f"{kinds[b]} per {kinds[a]}") for a, b in pairs)


def _encoded(name: str, dim: int) -> Columns:
    """What an encoder makes of a sequence, where it is no sum of keys."""
    return tuple(Column(name, f"encoded[{i}]") for i in range(2 * dim))


def _item(name: str, has_category: bool, dim: int) -> Columns:
    """An item with its category, whose columns are zeros where a log has no categories."""
    parts = ("item", "category" if has_category else "no category")
    return tuple(Column(name, f"{part}[{i}]") for part in parts for i in range(dim))
