"""Every model, and every setting of CM-DCM, from raw features to outputs, losses and gradients."""

import functools
import json
import re
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import LabelsConfig, ModelConfig, TrainingConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import OUTPUTS, RankingModel
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.registry import MODELS, make_model
from cmdcm.model.steps import train_step
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.model import reference
from cmdcm.tests.model.batches import (
    COLUMNS,
    TINY,
    VARIANTS,
    random_batch,
    rows_of,
    shake,
    sides,
    tiny_model,
    tiny_spec,
)
from cmdcm.tests.model.reference_zoo import INDEPENDENT, ZOO

SPEC = tiny_spec(labels=LabelsConfig(micro=True, refunded=True))
BATCH = random_batch(SPEC, 24)
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_network = pytest.mark.parametrize(
    "variant",
    [
        "single_task",
        "mmoe",
        "ple",
        "pepnet",
        "esmm",
        "hm3",
        "escm2_dr",
        "hdr",
        "es_dfm",
        "fnc",
        "cmdcm",
        "cmdcm-dr",
        "cmdcm-cross-fit",
        "cmdcm-no-gate",
        "cmdcm-no-transition",
        "cmdcm-modifiers",
    ],
)
"""The variants whose networks differ; the others differ in their loss alone."""


@functools.cache
def built(variant: str) -> RankingModel:
    """One model of a variant for all tests that leave its weights alone."""
    return shake(tiny_model(SPEC, 2, **VARIANTS[variant]))


@functools.cache
def logits_of(variant: str) -> dict[str, np.ndarray]:
    """Its logits of `BATCH`."""
    return {name: z.numpy() for name, z in built(variant)(BATCH).items()}


@functools.cache
def evaluated(variant: str) -> tuple[float, float, list[np.ndarray | None]]:
    """Its heads' loss and its penalty on `BATCH`, and the gradient of the former by weight."""
    model = built(variant)
    with tf.GradientTape() as tape:
        loss, penalty = loss_and_penalty(model, BATCH)
    gradients = tape.gradient(loss, model.trainable_variables)
    dense = [None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients]
    return float(loss), float(penalty), dense


def loss_and_penalty(model, batch) -> tuple[tf.Tensor, tf.Tensor]:
    parts = model.loss_parts(batch)
    penalty = parts.pop("l2") + parts.pop("attention", 0.0)
    return tf.add_n(list(parts.values())), penalty


def config_of(variant: str) -> ModelConfig:
    return TINY.model_copy(update=VARIANTS[variant])


def heads(variant: str) -> list[str]:
    config = config_of(variant)
    if config.name in ZOO:
        return list(ZOO[config.name].heads)
    settings = config.transition, config.estimator, config.cross_fit_folds
    return list(reference.heads(*settings, config.effect_modifiers))


def probabilities(logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: reference.sigmoid(z) for n, z in logits.items()}


def expected_outputs(variant: str, logits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    config = config_of(variant)
    if config.name in ZOO:
        return ZOO[config.name].predictions(probabilities(logits))
    return reference.predictions(config.transition, logits)


def expected_loss(variant: str, logits: dict[str, np.ndarray], labels: dict) -> float:
    config = config_of(variant)
    if config.name in ZOO:
        p = probabilities(logits)
        return ZOO[config.name].loss(p, labels, config.model_dump())
    settings = config.transition, config.estimator
    clip, weight = config.propensity_clip, config.transition_weight
    return reference.loss(*settings, clip, weight, logits, labels)


def random_logits(variant: str, scale: float, rows: int = 200) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = heads(variant)
    return {name: random.normal(0, scale, rows).astype(np.float32) for name in names}


def assert_close(got: dict, expected: dict, rtol: float = 1e-4, atol: float = 1e-5):
    assert set(got) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=rtol, atol=atol, err_msg=name)


def test_every_configurable_model_is_registered_and_tested():
    names = set(get_args(ModelConfig.model_fields["name"].annotation))
    assert set(MODELS) == names == {config_of(variant).name for variant in VARIANTS}
    for name in names:
        assert isinstance(make_model(SPEC, ModelConfig(name=name)), MODELS[name])


# Outputs


@every_variant
def test_logits_are_one_a_head_and_row(variant):
    names = heads(variant)
    assert set(logits_of(variant)) == set(names)
    assert [head.name for head in built(variant).heads] == names
    for z in logits_of(variant).values():
        assert z.shape == (24,)
        assert z.std() > 0.01


