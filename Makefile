# make demo    de-identify a few photos and print where the report is   (PHOTOS=folder for your own)
# make test    all tests        make check   ruff and mypy        make bench   speed, as ratios against peers
# make chaos   every job under every fault, on several machines in one (root, Linux; half an hour)
PYTHON ?= python3
BIN := .venv/bin
PHOTOS ?=
export OMP_NUM_THREADS ?= 2

.PHONY: demo test check bench chaos install clean
install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	rm -rf runs/demo runs/demo-private
	$(BIN)/anonymousnet demo runs/demo $(if $(PHOTOS),--photos '$(PHOTOS)')

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m tests.bench

chaos: install
	$(BIN)/python -m tests.chaos

clean:
	rm -rf .venv build *.egg-info platform/*.egg-info
