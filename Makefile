# All a newcomer needs: make demo, make test. Each sets up what it needs in .venv.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# What .venv was made with, unless another is named: PYTHON=python3.12 makes .venv anew with that.
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
READY := $(VENV)/.ready-$(VERSION)
# uv takes a fifth of the time that pip does.
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,\
	$(BIN)/python -m pip install --quiet --disable-pip-version-check)

.PHONY: help setup demo test quick check docs messages soak bench mutants clean

help:
	@echo "make demo    the whole story against a simulated Garmin, then a site to look at"
	@echo "             (ARGS=--once ends after the story)"
	@echo "make demo PYTHON=python3.12 ARGS='--once --engine garminconnect'"
	@echo "             the same with the engine whose new logins work: Python 3.12 or newer"
	@echo "make demo PYTHON=python3.12 ARGS='--once --engine personal'"
	@echo "             with keys for Garmin's Personal API instead of passwords: Python 3.12 too"
	@echo "make test    all tests, on every database that is reachable"
	@echo "make quick   the tests that need no process of their own and no browser, on SQLite: a minute"
	@echo "make soak    the long proofs: kills, random interleavings, fuzzing; some minutes"
	@echo "make bench   the benchmarks, into benchmarks/RESULTS.md (ARGS=NAME for one of them)"
	@echo "make mutants  which changes of the core no test notices; hours, so name modules:"
	@echo "             ARGS='limits/throttle sessions --sample 40'"
	@echo "make check   style, types, migrations, settings, the wheel"
	@echo "make docs    the documentation's site, in build/docs"
	@echo "make messages  the catalogs of the translations, after a change of words"
	@echo "             All of them take PYTHON=..., and then make .venv anew for that version."

setup: $(READY)

demo: $(READY)
	@$(BIN)/python manage.py demo --settings tests.demo_settings $(ARGS)

test: $(READY)
	@$(BIN)/python -m tests $(ARGS)

# What people run at work, between two edits.
quick: $(READY)
	@$(BIN)/python -m pytest -q -n auto --dist worksteal \
		tests/test_accounts.py tests/test_admin.py tests/test_checks.py tests/test_conf.py \
		tests/test_forms.py tests/test_health.py tests/test_login.py tests/test_models.py \
		tests/test_sessions.py tests/test_tags.py tests/limits tests/storage/test_querysets.py \
		tests/storage/test_threads.py tests/checking/test_pool.py tests/engines/test_verdicts.py $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check --settings tests.deploy_settings --deploy --fail-level WARNING
	$(BIN)/python manage.py check --settings tests.settings --database default --tag database
	$(BIN)/python -m tests.wheel

# Anew each time, for Sphinx does not know what the generated tables are made from.
docs: $(READY)
	$(BIN)/python -m sphinx -E -W --keep-going -q docs build/docs

# After words for users have changed; what is new is then to be translated in garmin_auth/locale.
messages: $(READY)
	cd garmin_auth && ../$(BIN)/python -m django makemessages --all --add-location file \
		--no-obsolete --ignore 'testing/*'
	cd garmin_auth && ../$(BIN)/python -m django compilemessages

soak: $(READY)
	GARMIN_AUTH_KILLS=20 GARMIN_AUTH_EXAMPLES=500 GARMIN_AUTH_REFUSED=1000 \
		GARMIN_AUTH_ROTATED=10000 GARMIN_AUTH_WORKERS=8 \
		$(BIN)/python -m pytest -q -s tests/test_killed.py tests/test_state_machine.py tests/test_weeks.py \
		tests/limits/test_mass_failure.py tests/test_rotation_under_load.py
	for database in sqlite postgresql mariadb; do \
		GARMIN_AUTH_TEST_DATABASE=$$database GARMIN_AUTH_REFRESHES=10000 \
		GARMIN_AUTH_WORKERS=8 GARMIN_AUTH_THREADS=8 \
		$(BIN)/python -m pytest -q -s tests/test_refresh_storm.py || exit 1; \
		GARMIN_AUTH_TEST_DATABASE=$$database GARMIN_AUTH_STALL=60 \
		GARMIN_AUTH_WORKERS=8 GARMIN_AUTH_THREADS=8 \
		$(BIN)/python -m pytest -q -s tests/test_storms.py -k stall || exit 1; \
	done
	$(BIN)/python -m tests.fuzz --examples 50000
	GARMIN_AUTH_CASES=50000 $(BIN)/python -m pytest -q -s tests/api/test_schemathesis.py

bench: $(READY)
	@$(BIN)/python -m benchmarks $(ARGS)

# In copies in build/mutants. The tool comes with its own extra: nothing else needs it.
mutants: $(READY)
	@$(INSTALL) --editable '.[mutants]'
	@$(BIN)/python -m tests.mutants $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info demo.sqlite3*

# Made anew when what is to be installed changes, or the version of Python. Without MariaDB's client
# library the driver cannot be built; the tests on MariaDB are then left out, and the summary says so.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) with Python $(VERSION) …"
	@test "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" \
		= "$(VERSION)" || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --editable '.[check]'
	@$(INSTALL) --editable '.[mysql]' \
		>$(VENV)/mysqlclient.log 2>&1 || true
	@touch $@
