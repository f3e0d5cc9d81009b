# `make demo` and `make test` need Python 3.11 or newer and make; they fetch the rest.
UV := $(or $(shell command -v uv),.tools/bin/uv)
RUN := $(UV) run
CLUSTER := python3 -m tests.slurm.cluster
unexport PYTHONDONTWRITEBYTECODE  # or every job of a test compiles torch anew

help:  ## the targets of this file
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14
demo: $(UV)  ## a small sweep on this machine
	$(RUN) --package mlp mlp-launch single compute=local trainer.hidden_dim=64,128 trainer.learning_rate=1e-2,1e-3 trainer.num_epochs=50
test: $(UV) slurm-installed screen-installed  ## every test, the real Slurm's too; ARGS=--full repeats faults more often
	$(RUN) pytest -m "not bench and not gpu" -n 3 --maxschedchunk=1 $(ARGS)
test-unit: $(UV)  ## the quick tests, without Slurm
	$(RUN) pytest -n 2
test-slurm: $(UV) slurm-installed  ## the fault matrix and the drills on a real Slurm
	$(RUN) pytest --full -m slurm -n 3 --maxschedchunk=1 tests/slurm/test_faults.py tests/slurm/test_drill.py
check: $(UV)  ## format, lint, types, import directions
	$(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) basedpyright && $(RUN) lint-imports
fmt: $(UV)  ## format and mend what can be mended
	$(RUN) ruff format . && $(RUN) ruff check --fix .
bench: $(UV) slurm-installed  ## the tables of benchmarks/README.md
	$(RUN) python -m benchmarks.launch && $(RUN) python -m benchmarks.vec_jobs && $(RUN) python -m benchmarks.mlp_single && $(RUN) python -m benchmarks.checkpoint && $(RUN) python -m benchmarks.preemption && $(RUN) python -m benchmarks.trainers && $(RUN) python -m benchmarks.stable_baselines
docs: $(UV)  ## renew the tables of fields in the packages' READMEs
	$(RUN) python -m common.fields packages/*/README.md
release: $(UV)  ## of a package, PKG=mlp: check, build, try, tag (PYTHON="3.11 3.12": on these)
	@$(RUN) python -m tools.release $(PKG) $(PYTHON)
site: $(UV)  ## the documentation as a website, in site/
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict
lock: $(UV)  ## renew uv.lock and requirements.lock to the date in pyproject.toml
	$(UV) lock --upgrade && $(UV) export --quiet --no-header --all-packages --no-emit-workspace --output-file requirements.lock
slurm-up: slurm-installed  ## start a real Slurm on this host, to play with
	@$(CLUSTER) up
slurm-env:  ## how this shell finds it: eval "$$(make -s slurm-env)"
	@$(CLUSTER) env
slurm-down:  ## stop it
	@$(CLUSTER) down

.tools/bin/uv:
	python3 -m venv .tools && .tools/bin/pip install --quiet uv
slurm-installed:
	@.ci/install-slurm
screen-installed:
	@.ci/install-screen
.PHONY: help demo test test-unit test-slurm check fmt bench docs site release lock slurm-up slurm-env slurm-down slurm-installed screen-installed
