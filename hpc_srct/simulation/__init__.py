"""Simulated scans: phantoms with exact line integrals, seen by a noisy beam.

They are written as raw DXchange files, and take the same road as a real scan.
"""

from hpc_srct.simulation.run import simulate_scan

__all__ = ["simulate_scan"]