@every_variant
def test_predictions_against_the_reference(variant):
    logits = random_logits(variant, scale=3)
    assert_close(
        built(variant).predictions({k: tf.constant(z) for k, z in logits.items()}),
        expected_outputs(variant, logits),
        rtol=2e-5,
        atol=1e-6,
    )


@every_variant
@pytest.mark.parametrize("scale", [1, 6, 1e4])
def test_probabilities_are_coherent_at_any_logits(variant, scale):
    logits = random_logits(variant, scale, rows=20_000)
    outputs = built(variant).predictions({k: tf.constant(z) for k, z in logits.items()})
    for name, values in outputs.items():
        low = -1 if name == "cart_effect" else 0
        assert low <= float(tf.reduce_min(values)) <= float(tf.reduce_max(values)) <= 1, name
    if "p_direct" in outputs and ZOO.get(config_of(variant).name) is not INDEPENDENT:
        parts = outputs["p_direct"] + outputs["p_delayed"]
        np.testing.assert_allclose(parts, outputs["p_conversion"], rtol=0, atol=1e-6)


def test_names_of_the_outputs():
    diagnostics = {"propensity", "r1", "r0"}
    for variant in VARIANTS:
        names = set(built(variant).predictions(logits_of(variant)))
        expected = {"p_conversion"}
        family = MODELS[config_of(variant).name].about.family
        if family not in ("baselines", "delayed feedback", "promotions"):
            expected |= {"p_direct", "p_cart", "p_delayed"}
        if variant == "ecad":
            expected |= {"p_refunded", "p_effective"}
        if "r1" in heads(variant):
            expected |= {"cart_effect", *diagnostics}
        assert names == expected
        assert names - diagnostics <= set(OUTPUTS)


def test_the_label_of_an_output():
    model = built("cmdcm")
    labels = {name: model.label_of(name) for name in [*OUTPUTS, "propensity", "p_unheard"]}
    assert labels == {
        "p_direct": "direct",
        "p_cart": "cart",
        "p_delayed": "delayed",
        "p_conversion": "conversion",
        "p_refunded": "refunded",
        "p_effective": None,
        "cart_effect": None,
        "propensity": None,
        "p_unheard": None,
    }
    assert built("single_task").label_of("p_conversion") == "conversion"
    assert built("vanilla").label_of("p_conversion") == "direct"


# Batches


@every_network
def test_a_batch_of_one_equals_its_row(variant):
    outputs = built(variant).predictions(logits_of(variant))
    user, candidates = sides(SPEC, rows_of(BATCH, 17, 18))
    alone = built(variant).score(user, candidates)
    assert_close(alone, {name: p[17:18] for name, p in outputs.items()}, rtol=0, atol=1e-6)


@every_network
def test_a_user_sent_once_equals_the_user_repeated(variant):
    model = built(variant)
    user, candidates = sides(SPEC, BATCH)
    once = model.score(rows_of(user, 5, 6), candidates)
    repeated = {k: tf.repeat(v[5:6], 24, axis=0) for k, v in user.items()}
    expected = model.predictions(model(repeated | candidates))
    assert_close(once, expected, rtol=1e-5, atol=1e-6)
    assert once["p_conversion"].shape == [24]


@every_network
def test_padding_changes_nothing(variant):
    random = np.random.default_rng(9)
    padded = dict(BATCH)
    for columns in SPEC.sequences().values():
        (ages,) = (f.name for f in columns if f.encoding == "age")
        padding = np.pad(BATCH[ages].numpy() < 0, [(0, 0), (0, 2)], constant_values=True)
        for feature in columns:
            values = np.pad(BATCH[feature.name].numpy(), [(0, 0), (0, 2)], constant_values=-1)
            if feature.name != ages:
                values[padding] = random.integers(-(2**60), 2**60, padding.sum())
            padded[feature.name] = tf.constant(values)
    assert_close(built(variant)(padded), logits_of(variant), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["single_task", "cmdcm"])
def test_empty_histories_are_finite(variant):
    empty = dict(BATCH)
    for columns in SPEC.sequences().values():
        for feature in columns:
            empty[feature.name] = tf.fill(
                [24, feature.length], tf.constant(feature.default, "int64")
            )
    model = built(variant)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(empty)
    assert np.isfinite(loss)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


