"""`sweep=optuna`: a search by Optuna, whose trials are runs of the sweep.

    <sweep>/optuna.log                  the study (Optuna's journal, made for shared file systems)
    <sweep>/optimization_results.yaml   the best trial, under the names of Hydra's own Optuna sweeper

Trial n is run n. Every trial is in the journal before it is submitted, so that a search goes on when the same command
is given again with the same paths.work_dir: trials whose jobs live are waited for, and those that have ended are told.
Hydra's own sweeper for Optuna (1.3.0) needs Optuna 2, which has no journal, and begins at run 0 again.
"""

import importlib.util
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from common import paths, sweep
from common.config import require
from common.errors import UserError

if TYPE_CHECKING:
    from .launcher import VecLauncher

log = logging.getLogger(__name__)

_OVERRIDES = "overrides"  # of a trial, as they were submitted


@dataclass
class OptunaSweeperConf:
    _target_: str = "hydra_plugins.vec_launcher.optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False  # the sampler is made when Optuna is known to be there
    n_trials: int = 20
    n_jobs: int = 1
    max_failure_rate: float = 0.0
    sampler: dict[str, Any] = field(default_factory=dict)  # as hydra.utils.instantiate takes it
    params: dict[str, str] | None = None  # of the search space, like overrides on the command line


ConfigStore.instance().store(
    group="hydra/sweeper", name="vec_optuna", node=OptunaSweeperConf(), provider="vec_launcher"
)


class OptunaSweeper(Sweeper):
    """Asks Optuna for `n_jobs` trials, runs them as one array, tells it the objectives, until there are enough."""

    def __init__(
        self, n_trials: int, n_jobs: int, max_failure_rate: float, sampler: DictConfig, params: DictConfig | None
    ) -> None:
        self._n_trials = n_trials
        self._n_jobs = n_jobs
        self._max_failure_rate = max_failure_rate
        self._sampler = sampler
        self._params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config
        target = config.hydra.launcher._target_
        require(target.endswith(".VecLauncher"), f"sweep=optuna needs hydra/launcher=vec, not {target}")
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._launcher: VecLauncher = launcher

    def sweep(self, arguments: list[str]) -> None:
        """Search.

        Raises:
            UserError: Optuna is not installed, nothing is to be searched, or too many trials failed.
        """
        require(importlib.util.find_spec("optuna") is not None, "sweep=optuna needs Optuna: uv pip install optuna")
        params: Any = OmegaConf.to_container(self._params, resolve=True) if self._params else {}
        wanted = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self._context.config_loader).parse_overrides(wanted)
        fixed = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
        searched = [one for one in overrides if one.is_sweep_override()]
        space = {one.get_key_element(): _distribution(one, self._is_whole(one)) for one in searched}
        require(
            bool(space),
            "sweep=optuna has nothing to search: give a range or a list, e.g. "
            "'trainer.learning_rate=tag(log, interval(1e-5, 1e-1))'",
        )
        example = [*fixed, *(f"{key}={_any_value(one)}" for key, one in space.items())]
        sweep_dir = self._launcher.check(example)
        if self._config.hydra.launcher.dry_run:
            self._launcher.launch([example], initial_job_idx=0)
            return
        sweep_dir.mkdir(parents=True, exist_ok=True)
        with sweep.one_at_a_time(sweep_dir, ".optuna.lock"):
            self._search(sweep_dir, space, fixed)

    def _is_whole(self, override: Override) -> bool:
        default = OmegaConf.select(self._config, override.key_or_group)
        return isinstance(default, int) and not isinstance(default, bool)

    def _search(self, sweep_dir: Path, space: dict[str, Any], fixed: list[str]) -> None:
        import optuna

        study = self._study(sweep_dir)
        trials = [trial for trial in study.get_trials() if trial.state == optuna.trial.TrialState.RUNNING]
        for trial in trials:
            if _OVERRIDES not in trial.user_attrs:  # we were killed before it was submitted
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        batch = {trial.number: trial.user_attrs[_OVERRIDES] for trial in trials if _OVERRIDES in trial.user_attrs}
        if study.trials:
            log.info(f"going on with {len(study.trials)} trials, {len(batch)} of them under way")
        while batch or len(study.trials) < self._n_trials:
            while len(batch) < self._n_jobs and len(study.trials) < self._n_trials:
                trial = study.ask(fixed_distributions=space)
                batch[trial.number] = [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]
                trial.set_user_attr(_OVERRIDES, batch[trial.number])
            for number, metrics in self._launcher.run(batch).items():
                self._tell(study, number, metrics)
            batch = {}
            self._check_failures(study)
        best = study.best_trial
        log.info(f"best: trial {best.number}, {self._config.objective} {best.value:.4g}, {best.params}")
        result = {"name": "optuna", "best_params": best.params, "best_value": best.value, "best_trial": best.number}
        paths.write_atomic(sweep_dir / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(result)))

    def _study(self, sweep_dir: Path) -> Any:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep_dir / "optuna.log")))
        study = optuna.create_study(
            study_name=sweep_dir.name, storage=storage, direction=self._config.direction, load_if_exists=True
        )
        fields: Any = OmegaConf.to_container(self._sampler, resolve=True)
        if fields.get("seed") is not None:  # or a search that goes on would draw what it has drawn already
            fields["seed"] += len(study.trials)
        study.sampler = instantiate(fields)
        return study

    def _tell(self, study: Any, number: int, metrics: dict[str, float] | None) -> None:
        import optuna

        name = self._config.objective
        if metrics is None:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
            log.warning(f"trial {number} failed")
            return
        if name not in metrics:
            raise UserError(f"objective={name} is no final metric of {self._config.template}: {', '.join(metrics)}.")
        study.tell(number, metrics[name])
        log.info(f"trial {number}: {name} {metrics[name]:.4g}, the best is {study.best_value:.4g}")

    def _check_failures(self, study: Any) -> None:
        import optuna

        failed = len(study.get_trials(states=[optuna.trial.TrialState.FAIL]))
        if failed > self._max_failure_rate * len(study.trials):
            raise UserError(
                f"{failed} of {len(study.trials)} trials failed, more than hydra.sweeper.max_failure_rate="
                f"{self._max_failure_rate} allows; vec-jobs why tells the reasons."
            )


def _distribution(override: Override, whole: bool) -> Any:
    """What Optuna draws from for a list, a range (with its step) or an interval of Hydra's override grammar.

    Args:
        whole: an interval is one of integers; Hydra reads all as floats.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        log_scale = "log" in value.tags
        if whole:
            return IntDistribution(int(value.start or 0), int(value.end or 0), log=log_scale)
        return FloatDistribution(float(value.start or 0), float(value.end or 0), log=log_scale)
    if isinstance(value, RangeSweep) and all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
        numbers = range(int(value.start or 0), int(value.stop or 0), int(value.step))
        return IntDistribution(numbers[0], numbers[-1], step=int(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _any_value(distribution: Any) -> Any:
    """One value of the space, to check the configuration with before anything is asked for."""
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low
