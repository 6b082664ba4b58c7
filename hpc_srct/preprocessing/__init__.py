"""From a raw scan to a slice store, on any number of MPI ranks."""

from hpc_srct.preprocessing.contact_sheet import try_centres
from hpc_srct.preprocessing.plan import Plan, Work, make_plan
from hpc_srct.preprocessing.run import Summary, preprocess, work_of

__all__ = ["Plan", "Summary", "Work", "make_plan", "preprocess", "try_centres", "work_of"]
