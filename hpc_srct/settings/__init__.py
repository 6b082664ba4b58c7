"""Every YAML file of the toolkit as a typed model."""

from hpc_srct.settings.base import Settings, configs_folder, find_config, flat, load, read_tree

__all__ = ["Settings", "configs_folder", "find_config", "flat", "load", "read_tree"]
