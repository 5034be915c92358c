# make demo    de-identify a few photos and print where the report is   (PHOTOS=folder for your own)
# make serve   the page and the API at http://127.0.0.1:8000/
# make test    all tests (`make browser` first installs Chromium for those that need one)
# make check   ruff and mypy    make bench   speed, as ratios against peers
# make lock    exact versions and hashes of what the images hold, by uv (UV=path)    make sbom    a CycloneDX list of it
# make audit   known weaknesses in it, by pip-audit (AUDIT=path), which asks a service: not part of `make check`
# make soak    a bucket at a time: 2,000 real photos, killed again and again (ANONYMOUSNET_CELEBA)
# make chaos   every job under every fault, on several machines in one (root, Linux; half an hour)
PYTHON ?= python3
BIN := .venv/bin
PHOTOS ?=
UV ?= uv
AUDIT ?= pip-audit
IMAGES := cluster/templates/images
LOCK = $(UV) pip compile --quiet --no-config --generate-hashes --no-annotate --no-header --python-version 3.11
export OMP_NUM_THREADS ?= 2

.PHONY: demo serve test browser check bench soak chaos install clean lock sbom audit
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

lock: install
	$(BIN)/python -m anonymousnet.cluster.freeze > $(IMAGES)/constraints.txt
	grep '^setuptools==' $(IMAGES)/constraints.txt | $(LOCK) --no-deps - > $(IMAGES)/lock-build.txt
	grep -v -e '^setuptools==' -e '^torch==' -e '^deepspeed==' $(IMAGES)/constraints.txt | \
	  $(LOCK) --no-deps - > $(IMAGES)/lock.txt
	grep '^torch==' $(IMAGES)/constraints.txt | $(LOCK) --constraints $(IMAGES)/constraints.txt \
	  --python-platform x86_64-manylinux_2_28 - > $(IMAGES)/lock-torch.txt
	grep '^deepspeed==' $(IMAGES)/constraints.txt | $(LOCK) --no-deps - > $(IMAGES)/lock-deepspeed.txt

sbom: install
	$(BIN)/python -m anonymousnet.cluster.sbom > sbom.json

audit:
	$(AUDIT) --disable-pip --require-hashes $(foreach lock,$(wildcard $(IMAGES)/lock*.txt),--requirement $(lock))

bench: install
	$(BIN)/python -m tests.bench

soak: install
	$(BIN)/python -m tests.bench.soak_bulk

chaos: install
	$(BIN)/python -m tests.chaos

clean:
	rm -rf .venv build *.egg-info platform/*.egg-info
