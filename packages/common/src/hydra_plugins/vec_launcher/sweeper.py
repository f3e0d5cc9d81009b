"""Sweepers without a search: `sweep=grid` (Hydra's Cartesian product) and `sweep=zip` (lists in pairs)."""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from common.config import require


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.vec_launcher.sweeper.GridSweeper"


@dataclass
class ZipSweeperConf(BasicSweeperConf):
    _target_: str = "hydra_plugins.vec_launcher.sweeper.ZipSweeper"


_store = ConfigStore.instance().store
_store(group="hydra/sweeper", name="vec_grid", node=GridSweeperConf(), provider="vec_launcher")
_store(group="hydra/sweeper", name="vec_zip", node=ZipSweeperConf(), provider="vec_launcher")


class GridSweeper(BasicSweeper):
    """Leaves the checks, and every file that is written, to the launcher: a refused sweep leaves nothing behind, and no
    point is composed twice."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        wanted = [*self._parse_config(), *arguments]
        parsed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(wanted)
        first: int = self.config.hydra.launcher.first
        returns: list[Any] = []
        for batch in self.points(parsed):
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            first += len(batch)
        return returns

    def points(self, overrides: list[Override]) -> list[list[list[str]]]:
        """The overrides of every point, in batches of `max_batch_size`."""
        return self.split_arguments(overrides, self.max_batch_size)


class ZipSweeper(GridSweeper):
    """The first values of all lists are one point, the second values the next."""

    def points(self, overrides: list[Override]) -> list[list[list[str]]]:
        """As the grid's.

        Raises:
            UserError: lists of different lengths.
        """
        values = {one.get_key_element(): [p[0] for p in self.split_arguments([one], None)[0]] for one in overrides}
        lists = {key: points for key, points in values.items() if len(points) > 1}
        counts = {len(points) for points in lists.values()}
        shown = ", ".join(f"{key} ({len(points)})" for key, points in lists.items())
        require(len(counts) <= 1, f"sweep=zip takes lists of the same length, got {shown}")
        count = counts.pop() if counts else 1
        points = [[one[n % len(one)] for one in values.values()] for n in range(count)]
        return list(self.split_overrides_to_chunks(points, self.max_batch_size))
