"""What is written into a run folder is read back as it was."""

from __future__ import annotations

import json

from training.tiny_runs import tiny

from hpc_srct.training import run_folder, train


def test_settings_with_any_character_are_those_of_the_run(tmp_path):
    # U+0085 ends a line for YAML, unless it is written as an escape.
    stores = tmp_path / 'it\'s "a" b\x85c\u2028d\ne: [µ', tmp_path / "other"
    settings = tiny(stores)
    run_folder.begin(tmp_path / "run")
    run_folder.write(tmp_path / "run", settings, "identity", ranks=1, device="cpu")
    assert run_folder.check_settings(tmp_path / "run", settings) == []
    assert run_folder.check_settings(tmp_path / "run", tiny(stores, epochs=4)) == ["epochs: 3 → 4"]


def test_each_start_says_how_it_computes_and_from_which_step(stores, tmp_path):
    train(tiny(stores, epochs=1), tmp_path / "run")
    changed = tiny(stores, epochs=2, precision="bf16", activation_checkpointing=True)
    train(changed, tmp_path / "run", resume=True)
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    keys = ("first_step", "precision", "compile", "activation_checkpointing")
    told = [tuple(start[key] for key in keys) for start in starts]
    assert told == [(1, "O0", False, False), (7, "bf16", False, True)]
