"""How much the objective depends on each hyperparameter."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from vec_jobs.facts import SweepFacts, distinct, shown

_FEWEST_RUNS = 8
_TREES = 200


def importances(facts: SweepFacts) -> tuple[dict[str, float], str]:
    """Permutation importance in a random forest that predicts the rank of a run.

    Returns:
        The share of each hyperparameter, largest first, empty where nothing can be said; and a sentence that says what
        they are, or why there are none.
    """
    runs = facts.scored
    if not facts.names:
        return {}, "Left out: no hyperparameter differs between the runs."
    if len(runs) < _FEWEST_RUNS:
        need = f"it takes {_FEWEST_RUNS} completed runs with the objective to tell importances"
        return {}, f"Left out: {need}, and there are {len(runs)}."
    ranks = pd.Series([run.final[facts.objective] for run in runs]).rank().to_numpy()
    if np.ptp(ranks) == 0:
        return {}, f"Left out: {facts.objective} is the same in all completed runs."
    columns: list[list[int]] = []
    for name in facts.names:
        values = [run.values.get(name) for run in runs]
        order = [shown(value) for value in distinct(values)]
        columns.append([order.index(shown(value)) for value in values])  # to a tree, only the order matters
    inputs = np.array(columns).T
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0).fit(inputs, ranks)
    explained = float(forest.oob_score_)
    if explained <= 0:
        return {}, (
            f"Left out: a random forest over the {len(runs)} completed runs knows no more of the {facts.objective} of "
            "another run than their mean tells. With more runs it may."
        )
    shuffled: Any = permutation_importance(forest, inputs, ranks, n_repeats=10, random_state=0)
    found: list[float] = shuffled.importances_mean.clip(min=0).tolist()
    if not any(found):
        return {}, f"Left out: no hyperparameter alone decides the {facts.objective}."
    shares = {name: one / sum(found) for name, one in zip(facts.names, found, strict=True)}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1])), (
        f"Permutation importance in a random forest ({_TREES} trees, seed 0) over {len(runs)} completed runs: how much "
        f"worse it ranks them by {facts.objective} when the values of one hyperparameter are shuffled, as a share of "
        f"the sum. It explains {explained:.0%} of the variance in the rank of runs it has not seen; the less, the less "
        "the shares mean."
    )
