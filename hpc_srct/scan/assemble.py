"""From the table of roles to lists of frames: every check that a scan must pass.

Flats and darks are grouped by how many projections were taken before them, so that flats that
drift can be interpolated between groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import h5py
import numpy as np

from hpc_srct.errors import InputError
from hpc_srct.scan.hdf5 import attribute
from hpc_srct.scan.light import LEAST_SHARE, light_of
from hpc_srct.scan.roles import Angles, ConstantFrame, Frames, Place, Roles
from hpc_srct.scan.sources import first_line
from hpc_srct.scan.stack import Constant, Stack
from hpc_srct.scan.units import to_radians

PROJECTION, FLAT, DARK, INVALID = 0, 1, 2, 3
_HOW_TO_GIVE_ANGLES = "give the range of the projections: angle_range=[FIRST,LAST] in degrees"


@dataclass(frozen=True)
class GroupAt:
    """Some frames of one stack, taken after `position` projections."""

    stack: Stack | Constant
    frames: np.ndarray
    position: float


@dataclass(frozen=True)
class Assembled:
    """A scan's parts, checked against each other."""

    stack: Stack
    views: np.ndarray  # indices of the projections in the stack
    flats: tuple[GroupAt, ...]
    darks: tuple[GroupAt, ...]
    angles: np.ndarray  # radians, one for each projection
    monitor: np.ndarray | None  # one for each frame of the stack


def assemble(
    roles: Roles, angle_range: tuple[float, float] | None, without_flats: bool
) -> Assembled:
    """Check the roles and choose the frames.

    Parameters
    ----------
    roles
        What was found; notes are added to it.
    angle_range
        First and last angle of the projections in degrees, both included; over the file's.
    without_flats
        Go on although there are none.

    Raises
    ------
    InputError
        A role that is missing, of the wrong length or shape, or unusable.
    """
    stack = _projections(roles)
    key = _key(roles, stack)
    views = np.arange(stack.n_frames) if key is None else np.flatnonzero(key == PROJECTION)
    if not views.size:
        raise InputError(
            f"{roles.key}: no projections: no frame of {stack.n_frames} has image_key 0.\n"
            "NXtomo has 0 projection, 1 flat, 2 dark, 3 invalid; mend the key or give a layout."
        )
    angles = _angles(roles, stack, views, angle_range)
    groups = {
        name: _groups(roles, getattr(roles, name), value, stack, key, views, angles)
        for name, value in (("flats", FLAT), ("darks", DARK))
    }
    flats = _usable(roles, groups["flats"], groups["darks"], without_flats)
    monitor = _monitor(roles, stack)
    return Assembled(stack, views, flats, groups["darks"], _going_on(angles, roles.notes), monitor)


def _projections(roles: Roles) -> Stack:
    if roles.projections is None:
        if "projections" in roles.broken:
            raise roles.broken["projections"]
        where = roles.looked_for.get("projections", "the layout")
        raise InputError(f"{where}: expected projections there, found nothing; give a layout file.")
    place = roles.projections.place
    return Stack(place.file, place.path, roles.projections.axes)


def _key(roles: Roles, stack: Stack) -> np.ndarray | None:
    """Read the image key as integers; None where frames are not keyed."""
    if not roles.keyed:
        return None
    if roles.key is None:
        if "image_key" in roles.broken:
            raise roles.broken["image_key"]
        raise InputError(
            f"{stack.file}: {roles.looked_for['image_key']}: no image_key there, so projections,"
            " flats and darks cannot be told apart.\nName its path in a layout file."
        )
    values = roles.key.file.values(roles.key.path)
    if values is None:
        raise InputError(f"{roles.key}: expected the image key there, found no numbers.")
    if len(values) != stack.n_frames:
        raise InputError(
            f"{roles.key}: {len(values)} keys for the {stack.n_frames} frames of {stack.path};"
            " expected one for each.\nMend the file, or name the right key in a layout file."
        )
    key = np.rint(values)
    known = np.isin(key, (PROJECTION, FLAT, DARK, INVALID)) & (np.abs(values - key) < 1e-3)
    if not known.all():
        strange = sorted({f"{value:g}" for value in values[~known]})
        roles.notes.append(
            f"{roles.key}: {int((~known).sum())} frame(s) left out: key {', '.join(strange)}"
            " is not 0, 1, 2 or 3."
        )
    invalid = int((key[known] == INVALID).sum())
    if invalid:
        roles.notes.append(f"{roles.key}: {invalid} frame(s) left out: marked invalid (3).")
    return np.where(known, np.nan_to_num(key), INVALID).astype(np.int64)


