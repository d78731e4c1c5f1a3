"""Plans: what is read, what is refused, and which trials follow."""

from pathlib import Path

import pytest

from cmdcm.core.errors import ConfigError, TrainingError
from cmdcm.jobs.bench.plan import load_plan, plans
from cmdcm.jobs.bench.trials import run_trial, trials_of
from cmdcm.model.delayed.base import DelayedModel
from cmdcm.model.registry import MODELS

PLAN = """
title = "T"
baseline = "a"
seeds = [3, 4]
set = ["simulate.events=2_000"]
[worlds.one]
preset = "world_ignorable"
set = ["simulate.confounding=2.0"]
[worlds.two]
[models.a]
[models.b]
set = ["model.gate=false"]
worlds = ["two"]
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


def test_a_model_of_the_truth_is_left_out_of_logs(tmp_path):
    path = tmp_path / "plan.toml"
    taught = '[models.c]\nset = ["model.name=single_task"]\ntruth = true\n'
    path.write_text(PLAN + taught)
    plan = load_plan(str(path), logs={"shop": tmp_path})
    assert plan.models_in("one") == ["a", "c"]
    assert plan.models_in("shop") == ["a"]
    path.write_text(PLAN + taught.replace("single_task", "esmm"))
    with pytest.raises(ConfigError, match=r"models\.c: the truth teaches conversion alone"):
        load_plan(str(path))


@pytest.mark.parametrize("name", plans())
def test_every_built_in_plan_makes_its_configurations(name):
    plan = load_plan(name)
    for world in plan.worlds:
        assert plan.baseline in plan.models_in(world)
        for model in plan.models_in(world):
            assert plan.config(world, 1, model).seed == 1


def test_every_model_of_final_labels_is_in_a_plan_of_its_own_or_the_zoo():
    named = {
        plan.config("sparse", 1, model).model.name
        for plan in map(load_plan, ("zoo", "refunds"))
        for model in plan.models
    }
    late = {name for name, kind in MODELS.items() if issubclass(kind, DelayedModel)}
    assert set(MODELS) - named == late  # they are compared in a stream


def test_trials_are_worlds_by_seeds_by_models(plan_file, tmp_path):
    trials = trials_of(load_plan(str(plan_file)), tmp_path)
    assert [(t.world.name, t.world.seed, t.model) for t in trials] == [
        ("one", 3, "a"),
        ("one", 4, "a"),
        ("two", 3, "a"),
        ("two", 3, "b"),
        ("two", 4, "a"),
        ("two", 4, "b"),
    ]
    assert len({trial.folder for trial in trials}) == 6
    assert len({trial.world.folder for trial in trials}) == 4
    first, last = trials[0].config, trials[-1].config
    assert (first.simulate.confounding, first.simulate.events, first.seed) == (2, 2000, 3)
    assert not last.model.gate
    assert last.simulate.confounding == 1


def test_what_is_taught_the_truth_is_another_trial(plan_file, tmp_path):
    taught = "[models.c]\nset = ['model.name=single_task']\n"
    folders = []
    for more in ("", "truth = true\n"):
        plan_file.write_text(PLAN + taught + more)
        trials = trials_of(load_plan(str(plan_file)), tmp_path)
        folders.append({trial.folder for trial in trials if trial.model == "c"})
    assert len(folders[0]) == len(folders[1]) == 4
    assert not folders[0] & folders[1]


BASED = """
[models.after]
set = ["training.epochs=3", "model.trunk_units=[8]"]
base = "plain"
[models.plain]
set = ["model.name=single_task", "model.trunk_units=[4]"]
"""


def test_a_model_goes_on_from_the_trial_of_its_base_with_its_settings(plan_file, tmp_path):
    plan_file.write_text(PLAN + BASED)
    trials = trials_of(load_plan(str(plan_file)), tmp_path)
    for trial in trials:
        if trial.model == "after":
            assert trial.base in trials
            assert trial.base.model == "plain"
            assert trial.base.world == trial.world
            assert trial.config.model.name == "single_task"
            assert trial.config.model.trunk_units == (8,)
            with pytest.raises(TrainingError, match="its base plain was not made"):
                run_trial(trial)


def test_the_key_of_a_trial_holds_the_settings_of_its_base_and_no_place(plan_file, tmp_path):
    def folders(text: str, output: Path) -> dict[str, str]:
        plan_file.write_text(text)
        trials = trials_of(load_plan(str(plan_file), seeds=1, worlds=("one",)), output)
        return {trial.model: trial.folder.name for trial in trials}

    given = folders(PLAN + BASED, tmp_path / "here")
    assert folders(PLAN + BASED, tmp_path / "there") == given
    alone = folders(PLAN + BASED.replace('base = "plain"', ""), tmp_path)
    assert {name for name in given if alone[name] != given[name]} == {"after"}
    changed = '"model.trunk_units=[4]", "model.tower_units=[2]"]'
    other = folders(PLAN + BASED.replace('"model.trunk_units=[4]"]', changed), tmp_path)
    assert {name for name in given if other[name] != given[name]} == {"after", "plain"}


def test_a_log_is_the_same_for_all_seeds(plan_file, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "manifest.json").write_text("{}")
    plan = load_plan(str(plan_file), logs={"taobao": tmp_path / "log"}, worlds=("taobao",))
    trials = trials_of(plan, tmp_path)
    assert {trial.world.folder for trial in trials} == {trials[0].world.folder}
    assert trials[0].folder != trials[1].folder
    assert trials[0].world.truth is None
    # The preset of that name.
    assert trials[0].config.split.by == "time" or trials[0].config.calendar.promotions


def test_seeds_worlds_and_overrides_of_the_command_line(plan_file):
    plan = load_plan(str(plan_file), seeds=3, worlds=("one",), overrides=("simulate.events=9_000",))
    assert plan.seeds == (1, 2, 3)
    assert list(plan.worlds) == ["one"]
    assert list(plan.models) == ["a"]  # b is of the other world
    assert plan.config("one", 1, "a").simulate.events == 9000


def test_models_that_are_kept_bring_their_base_and_the_baseline():
    assert set(load_plan("zoo", models=("hdr",)).models) == {"hdr", "single_task", "cmdcm"}
    with pytest.raises(ConfigError, match=r"has no model \['gpt'\]; it has \['vanilla', "):
        load_plan("zoo", models=("hdr", "gpt"))


def test_the_command_line_counts_more_than_a_world_and_less_than_a_model(plan_file):
    overrides = ("simulate.confounding=3.0", "model.gate=true")
    plan = load_plan(str(plan_file), overrides=overrides)
    assert plan.config("one", 1, "a").simulate.confounding == 3
    assert not plan.config("two", 1, "b").model.gate


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('baseline = "a"', 'baseline = "c"', "baseline 'c' is none of the models"),
        ("seeds = [3, 4]", "seeds = [3, 3]", "seeds should differ"),
        ("seeds = [3, 4]", "seeds = []", "seeds"),
        ('worlds = ["two"]', 'worlds = ["three"]', "there is no world ['three']"),
        ("[models.b]", '[models."b c"]', "'b c' cannot be one"),
        ("[models.b]", "[models.oracle]", "'oracle' cannot be one"),
        ("[models.b]", '[models.b]\nbase = "c"', "models.b.base: there is no model 'c'"),
        ("[models.a]", '[models.a]\nbase = "a"', "models.a.base: a circle, a <- a"),
        ("[models.a]", '[models.a]\nbase = "b"', "models.a.base: b is not trained in one"),
        ("[models.b]", '[models.b]\nbase = "a"\nspace = "zoo"', "what the search of its base"),
        ('title = "T"', "", "title"),
        ('title = "T"', 'title = "T"\ncolour = 1', "colour"),
        ('title = "T"', "title =", "not valid TOML"),
    ],
)
def test_a_faulty_plan_says_what_is_wrong(plan_file, old, new, fault):
    plan_file.write_text(PLAN.replace(old, new))
    with pytest.raises(ConfigError, match="plan") as error:
        load_plan(str(plan_file))
    assert fault in str(error.value)


def test_an_unknown_plan_world_or_setting(plan_file):
    with pytest.raises(ConfigError, match="the built-in plans are"):
        load_plan("no_such_plan")
    with pytest.raises(ConfigError, match="no world"):
        load_plan(str(plan_file), worlds=("three",))
    plan = load_plan(str(plan_file), overrides=("model.gates=1",))
    with pytest.raises(ConfigError, match="did you mean 'gate'"):
        plan.config("one", 1, "a")
