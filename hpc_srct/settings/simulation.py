"""What a simulated scan is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_srct.settings.base import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

FULL_SCALE = 65535  # counts that 16 bits hold
NOISELESS = 40_000.0  # counts of the open beam in a scan without noise


class SimulationSettings(Settings):
    """A raw scan: the object, the geometry, the beam, and what goes wrong.

    Lengths are in detector pixels unless a unit is named.
    """

    phantom: Literal["ellipses", "textured", "tooth", "foam"] = Field(
        default="textured",
        description="ellipses, textured, tooth: each row another object; foam: rows of one.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Different seeds are different objects and different noise."
    )

    size: Annotated[int, Field(ge=8)] = Field(
        default=256, description="Detector columns, and width and height of the truth."
    )
    rows: Annotated[int, Field(ge=1)] = Field(default=40, description="Detector rows.")
    views: Annotated[int, Field(ge=1)] = Field(default=256, description="Projections.")
    angle_range: tuple[float, float] = Field(
        default=(0.0, 180.0), description="Degrees; the end is left out."
    )
    pixel_size: Annotated[float, Field(gt=0)] = Field(default=1e-6, description="Metres.")
    centre_offset: float = Field(
        default=0.0, description="The axis falls on (size - 1) / 2 + this, in detector columns."
    )

    object_size: tuple[Fraction, Fraction] = Field(
        default=(0.6, 0.9),
        description="Least and greatest diameter of the object, as a share of the width.",
    )
    attenuation: Annotated[float, Field(gt=0)] = Field(
        default=1.5, description="Greatest line integral of the densest row."
    )
    attenuation_spread: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Rows are scaled by a factor between 1 - this and 1."
    )
    texture: NotNegative = Field(
        default=1.0, description="Strength of the fine texture (textured, tooth); 0 is none."
    )
    bubbles: Annotated[int, Field(ge=0)] = Field(
        default=400, description="Bubbles of the foam in a stretch as high as it is wide."
    )

    photons: Annotated[float, Field(gt=0, le=1e15)] | None = Field(
        default=1e4, description="Mean photons per pixel and view in the open beam; null: no noise."
    )
    counts_per_photon: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Detector gain; null: 1, or less where 16 bits would overflow."
    )
    flats: Annotated[int, Field(ge=0)] = Field(default=20, description="Frames without object.")
    darks: Annotated[int, Field(ge=0)] = Field(default=10, description="Frames without beam.")
    dark_current: NotNegative = Field(default=100.0, description="Counts without beam.")
    read_noise: NotNegative = Field(default=2.0, description="Standard deviation in counts.")
    beam_profile: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="Fall of the beam's intensity from its middle to the sides."
    )
    pixel_gain: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.02, description="Spread of the pixels' gains, which flat-fielding removes."
    )

    samples: Annotated[int, Field(ge=1, le=16)] = Field(
        default=4, description="Rays across a pixel, whose intensities are averaged."
    )
    detector_blur: NotNegative = Field(
        default=0.0, description="Standard deviation of the blur of intensities along columns."
    )
    noise_blur: NotNegative = Field(
        default=0.0,
        description="Spread of each photon's light along columns; 0.35 correlates neighbours 0.18.",
    )
    phase_contrast: NotNegative = Field(
        default=0.0,
        description="Edge enhancement by propagation, distance·δ/μ in pixels²; blur it by ≥ 0.5.",
    )
    rings: Annotated[float, Field(ge=0, le=0.2)] = Field(
        default=0.0, description="Spread of the gain errors per pixel that flats do not remove."
    )
    zingers: Annotated[float, Field(ge=0, le=0.1)] = Field(
        default=0.0, description="Share of the projections' pixels hit by stray X-rays."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SimulationSettings:
        if self.angle_range[0] == self.angle_range[1]:
            raise ValueError("angle_range is empty")
        low, high = self.object_size
        if not 0 < low <= high:
            raise ValueError("object_size must be a least and a greatest diameter above 0")
        if self.phase_contrast and self.detector_blur < max(0.5, 1.5 / self.samples):
            raise ValueError("phase_contrast needs a detector_blur of 0.5 pixels, 1.5 samples")
        if abs(self.centre_offset) > self.size / 2:
            raise ValueError("centre_offset puts the axis off the detector")
        # Where no gain is named, one is found that leaves room.
        counts = (self.photons or NOISELESS) * (self.counts_per_photon or 0) + self.dark_current
        if counts >= FULL_SCALE:
            raise ValueError(
                f"photons, counts_per_photon and dark_current give {counts:.0f} counts in the open"
                f" beam, and 16 bits end at {FULL_SCALE}"
            )
        return self
