# Two commands do everything, each in its own .venv: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifndef RUN
RUN := runs/quickstart-$(shell date +%Y%m%d-%H%M%S)
endif

.PHONY: quickstart test install docs clean

quickstart: $(VENV)/.installed
	$(BIN)/metagen train quickstart --run-dir $(RUN)
	$(BIN)/metagen evaluate $(RUN)

test: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" ./check

install: $(VENV)/.installed

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), f"metagen needs Python 3.11 to 3.13, not {sys.version.split()[0]}: set PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
