# The few verbs of this project. `make help` lists them; each sets up what it needs.
PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
TESTS   ?= tests
TEST_PROCESSES ?= 2
# A file at a time, in the order of the folders: files with few tests, which xdist would put last, are the longest.
PYTEST  = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# Browser tests have processes of their own: Playwright keeps an event loop running in the thread that uses it, and no
# asynchronous test can run there.
ALL_TESTS = $(filter tests,$(TESTS))
# Real data sets for tests and benchmarks, where a machine has them; without them those tests say why they are skipped.
FIELDREPAIR_DATA ?= $(abspath $(wildcard ../shared/data))
export FIELDREPAIR_DATA
# Material's notice about MkDocs 2 is for people who write themes; a warning here is one about our pages. Not --quiet: it
# would keep warnings from being counted.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
# No usage reports from libraries while we test and measure.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
# MLflow's own background jobs, which nothing here uses: each server would start a dozen processes for them.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

# Helm is built from its Go module, once, and kept outside the clone.
HELM_VERSION := v3.22.0
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fieldrepair
FIELDREPAIR_HELM ?= $(CACHE)/helm-$(HELM_VERSION)
export FIELDREPAIR_HELM
GO ?= $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go))

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench chart chart-story cluster-check docs image-check system-packages helm clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY) ## create .venv with everything installed

$(READY): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (about a minute; a few seconds where uv has the packages cached)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[all,dev]"
	@touch $(READY)

demo: $(READY) ## the whole story on real data, in a few minutes (KEEP=1 leaves everything running)
	@$(BIN)/python -m examples.digits $(if $(KEEP),--keep)

test: $(READY) system-packages helm ## run the tests (TESTS=tests/service for a part)
	@echo "== tests (real data sets: $(or $(FIELDREPAIR_DATA),none; those tests are skipped))"
	@$(PYTEST) $(TESTS) $(if $(ALL_TESTS),--ignore=tests/browser)
	@$(if $(ALL_TESTS),$(PYTEST) tests/browser)

check: $(READY) ## lint, format, types, import rules and the documentation
	@echo "== ruff"       && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== pyright"    && $(BIN)/pyright
	@echo "== import-linter" && $(BIN)/lint-imports
	@echo "== mkdocs"  && $(DOCS)
	@echo "check: all good"

format: $(READY) ## format the code and sort imports
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(READY) ## build the documentation site into build/docs (python -m http.server -d build/docs)
	@$(BIN)/python -m handbook
	@$(DOCS) && echo "docs: build/docs/index.html"

bench: $(READY) ## run the measurements in benchmarks/ and write build/benchmarks/
	@$(BIN)/python -m benchmarks

image-check: $(READY) ## carry out the Dockerfile's steps, both targets, in clean trees (as root; minutes)
	@FIELDREPAIR_IMAGE_FULL=1 $(BIN)/python -m pytest -s tests/image

chart-story: $(READY) helm ## the demo's story on the chart's pods, as processes of this machine (minutes)
	@FIELDREPAIR_CHART_STORY=1 $(BIN)/python -m pytest -s tests/processes

# Three programs from Kubernetes' own sources: built once, in about ten minutes of a processor, and kept outside the clone.
KUBERNETES := $(CACHE)/kubernetes-v1.34.4
$(KUBERNETES)/kube-controller-manager:
	@test -n "$(GO)" || { echo "needs Go"; exit 1; }
	@echo "== building a Kubernetes API server, once"
	@mkdir -p $(KUBERNETES) && cd tests/cluster/kubernetes && export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -p=2" && \
	  $(GO) build -trimpath -ldflags="-s -w" -o $(KUBERNETES)/etcd go.etcd.io/etcd/server/v3 && \
	  for name in kube-apiserver kube-controller-manager; do \
	    $(GO) build -trimpath -ldflags="-s -w" -o $(KUBERNETES)/$$name k8s.io/kubernetes/cmd/$$name; done

cluster-check: $(READY) helm $(KUBERNETES)/kube-controller-manager ## chart and rollout on a real Kubernetes API server
	@FIELDREPAIR_KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/cluster

chart: $(READY) ## write what the Helm chart repeats: schema, README, alerts, dashboard
	@$(BIN)/python -m charts.generate

helm:
	@test -x $(FIELDREPAIR_HELM) || if test -n "$(GO)"; then \
	  echo "== building helm $(HELM_VERSION), once (about three minutes on two cores)"; \
	  folder=$$(mktemp -d) && \
	  GOBIN=$$folder CGO_ENABLED=0 GOFLAGS="-buildvcs=false -p=2" $(GO) install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION) && \
	  mkdir -p $(CACHE) && mv $$folder/helm $(FIELDREPAIR_HELM); \
	  test -x $(FIELDREPAIR_HELM) || echo "note: helm could not be built; the tests of the chart are skipped"; \
	  rm -rf $$folder; \
	else echo "note: there is no Go to build helm with; the tests of the chart are skipped"; fi

# Debian packages that some tests need. Installed when we are root; otherwise named, and those tests skip with the reason.
# Of prometheus we need promtool alone; whether Debian manages to start its service does not matter.
system-packages:
	@set --; \
	test -d /usr/lib/postgresql || set -- "$$@" postgresql; \
	command -v promtool >/dev/null || set -- "$$@" prometheus; \
	test -x /usr/bin/chromium || set -- "$$@" chromium; \
	test $$# = 0 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "== installing Debian packages that some tests need: $$*"; \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" >/dev/null; \
	  else echo "note: these Debian packages are not installed, and the tests that need them are skipped: $$*"; fi; }

clean: ## remove the environment and everything built
	rm -rf $(VENV) build
