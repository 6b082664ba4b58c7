"""The three ways in which a command ends early, each with its exit code.

A message is one or two lines: which file and path inside it, what was expected, what was
found, what to do.
"""

from __future__ import annotations


class SrctError(Exception):
    """Base of the errors that a user sees without a stack trace."""

    exit_code = 1


class MachineError(SrctError):
    """The machine failed: a full disk, a lost rank, a device that is missing."""

    exit_code = 1


class InputError(SrctError):
    """Wrong usage or input: the user can mend it."""

    exit_code = 2


class Stopped(SrctError):
    """Stopped on request with the state saved: the same command again goes on."""

    exit_code = 75