def _angles(
    roles: Roles, stack: Stack, views: np.ndarray, angle_range: tuple[float, float] | None
) -> np.ndarray:
    found: Angles | None = roles.angles
    if angle_range is not None:
        first, last = (math.radians(value) for value in angle_range)
        if found is not None and found.place is not None:
            roles.notes.append(f"{found.place}: not used: the range was given.")
        return np.linspace(first, last, len(views))
    if found is None:
        if "angles" in roles.broken:
            raise roles.broken["angles"]
        where = roles.looked_for.get("angles", "the layout")
        raise InputError(
            f"{stack.file}: {where}: no rotation angles there.\n"
            f"Name their path in a layout file, or {_HOW_TO_GIVE_ANGLES}."
        )
    if found.note:
        roles.notes.append(found.note)
    if found.span is not None:
        return np.linspace(*found.span, len(views))
    if found.steps is not None:
        return _by_steps(roles, stack, len(views), found.steps)
    place = found.place
    values = place.file.values(place.path)
    if values is None:
        raise InputError(
            f"{place}: expected rotation angles there, found no numbers.\n"
            f"Name their path in a layout file, or {_HOW_TO_GIVE_ANGLES}."
        )
    of_frames = found.of == "frames" or (found.of is None and len(values) == stack.n_frames)
    expected, what = (stack.n_frames, "frames") if of_frames else (len(views), "projections")
    if len(values) != expected:
        raise InputError(
            f"{place}: {len(values)} angles for the {expected} {what} of {stack.path};"
            f" expected one for each.\nMend the file, or {_HOW_TO_GIVE_ANGLES}."
        )
    chosen = values[views] if of_frames else values
    units = _units_of(found)
    return to_radians(chosen, units, str(place), roles.notes)


def _going_on(angles: np.ndarray, notes: list[str]) -> np.ndarray:
    """Undo what keeps angles below a whole turn, where views then span less: 350°, 10° is 20°."""
    going_on = np.unwrap(angles)
    if np.ptp(going_on) > np.ptp(angles) - 1e-6:
        return angles
    first, last = np.rad2deg(going_on[[0, -1]])
    notes.append(f"Angles pass a whole turn on their way; read as {first:g}° to {last:g}°.")
    return going_on


def _by_steps(
    roles: Roles, stack: Stack, n_views: int, steps: tuple[float, float, float]
) -> np.ndarray:
    first, step, planned = steps
    if planned < n_views:
        raise InputError(
            f"{stack}: {planned:g} angles for {n_views} projections: the rotation that the file"
            f" names is too short, and there is no theta.\nMend the file, or"
            f" {_HOW_TO_GIVE_ANGLES}."
        )
    if n_views < planned < math.inf:
        roles.notes.append(f"{stack}: stopped after {n_views} of {planned:g} projections.")
    return first + step * np.arange(n_views)


def _units_of(angles: Angles | None) -> str:
    if angles is None or angles.place is None:
        return ""
    return angles.units or _units(angles.place.file.dataset(angles.place.path))


def _units(dataset: h5py.Dataset | None) -> str:
    return attribute(dataset, "units", "unit")


def _groups(
    roles: Roles,
    found: list[Frames | ConstantFrame] | None,
    value: int,
    stack: Stack,
    key: np.ndarray | None,
    views: np.ndarray,
    angles: np.ndarray,
) -> tuple[GroupAt, ...]:
    if found is None:
        if key is None:
            return ()
        frames = np.flatnonzero(key == value)
        return _by_position(stack, frames, np.searchsorted(views, frames).astype(float))
    groups: list[GroupAt] = []
    for item in found:
        if isinstance(item, ConstantFrame):
            constant = Constant(item.value, stack.n_rows, stack.n_columns, str(item.place))
            groups.append(GroupAt(constant, np.arange(1), len(views) / 2))
            continue
        other = Stack(item.place.file, item.place.path, item.axes, single=True)
        size = (stack.n_rows, stack.n_columns)
        own = roles.projections.axes
        if (other.n_rows, other.n_columns) != size and not item.axes and own:
            # Axes that are named at the projections alone.
            alike = Stack(item.place.file, item.place.path, own, single=True)
            if (alike.n_rows, alike.n_columns) == size:
                other = alike
                roles.notes.append(f"{other}: names no axes; read with the projections': {own}.")
        if (other.n_rows, other.n_columns) != size:
            raise InputError(
                f"{other}: frames of {other.n_rows} × {other.n_columns}; expected"
                f" {stack.n_rows} × {stack.n_columns}, as the projections of {stack.path}.\n"
                "Name frames of the same detector region, or their `axes`, in a layout file."
            )
        positions = _positions(item, other, angles, roles)
        groups.extend(_by_position(other, np.arange(other.n_frames), positions))
    return tuple(sorted(groups, key=lambda group: group.position))


