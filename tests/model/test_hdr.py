"""HDR: a block that starts as the identity, and that is all that its fine-tuning moves."""

import numpy as np
import pytest
import tensorflow as tf

from cmdcm.core.config import Config, TrainingConfig
from cmdcm.core.errors import DataError
from cmdcm.core.files import read_manifest
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.promotion_weights import promotion_weights
from cmdcm.model.hdr import TransBlock
from cmdcm.model.optimizer import make_optimizer
from cmdcm.model.steps import train_step
from cmdcm.model.trained import MODEL, load_history, load_model
from cmdcm.model.training import train
from cmdcm.model.transfer import transfer, variables
from cmdcm.model.warm_start import check_frozen
from cmdcm.tests.model.batches import random_batch, shake, tiny_model, tiny_spec

SPEC = tiny_spec()
BATCH = random_batch(SPEC, 24)
BLOCK = "trunk/block/"


def values(model) -> dict[str, np.ndarray]:
    return {path: variable.numpy() for path, variable in variables(model).items()}


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


def block_of(weights: dict[str, np.ndarray]) -> set[str]:
    return {path for path in weights if path.startswith(BLOCK)}


def test_a_fresh_block_is_the_identity_bit_for_bit():
    random = np.random.default_rng(0)
    x = random.normal(0, 10.0 ** random.integers(-30, 30, (50, 6))).astype(np.float32)
    np.testing.assert_array_equal(TransBlock(6)(x), x)


def test_a_block_is_a_residual_layer():
    block = TransBlock(2)
    block(tf.zeros([1, 2]))
    for variable, value in zip(
        block.weights, ([[1, -1], [2, 0]], [0.5, 0], [[1, 0], [3, 1]], [0.25, -1]), strict=True
    ):
        variable.assign(value)
    # W s + b = (1 + 4 + 0.5, -1), relu (5.5, 0); V of it + c = (5.75, -1); s' = s + that.
    np.testing.assert_allclose(block(tf.constant([[1.0, 2.0]])), [[6.75, 1.0]])


def test_a_block_s_configuration_makes_it_again():
    assert TransBlock.from_config(TransBlock(3).get_config()).outputs == 3
    with pytest.raises(ValueError, match=r"`outputs` should be positive. Received: 0$"):
        TransBlock(0)


def test_it_starts_with_the_predictions_of_its_base_bit_for_bit():
    base = shake(tiny_model(SPEC, name="single_task"))
    model = tiny_model(SPEC, seed=5, name="hdr")
    unlike = model(BATCH)["conversion"].numpy()
    new = {match.name for match in transfer(base, model) if not match.whole}
    assert new == block_of(values(model)) != set()
    np.testing.assert_array_equal(model(BATCH)["conversion"], base(BATCH)["conversion"])
    assert np.abs(model(BATCH)["conversion"] - unlike).max() > 0.1, (
        "the test should be able to fail"
    )


def test_a_base_of_another_shape_is_refused():
    model = tiny_model(SPEC, name="hdr")
    model(BATCH)
    model.fine_tune(True)
    same = shake(tiny_model(SPEC, name="single_task"))
    same(BATCH)
    check_frozen(model, transfer(same, model))
    other = shake(tiny_model(SPEC, name="single_task", trunk_units=(3, 2)))
    other(BATCH)
    matches = transfer(other, model)
    with pytest.raises(DataError, match=r"no weights that fit .*trunk/mlp/\S+, .*of its base"):
        check_frozen(model, matches)
    model.fine_tune(False)  # all of them are trained
    check_frozen(model, [match for match in matches if "block" not in match.name])


@pytest.mark.parametrize("encoder", ["target_attention", "lrea"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_step_moves_the_block_alone_or_all_but_the_block(warm, encoder):
    settings = {"sequence_encoder": encoder, "sequence_rank": 2}
    model = shake(tiny_model(SPEC, name="hdr", **settings))
    parameters = model.describe()
    model.fine_tune(warm)
    optimizer = make_optimizer(model, TrainingConfig())
    before, loss = values(model), float(model.compute_loss(BATCH))
    for _ in range(3):
        train_step(model, optimizer, BATCH)
    assert int(optimizer.iterations.numpy()) == 3
    moved, block = changed(before, values(model)), block_of(before)
    assert moved == block if warm else moved and not moved & block
    assert float(model.compute_loss(BATCH)) < loss
    assert model.describe() == parameters  # frozen ones count


def test_from_a_base_to_a_fine_tuned_model(small_world, tmp_path):
    """Two runs, as in docs/warm_start.md; the second one weights promotions by their likeness."""
    found = read_manifest(small_world.examples, "examples")["promotions"]
    promotions = sorted(found, key=lambda name: found[name]["first_day"])

    def run(name: str, output: str, **training) -> tuple[Config, ExampleSet]:
        sections = {"model": {"name": name}, "training": {"epochs": 1, **training}}
        sections["split"] = {
            "windows": 2,
            "test": (promotions[-2 if name == "single_task" else -1],),
        }
        config = small_world.config.model_copy(
            update={
                section: getattr(small_world.config, section).model_copy(update=update)
                for section, update in sections.items()
            }
        )
        data = ExampleSet.open(small_world.examples, config.split)
        train(data, tmp_path / output, config, progress=False)
        return config, data

    run("single_task", "base")
    config, data = run(
        "hdr",
        "hdr",
        warm_start=str(tmp_path / "base" / MODEL),
        similarity_scale=0.1,
        max_forgetting=10.0,
    )
    base, model = (load_model(tmp_path / name / MODEL) for name in ("base", "hdr"))
    assert [record["epoch"] for record in load_history(tmp_path / "hdr" / MODEL)] == [0, 1]
    before, after = values(base), values(model)
    for path in before:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert after.keys() - before.keys() == block_of(after)
    by_promotion = promotion_weights(data, config.training)
    assert by_promotion is not None and np.ptp(by_promotion.weights) > 0
