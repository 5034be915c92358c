# make demo    de-identify a few photos and print where the report is   (PHOTOS=folder for your own)
# make serve   the page and the API at http://127.0.0.1:8000/
# make test    all tests (`make browser` first installs Chromium for those that need one)
# make check   ruff and mypy    make bench   speed, as ratios against peers
# make soak    a bucket at a time: 2,000 real photos, killed again and again (ANONYMOUSNET_CELEBA)
# make chaos   every job under every fault, on several machines in one (root, Linux; half an hour)
PYTHON ?= python3
BIN := .venv/bin
PHOTOS ?=
export OMP_NUM_THREADS ?= 2

.PHONY: demo serve test browser check bench soak chaos install clean
install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	rm -rf runs/demo runs/demo-private
	$(BIN)/anonymousnet demo runs/demo $(if $(PHOTOS),--photos '$(PHOTOS)')

serve: install
	$(BIN)/anonymousnet serve

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Chromium for tests/browser, where it is missing; without it they are left out.
browser:
	@command -v chromium && command -v chromedriver || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-liberation fonts-dejavu-core; }

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m tests.bench

soak: install
	$(BIN)/python -m tests.bench.soak_bulk

chaos: install
	$(BIN)/python -m tests.chaos

clean:
	rm -rf .venv build *.egg-info platform/*.egg-info