@pytest.mark.parametrize(
    ("columns", "strings"),
    [
        ((), ()),
        (COLUMNS, ("user_id", "item_id", "category_id", "seller_id", "brand_id")),
    ],
    ids=["no category", "string ids"],
)
def test_other_logs(columns, strings):
    spec: FeatureSpec = tiny_spec(columns, strings)
    batch = random_batch(spec, 12)
    model = tiny_model(spec)
    assert np.isfinite(model.compute_loss(batch))
    assert np.std(model(batch)["direct"]) > 0


# Loss


@every_variant
def test_loss_against_the_reference(variant):
    labelled = ("direct", "cart", "micro", "delayed", "conversion", "refunded")
    names = (*labelled, "conversion_delay_ms")
    labels = {name: BATCH[name].numpy() for name in names}
    folds = config_of(variant).cross_fit_folds
    if folds > 1:
        users = BATCH["user_id"].numpy()
        fold = [(reference.split_mix(int(u)) >> 1) % folds for u in users]
        labels["fold"] = np.array(fold)
        assert 0 < np.mean(fold) < 1
    assert max(np.abs(z).max() for z in logits_of(variant).values()) < 30
    expected = expected_loss(variant, logits_of(variant), labels)
    assert evaluated(variant)[0] == pytest.approx(expected, rel=1e-4)


@every_variant
def test_doubling_a_batch_leaves_loss_and_penalty(variant):
    model = built(variant)
    twice = {name: tf.concat([values, values], axis=0) for name, values in BATCH.items()}
    found = [float(value) for value in loss_and_penalty(model, twice)]
    assert found == pytest.approx(evaluated(variant)[:2], rel=1e-5)
    assert float(model.compute_loss(twice)) == pytest.approx(sum(found), rel=1e-5)


def test_the_penalty_by_hand():
    model = built("cmdcm")
    user, candidates = model.trunk.encoder(*sides(SPEC, BATCH))
    squares = sum(np.square(side.ids).sum() for side in (user, candidates)) / 24
    _, penalty = loss_and_penalty(model, BATCH)
    assert float(penalty) == pytest.approx(TINY.l2_embeddings * squares, rel=1e-5)


def test_vanilla_sees_no_delayed_purchase():
    model = built("vanilla")
    flipped = {k: 1 - BATCH[k] for k in ("delayed", "conversion", "cart", "open_cart")}
    assert float(loss_and_penalty(model, BATCH | flipped)[0]) == evaluated("vanilla")[0]
    other = {"direct": 1 - BATCH["direct"]}
    assert float(model.compute_loss(BATCH | other)) != evaluated("vanilla")[0]


def test_single_task_sees_conversions_alone():
    model = built("single_task")
    flipped = {k: 1 - BATCH[k] for k in ("direct", "delayed", "cart", "open_cart")}
    assert float(loss_and_penalty(model, BATCH | flipped)[0]) == evaluated("single_task")[0]
    other = {"conversion": 1 - BATCH["conversion"]}
    assert float(model.compute_loss(BATCH | other)) != evaluated("single_task")[0]


@pytest.mark.parametrize("estimator", ["naive", "ipw", "snipw", "dr"])
@pytest.mark.parametrize("labels", [(0, 0, 0), (0, 1, 1), (1, 0, 0)])
def test_a_batch_of_one_kind_of_click_is_finite(estimator, labels):
    model = built("cmdcm" if estimator == "snipw" else f"cmdcm-{estimator}")
    columns = dict(zip(("direct", "cart", "delayed"), labels, strict=True))
    logits = {name: tf.constant(z) for name, z in logits_of("cmdcm-dr").items()}
    losses = model.head_losses(logits, {k: tf.fill([24], float(v)) for k, v in columns.items()})
    for name, head in losses.items():
        assert np.isfinite(head.losses).all(), name
        assert np.isfinite(head.weights).all(), name


