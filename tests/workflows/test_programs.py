"""Commands that are started as processes, and what asks them to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

# Stands in for a command that takes long, and saves when it is told to end.
LONG = """#!/bin/sh
trap 'echo saved > "$HERE/saved"; exit 75' TERM
echo begun > "$HERE/begun"
while :; do sleep 0.05; done
"""
OUTER = """
import sys
from hpc_srct.errors import Stopped
from hpc_srct.workflows import programs

sys.executable = sys.argv[1]
try:
    with programs.signals_passed_on():
        programs.run(["train"], label=sys.argv[2])
except Stopped as stopped:
    print(stopped)
    raise SystemExit(75)
"""
BETWEEN = """
import time
from hpc_srct.errors import Stopped
from hpc_srct.workflows import programs

try:
    with programs.signals_passed_on():
        print("waiting", flush=True)
        time.sleep(30)
except Stopped as stopped:
    print(stopped)
    raise SystemExit(75)
"""


@pytest.mark.parametrize("label", ["", "unet"])
def test_what_asks_to_stop_reaches_the_command(tmp_path, monkeypatch, label):
    long = tmp_path / "long"
    long.write_text(LONG)
    long.chmod(0o755)
    monkeypatch.setenv("HERE", str(tmp_path))
    words = [sys.executable, "-c", OUTER, str(long), label]
    outer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert outer.poll() is None
        time.sleep(0.01)
    outer.send_signal(signal.SIGTERM)
    said, _ = outer.communicate(timeout=30)
    assert outer.returncode == 75
    assert (tmp_path / "saved").exists()
    assert "ended with code 75" in said


def test_between_two_commands_it_ends_at_once():
    words = [sys.executable, "-c", BETWEEN]
    waiting = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout.readline() == "waiting\n"
    waiting.send_signal(signal.SIGTERM)
    said, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 75
    assert "stopped by SIGTERM" in said
