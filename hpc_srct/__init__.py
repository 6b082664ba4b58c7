"""Deep-learning reconstruction of low-dose synchrotron CT, on one machine or many."""

__version__ = "0.1.0"