def test_tracked_ratios_tell_calibration():
    model = built("cmdcm")
    model.reset_metrics()
    other = rows_of(BATCH, 3, 20)
    for batch in (BATCH, other):
        model.compute_loss(batch)
    tracked = {metric.name: float(metric.result()) for metric in model.metrics}
    logits = {
        k: np.concatenate([z, model(other)[k].numpy()]) for k, z in logits_of("cmdcm").items()
    }
    label = {
        k: np.concatenate([BATCH[k], other[k]]) for k in ("direct", "cart", "delayed", "conversion")
    }
    p = reference.predictions(True, logits)
    direct = label["direct"] == 1
    everywhere = np.ones(len(direct), bool)
    expected = {}
    for name, column, predicted, space in (
        ("direct", "direct", p["p_direct"], everywhere),
        ("propensity", "cart", p["propensity"], ~direct),
        ("cart_direct", "cart", reference.sigmoid(logits["cart_direct"]), direct),
        ("delayed", "delayed", p["p_delayed"], everywhere),
    ):
        observed, predicted = label[column][space], predicted[space]
        expected[f"pcoc_{name}"] = predicted.sum() / observed.sum()
        expected[f"loss_{name}"] = reference.cross_entropy(observed, predicted).mean()
    assert {name: tracked[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert set(tracked) == {*expected, "loss_r1", "loss_r0", "loss_l2"}
    model.reset_metrics()


# Weights


@every_variant
def test_every_weight_learns(variant):
    weights = built(variant).trainable_variables
    for variable, gradient in zip(weights, evaluated(variant)[2], strict=True):
        assert gradient is not None, variable.name
        assert np.isfinite(gradient).all(), variable.name
        assert np.abs(gradient).max() > 0, variable.name


def test_all_layers_are_tracked():
    # 1 table; 5 pairs of rates; 4 sequences with 6 weights; a cross layer (3); one MLP layer (2);
    # five towers of a hidden layer and the logit (4) and one gate each (4).
    assert len(built("cmdcm").trainable_variables) == 1 + 5 * 2 + 4 * 6 + 3 + 2 + 5 * (4 + 4)
    assert len(built("cmdcm-no-gate").trainable_variables) == 1 + 5 * 2 + 4 * 6 + 3 + 2 + 5 * 4
    parameters = built("cmdcm").describe()
    table = 3 * sum(SPEC.tables().values())
    assert parameters["table_parameters"] == table
    everything = sum(v.numpy().size for v in built("cmdcm").trainable_variables)
    assert parameters["dense_parameters"] == everything - table


@pytest.mark.parametrize("variant", ["esmm", "cmdcm"])
def test_one_seed_makes_one_model(variant):
    again = shake(tiny_model(SPEC, 2, **VARIANTS[variant]))
    assert_close(again(BATCH), logits_of(variant), rtol=0, atol=0)


def test_towers_differ_from_the_start():
    kernels = [t.hidden[0].kernel.numpy() for t in tiny_model(SPEC).towers.values()]
    for n, kernel in enumerate(kernels):
        for other in kernels[n + 1 :]:
            assert np.abs(kernel - other).max() > 0


@pytest.mark.parametrize(
    "variant",
    [
        "single_task",
        "hm3",
        "ple",
        "pepnet",
        "hdr",
        "defuse",
        "cmdcm-dr",
        "cmdcm-no-transition",
        "cmdcm-modifiers",
    ],
)
def test_save_and_load(variant, tmp_path):
    path = tf.train.Checkpoint(model=built(variant)).write(str(tmp_path / "weights"))
    loaded = shake(tiny_model(SPEC, seed=8, **VARIANTS[variant]), seed=8)
    for name, z in loaded(BATCH).items():
        assert np.abs(z - logits_of(variant)[name]).max() > 0  # another seed, another model
    tf.train.Checkpoint(model=loaded).read(path).assert_existing_objects_matched()
    assert_close(loaded(BATCH), logits_of(variant), rtol=0, atol=0)


def test_a_step_of_the_optimizer_moves_every_weight_once():
    model = shake(tiny_model(SPEC))
    optimizer = make_optimizer(model, TrainingConfig())
    before = [v.numpy() for v in model.trainable_variables]
    (table,) = model.table_variables
    with tf.GradientTape() as tape:
        loss = model.compute_loss(BATCH)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()
    train_step(model, optimizer, BATCH)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        step = np.abs(variable.numpy() - old)
        assert step.max() > 0, variable.name
        if variable is not table:
            # The first step of Adam is the learning rate, up or down.
            assert step.max() == pytest.approx(1e-3, rel=0.05), variable.name
            continue
        # Adagrad: lr g / sqrt(0.1 + g^2) on the rows that were looked up, none elsewhere.
        expected = 0.05 * gradient / np.sqrt(0.1 + gradient**2 + 1e-7)
        np.testing.assert_allclose(step, np.abs(expected), rtol=1e-3, atol=1e-6)
        assert (step.max(axis=1) == 0).any()


def test_the_handbook_lists_every_setting_with_its_default():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    listed = dict(
        re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page.partition("## Settings")[2], re.M)
    )
    defaults = ModelConfig().model_dump(mode="json")
    assert listed == {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in defaults.items()
    }
