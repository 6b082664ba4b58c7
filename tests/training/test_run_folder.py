"""What is written into a run folder is read back as it was."""

from __future__ import annotations

from training.tiny_runs import tiny

from hpc_srct.training import run_folder


def test_settings_with_any_character_are_those_of_the_run(tmp_path):
    # U+0085 ends a line for YAML, unless it is written as an escape.
    stores = tmp_path / 'it\'s "a" b\x85c\u2028d\ne: [µ', tmp_path / "other"
    settings = tiny(stores)
    run_folder.begin(tmp_path / "run")
    run_folder.write(tmp_path / "run", settings, "identity", ranks=1, device="cpu")
    assert run_folder.check_settings(tmp_path / "run", settings) == []
    assert run_folder.check_settings(tmp_path / "run", tiny(stores, epochs=4)) == ["epochs: 3 → 4"]
