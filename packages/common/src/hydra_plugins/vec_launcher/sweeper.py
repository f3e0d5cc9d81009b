"""The default sweeper: Hydra's Cartesian product, without composing every point twice."""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.vec_launcher.sweeper.GridSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="vec_grid", node=GridSweeperConf(), provider="vec_launcher")


class GridSweeper(BasicSweeper):
    """Leaves the checks, and every file that is written, to the launcher: a refused sweep leaves nothing behind."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.hydra_context is not None
        assert self.launcher is not None
        wanted = [*self._parse_config(), *arguments]
        parsed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(wanted)
        batches = self.split_arguments(parsed, self.max_batch_size)
        first = 0
        returns: list[Any] = []
        for batch in batches:
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            first += len(batch)
        return returns
