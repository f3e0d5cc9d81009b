"""Puts the shared configs into Hydra's search path: $VEC_CONFIG_DIR, where it is set, before the packaged ones."""

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from common.config import CONFIGS
from common.errors import UserError


class VecSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = os.environ.get("VEC_CONFIG_DIR")
        if own:
            folder = Path(own).expanduser().resolve()
            if not folder.is_dir():
                raise UserError(f"VEC_CONFIG_DIR={own} is not a folder.")
            search_path.append("VEC_CONFIG_DIR", f"file://{folder}")
        search_path.append("common", f"file://{CONFIGS.resolve()}")