def _positions(item: Frames, other: Stack, angles: np.ndarray, roles: Roles) -> np.ndarray:
    """Count, for each frame, the projections taken before it."""
    count = len(angles)
    if item.position is not None:
        return np.full(other.n_frames, min(float(item.position), count))
    nobody_knows = np.full(other.n_frames, count / 2)
    if item.before is not None:
        if len(item.before) == other.n_frames:
            return np.minimum(np.array(item.before, dtype=float), count)
        roles.notes.append(
            f"{other}: sequence numbers not used: {len(item.before)} for {other.n_frames} frames."
        )
    if item.taken_at is None:
        return nobody_knows
    place: Place = item.taken_at
    values = place.file.values(place.path)
    if values is None or len(values) != other.n_frames or not np.isfinite(values).all():
        roles.notes.append(f"{place}: not used: expected {other.n_frames} angles.")
        return nobody_knows
    # Without units of their own they are in those of the projections' angles.
    units = _units(place.file.dataset(place.path)) or _units_of(roles.angles) or "deg"
    taken = to_radians(values, units, str(place), roles.notes)
    direction = 1.0 if angles[-1] >= angles[0] else -1.0
    path, taken = direction * angles, direction * taken
    if count < 2 or (np.diff(path) < 0).any():
        return nobody_knows
    before = np.searchsorted(path, taken).astype(float)
    return np.where(taken >= path[-1], float(count), before)


def _by_position(
    stack: Stack | Constant, frames: np.ndarray, positions: np.ndarray
) -> tuple[GroupAt, ...]:
    return tuple(
        GroupAt(stack, frames[positions == position], float(position))
        for position in np.unique(positions)
    )


def _usable(
    roles: Roles, groups: tuple[GroupAt, ...], darks: tuple[GroupAt, ...], without: bool
) -> tuple[GroupAt, ...]:
    """Give the flats that have light; refuse flats that are missing or all dark."""
    light = light_of(groups, darks) if groups else np.zeros(0)
    if light.any():
        least = LEAST_SHARE * light.max()
        for group, own in zip(groups, light, strict=True):
            if own < least:
                roles.notes.append(
                    f"{group.stack}: {len(group.frames)} flat frame(s) taken after"
                    f" {group.position:g} projections left out: {max(own, 0):.3g} counts above"
                    f" dark, where the brightest flats have {light.max():.4g} (shutter closed?)."
                )
        return tuple(group for group, own in zip(groups, light, strict=True) if own >= least)
    if without:
        return ()
    if not groups:
        if "flats" in roles.broken:
            raise roles.broken["flats"]
        place = roles.projections.place
        where = roles.looked_for.get("flats", "the layout")
        problem = (
            f"{place.file}: {where}: no flat frames there; without them there is no attenuation."
        )
    else:
        count = sum(len(group.frames) for group in groups)
        problem = (
            f"{groups[0].stack}: no usable flat: none of {count} flat frame(s) is brighter than"
            f" {'the dark frames' if darks else 'zero'}."
        )
    if roles.key is not None:
        # Why frames that were meant to be flats are none.
        left_out = [note for note in roles.notes if note.startswith(f"{roles.key}: ")]
        problem = " ".join([problem, *left_out])
    raise InputError(
        f"{problem}\nName flats of another file in a layout, or go on without: without_flats=true."
    )


def _monitor(roles: Roles, stack: Stack) -> np.ndarray | None:
    if roles.monitor is None:
        return None
    try:
        values = roles.monitor.file.values(roles.monitor.path)
    except InputError as error:
        roles.notes.append(f"{roles.monitor}: beam monitor not used: {first_line(error)}")
        return None
    if values is None or len(values) != stack.n_frames:
        found = "no numbers" if values is None else f"{len(values)} values"
        roles.notes.append(
            f"{roles.monitor}: beam monitor not used: expected {stack.n_frames}, found {found}."
        )
        return None
    return values
