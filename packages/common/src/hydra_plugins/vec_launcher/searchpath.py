"""Puts the shared configs into Hydra's search path: $VEC_CONFIG_DIR, where it is set, before the packaged ones."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from common.config import CONFIGS, own_configs


class VecSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := own_configs():
            search_path.append("VEC_CONFIG_DIR", f"file://{own}")
        search_path.append("common", f"file://{CONFIGS.resolve()}")
