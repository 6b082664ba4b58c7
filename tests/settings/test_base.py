"""Inheritance, overrides, and errors that help."""

from __future__ import annotations

import pytest
from pydantic import Field

from hpc_srct.errors import InputError
from hpc_srct.settings import Settings, find_config, load
from hpc_srct.settings.base import configs_folder


class Model(Settings):
    width: int = Field(32, ge=1)


class Experiment(Settings):
    name: str
    learning_rate: float = 3e-4
    model: Model = Model()
    stores: list[str] = []


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_a_file_is_laid_over_what_it_inherits(tmp_path):
    write(tmp_path, "base.yaml", "name: base\nmodel: {width: 8}\nstores: [a, b]\n")
    child = write(tmp_path, "child.yaml", "inherit: base.yaml\nname: child\nstores: [c]\n")
    settings = load(Experiment, child)
    assert (settings.name, settings.model.width, settings.stores) == ("child", 8, ["c"])


def test_a_file_inherits_what_lies_beside_it_wherever_it_is_called_from(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "mine", "base.yaml", "name: mine\n")
    write(tmp_path / "elsewhere", "base.yaml", "name: elsewhere\n")
    child = write(tmp_path / "mine", "child.yaml", "inherit: base.yaml\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(Experiment, child).name == "mine"
    # What is not beside it is looked for from here, as a name on the command line is.
    (tmp_path / "mine" / "base.yaml").unlink()
    assert load(Experiment, child).name == "elsewhere"


def test_overrides_are_yaml_and_reach_inside(tmp_path):
    path = write(tmp_path, "e.yaml", "name: x\n")
    settings = load(Experiment, path, ["model.width=16", "learning_rate=1e-3", "stores=[p, q]"])
    assert settings.model.width == 16
    assert settings.learning_rate == 1e-3
    assert settings.stores == ["p", "q"]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "name: x\nlerning_rate: 1\n",
            [],
            r"e\.yaml: unknown key 'lerning_rate'; did you mean 'le",
        ),
        ("name: x\n", ["model.widht=3"], r"unknown key 'model\.widht'; did you mean 'width'"),
        ("name: x\nzzz: 3\n", [], r"unknown key 'zzz'; known: learning_rate, model, name, stores"),
        ("model: {}\n", [], "'name' is required"),
        (
            "name: x\nmodel: {width: 0}\n",
            [],
            r"'model\.width'.*1 or more; found 0",
        ),
        ("name: x\nmodel: {width: many}\n", [], r"'model\.width'.*found 'many'"),
        ("- a\n- b\n", [], "expected keys and values, found a list"),
        ("name: [x\n", [], "line 2 not valid YAML"),
        ("name: x\n", ["width"], "expected key=value"),
        ("inherit: e.yaml\n", [], "inherits from itself"),
        ("inherit: nowhere.yaml\n", [], "no such settings file"),
    ],
)
def test_bad_input_is_answered_in_words(tmp_path, text, overrides, message):
    path = write(tmp_path, "e.yaml", text)
    with pytest.raises(InputError, match=message) as caught:
        load(Experiment, path, overrides)
    assert str(caught.value).count("\n") <= 1


def test_a_folder_is_not_a_settings_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load(Experiment, tmp_path)


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = next(configs_folder().rglob("*.json"), None) or next(configs_folder().rglob("*.yaml"))
    name = shipped.relative_to(configs_folder())
    assert find_config(name) == shipped
    assert find_config("configs" / name) == shipped
