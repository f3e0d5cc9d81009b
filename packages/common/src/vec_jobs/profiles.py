"""Profiles of clusters and their presets, composed as a launcher does, and where in which file a value stands."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import version as hydra_version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common import compose
from common.cluster import Site
from common.config import CONFIGS, Compute, Config, User, own_configs
from common.errors import UserError


@dataclass
class _Composed(Config):
    """All profiles and presets side by side, so that Hydra composes once; user.yaml may set any shared field."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", "user"])
    profiles: dict[str, Compute] = field(default_factory=dict)
    presets: dict[str, Compute] = field(default_factory=dict)


_SECTION = {"cluster": "profiles", "compute": "presets"}  # by config group
_WRONG = (HydraException, OmegaConfBaseException, yaml.YAMLError)  # what composing raises


@dataclass(frozen=True)
class Source:
    """One config file."""

    path: Path

    @property
    def shown(self) -> str:
        """As one would type it here."""
        return os.path.relpath(self.path) if self.path.is_relative_to(Path.cwd()) else str(self.path)

    def line_of(self, *keys: str) -> int | None:
        """The line of a nested key, or of the innermost part of it that is there; None if nothing is."""
        node, line = yaml.compose(self.path.read_text(encoding="utf-8")), None
        for wanted in keys:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next(((key, value) for key, value in pairs if key.value == wanted), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line

    def at(self, *keys: str) -> str:
        """`configs/cluster/killarney.yaml:12`."""
        line = self.line_of(*keys)
        return self.shown if line is None else f"{self.shown}:{line}"


@dataclass(frozen=True)
class Profile:
    name: str
    source: Source
    compute: Compute

    @property
    def site(self) -> Site:
        return self.compute.site or Site()


@dataclass(frozen=True)
class Preset:
    name: str  # compute=<name>
    source: Source
    profile: Source
    compute: Compute

    def at(self, *keys: str) -> str:
        """Where the preset says something; the profile's line where the preset leaves it to that."""
        inherited = self.source.line_of(keys[0]) is None and self.profile.line_of(keys[0]) is not None
        return self.profile.at(*keys) if inherited else self.source.at(*keys)


class Configs:
    """All that Hydra finds: in $VEC_CONFIG_DIR, where it is set, then in the packaged folder."""

    def __init__(self) -> None:
        """
        Raises:
            UserError: user.yaml is wrong. What else is wrong is told by the profile or preset that it is in.
        """
        hydra_version.setbase("1.3")
        ConfigStore.instance().store(name="doctor", node=_Composed)
        try:
            hydra = Hydra.create_main_hydra2(task_name="doctor", config_search_path=create_config_search_path(None))
        finally:
            GlobalHydra.instance().clear()
        self._loader = hydra.config_loader
        self._names = compose.valid_presets(self._loader)
        self._composed: dict[tuple[str, str], DictConfig | Exception] = {}
        try:
            self._user: Any = OmegaConf.to_object(self._compose([]).user)
        except _WRONG as error:
            raise UserError(compose.explain(error, [], self._names)) from error
        self._compose_all([("cluster", name) for name in self.clusters])
        self.unreadable: dict[str, str] = {}  # presets by name, and what is wrong with them

    @property
    def clusters(self) -> list[str]:
        """Names of the profiles."""
        return self._names.get("cluster", [])

    def profile(self, name: str) -> Profile:
        """
        Raises:
            UserError: there is none of that name, or it is wrong.
        """
        if name not in self.clusters:
            raise UserError(
                f"There is no profile cluster/{name}.yaml. Known: {', '.join(self.clusters)}. "
                f"vec-jobs doctor --write {name} drafts one."
            )
        source = Source(_find(f"cluster/{name}.yaml"))
        try:
            return Profile(name, source, self._typed("cluster", name))
        except UserError as error:
            raise UserError(f"{source.shown}: {error}") from error

    def presets(self, profile: Profile) -> list[Preset]:
        """Those that name the profile's cluster. Those that cannot be composed are kept in `unreadable`."""
        names = self._names.get("compute", [])
        self._compose_all([("compute", name) for name in names])
        found: list[Preset] = []
        for name in names:
            composed = self._composed["compute", name]
            if isinstance(composed, DictConfig) and composed.cluster != profile.compute.cluster:
                continue
            try:
                typed = self._typed("compute", name)
            except UserError as error:
                self.unreadable[name] = str(error)
                continue
            if typed.executor == "slurm":
                found.append(Preset(name, Source(_find(f"compute/{name}.yaml")), profile.source, typed))
        return found

    def user(self) -> tuple[User, Source]:
        """What user.yaml says."""
        return self._user, Source(_find("user.yaml"))

    def _compose(self, names: list[tuple[str, str]]) -> DictConfig:
        keys = {one: f"n{number}" for number, one in enumerate(names)}  # a name has slashes, a package has none
        overrides = [f"+{group}@{_SECTION[group]}.{key}={name}" for (group, name), key in keys.items()]
        cfg = self._loader.load_configuration("doctor", overrides, RunMode.RUN)
        self._composed |= {(group, name): cfg[_SECTION[group]][key] for (group, name), key in keys.items()}
        return cfg

    def _compose_all(self, names: list[tuple[str, str]]) -> None:
        """All of them at once, but for those that are wrong."""
        try:
            self._compose(names)
        except _WRONG as error:
            if len(names) == 1:
                self._composed[names[0]] = error
                return
            wrong = [one for one in names if f"'{'/'.join(one)}'" in str(error)]  # "In 'compute/mine': ..."
            for some in (
                ([one for one in names if one not in wrong], wrong)
                if 0 < len(wrong) < len(names)
                else ([one] for one in names)
            ):
                self._compose_all(some)

    def _typed(self, group: str, name: str) -> Compute:
        """
        Raises:
            UserError: what is wrong with it.
        """
        composed = self._composed[group, name]
        try:
            if isinstance(composed, Exception):
                raise composed
            typed = OmegaConf.to_object(composed)
        except _WRONG as error:
            raise UserError(compose.explain(error, [], self._names)) from error
        assert isinstance(typed, Compute)
        return typed


def folder() -> Path:
    """Where own configurations go: $VEC_CONFIG_DIR, else the checkout's configs/.

    Raises:
        UserError: neither is there.
    """
    if own := own_configs():
        return own
    if not CONFIGS.is_symlink():  # of a wheel
        raise UserError("Name a folder for your own configurations: export VEC_CONFIG_DIR=<folder>.")
    return CONFIGS.resolve()


def _find(name: str) -> Path:
    own = own_configs()
    return own / name if own and (own / name).exists() else CONFIGS.resolve() / name
