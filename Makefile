# Skydive. `make help` says what there is; docs/deployment.md, how it is deployed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go),go)
# The system's Python: the one that has Ansible and YAML.
PYTHON ?= $(or $(wildcard /usr/bin/python3),python3)
INVENTORY ?= inventory/hosts.localhost
FUZZTIME ?= 10m
CHAOS ?= 10m
BINARY := build/skydive
# The inventory generator, beside it.
TRIPLEO = $(dir $(BINARY))skydive-tripleo-inventory$(patsubst skydive%,%,$(notdir $(BINARY)))
VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo v0.0.0)
# Empty for root, else how a command becomes root: with our PATH, where go and ansible are.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH="$$PATH")
PACKAGES := ./src/... $(addsuffix /...,$(wildcard ./containers ./packaging ./tripleo))
BUILD = CGO_ENABLED=0 GOARCH=$(ARCH) $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
# Several analyzers run with the race detector, too.
RACE_BINARY := $(CURDIR)/build/skydive-race
RACE_BUILD := CGO_ENABLED=1 $(GO) build -race -o $(RACE_BINARY) ./src/cmd/skydive
TEST := CGO_ENABLED=1 SKYDIVE_BINARY=$(CURDIR)/$(BINARY) SKYDIVE_RACE_BINARY=$(RACE_BINARY) $(GO) test -race -timeout 9m
TEST_NEEDS := gcc:gcc ip:iproute2 curl:curl openssl:openssl tcpdump:tcpdump iperf3:iperf3 dig:bind9-dnsutils ping:iputils-ping python3:python3
PLAY := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 ANSIBLE_DISPLAY_SKIPPED_HOSTS=no ANSIBLE_CALLBACK_RESULT_FORMAT=yaml ansible-playbook -i $(INVENTORY)
GENERATED := docs/configuration.md docs/deployment.md etc/skydive.yml.default etc/policy.csv
OUT ?= .
PACKAGES_DIR ?= build/packages
IMAGE ?= build/images/skydive.tar

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build/skydive, one static binary (for ARCH: amd64, arm64), and skydive-tripleo-inventory beside it; the same commit gives the same bytes
	@$(BUILD) -o $(BINARY) ./src/cmd/skydive
	@$(BUILD) -o $(TRIPLEO) ./tripleo

up: ## build and deploy with Ansible as INVENTORY says (default: analyzer and agent on this machine), wait until healthy
	@[ "$$(id -u)" = 0 ] || command -v sudo >/dev/null || { echo "make up deploys services: run it as root, or install sudo"; exit 1; }
	@.ci/need ansible-playbook:ansible-core
	@$(MAKE) --no-print-directory build
	@$(PLAY) playbook.yml.sample
	@printf '%s\n' '' 'Skydive runs: http://127.0.0.1:8082 (generated passwords: /etc/skydive/credentials.yml, for root). Three things to try:' \
	  "  $(BINARY) client query \"G.V().Has('Type', 'netns').Values('Name')\"" \
	  "  $(BINARY) client query \"G.V().Has('State', 'UP').Values('IPV4')\"" \
	  "  curl -s http://127.0.0.1:8082/api/topology -d '{\"GremlinQuery\": \"G.V().Has(\\\"IPV4\\\", Regex(\\\"10\\\\..*\\\")).Values(\\\"Name\\\")\"}'" \
	  'make down takes it all back.'

down: ## take back what up did; asks before deleting the recorded history, unless YES=1
	@command -v ansible-playbook >/dev/null || { echo "ansible-playbook is missing: make up installs it"; exit 1; }
	@$(PLAY) ansible/playbooks/reset.yml $(if $(YES),-e skydive_reset_data=yes)
	@[ ! -s build/packages-installed ] || echo "Packages of the distribution stay: $$(sort -u build/packages-installed | paste -sd' ')"

test: build ## unit, race, root and end-to-end tests; touches no deployed Skydive (as root, or with sudo)
	@.ci/need $(TEST_NEEDS)
	@$(RACE_BUILD)
	@$(TEST) $(PACKAGES)
	@$(if $(SUDO),$(MAKE) --no-print-directory test-root)

test-root: build ## only the tests that need root
	@.ci/need $(TEST_NEEDS)
	@$(RACE_BUILD)
	@$(TEST) $(if $(SUDO),-exec "sudo -E env PATH=$$PATH") -run '^TestRoot' $(PACKAGES)

e2e: build ## only the end-to-end tests, on hosts made of namespaces
	@.ci/need $(TEST_NEEDS)
	@$(RACE_BUILD)
	@$(TEST) $(if $(SUDO),-exec "sudo -E env PATH=$$PATH") -count=1 ./src/e2e/...

DEPLOY_TEST := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(PYTHON) ansible/tests/deploy/run.py
deploy-test: build ## the roles on real systemd hosts, as containers: every mode and inventory once (needs root); TESTS= names some
	@$(DEPLOY_TEST) $(TESTS)

deploy-test-all: build ## the whole matrix of modes, topologies, authentication and platforms; RECORD=yes writes its table into docs/deployment.md
	@$(DEPLOY_TEST) --all $(if $(RECORD),--record) $(TESTS)

ansible-test: build ## the roles without a host: filters, variables, syntax; and the modules against analyzers
	@.ci/need ansible-playbook:ansible-core curl:curl openssl:openssl
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m unittest discover -s ansible/tests
	@for play in playbook.yml.sample ansible/playbooks/*.yml; do ansible-playbook -i $(INVENTORY) --syntax-check $$play >/dev/null; done

k8s-test: images ## the Kubernetes file on a real API server, its pods as containers (needs root; builds Kubernetes once)
	@.ci/need ansible-playbook:ansible-core dockerd:docker.io docker:docker.io nsenter:util-linux openssl:openssl ip:iproute2
	@$(SUDO) env PYTHONDONTWRITEBYTECODE=1 GO=$(GO) $(PYTHON) containers/kubernetes/tests/test_kubernetes.py

openstack-test: build images ## a real Keystone, Neutron, Heat and Open vSwitch, in containers: the tests of each, then from inventory to a counted ping (needs root)
	@.ci/need ansible-playbook:ansible-core dockerd:docker.io docker:docker.io nsenter:util-linux
	@$(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(PYTHON) ansible/tests/openstack/beside.py sh -ec '\
	  $(GO) test -tags openstack -count=1 -p 1 -timeout 9m ./src/auth/keystone ./src/probe/neutron $(addsuffix /...,$(wildcard ./tripleo)); \
	  cd ansible/tests/openstack; exec $(PYTHON) -m unittest -v test_chain'

test-all: test ansible-test deploy-test openstack-test k8s-test dist-test fuzz-short ## every test

chaos: ## analyzers that die and are cut off under random changes, for CHAOS (10m); the seed of a failure is printed
	@SKYDIVE_CHAOS=$(CHAOS) $(GO) test -race -count=1 -timeout 0 -v -run '^TestReplicaModel$$' ./src/analyzer

bench: build ## measure build/skydive against the bars of performance (as root)
	@NO_SERVICES=1 .ci/need ip:iproute2 ovs-vsctl:openvswitch-switch
	@$(GO) run ./src/e2e/bench $(BENCHFLAGS)

fuzz: ## every fuzz target for FUZZTIME (10m)
	@$(GO) test -list '^Fuzz' $(PACKAGES) | awk '/^Fuzz/ { name[n++] = $$1 } /^ok/ { for (i = 0; i < n; i++) print $$2, name[i]; n = 0 }' | \
	  while read -r package name; do \
	    if ! out=$$($(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" 2>&1); then \
	      echo "$$out"; \
	      : 'go test -fuzz now and then takes the end of its time for a failure; a real one leaves its input, or says more'; \
	      grep -qx '    context deadline exceeded' <<<"$$out" && ! grep -q 'Failing input\|panic' <<<"$$out" || exit 1; \
	    fi; \
	    printf '%s %s\n%s\n' "$$package" "$$name" "$$(tail -n 2 <<<"$$out")"; \
	  done

fuzz-short: ## every fuzz target for 5s
	@$(MAKE) --no-print-directory fuzz FUZZTIME=5s

lint: build ## gofmt, go vet, generated files; yamllint, ansible-lint and shellcheck where installed
	@bad=$$(gofmt -l src $(wildcard containers packaging tripleo)); [ -z "$$bad" ] || { echo "gofmt: $$bad"; exit 1; }
	@$(GO) vet $(PACKAGES)
	@$(GO) vet -tags openstack ./src/auth/keystone ./src/probe/neutron ./tripleo/...
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; $(MAKE) -s generate OUT="$$tmp"; \
	  for file in $(GENERATED); do diff -u $$file "$$tmp/$$file" || { echo "make generate changes $$file"; exit 1; }; done
	@! command -v yamllint >/dev/null || yamllint -s -c ansible/.yamllint ansible containers/*.y*ml containers/kubernetes/*.yaml containers/kustomize playbook.yml.sample
	@! command -v ansible-lint >/dev/null || (cd ansible && ansible-lint -q --offline)
	@! command -v shellcheck >/dev/null || shellcheck -S warning .ci/run .ci/need ansible/tests/*.sh packaging/init/skydive packaging/*.sh packaging/selinux/build.sh packaging/scripts/* ansible/roles/*/files/*.sh

generate: build ## write what comes from the code: configuration reference and sample, policy, table of the roles' variables
	@mkdir -p $(OUT)/docs $(OUT)/etc
	@$(BINARY) config doc >$(OUT)/docs/configuration.md
	@$(BINARY) config sample >$(OUT)/etc/skydive.yml.default
	@cp src/rbac/policy.csv $(OUT)/etc/policy.csv
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) ansible/tests/variables.py <docs/deployment.md >$(OUT)/docs/.deployment.md && mv $(OUT)/docs/.deployment.md $(OUT)/docs/deployment.md

packages: $(if $(filter build/skydive,$(BINARY)),build) ## build/packages: deb and rpm of BINARY for ARCH; the directory is a repository of apt and yum
	@BINARY='$(BINARY)' ARCH='$(ARCH)' VERSION='$(VERSION)' OUT='$(PACKAGES_DIR)' GO='$(GO)' packaging/packages.sh

images: $(if $(filter build/skydive,$(BINARY)),build) ## build/images: skydive.tar, the container image of BINARY for ARCH, without an engine; skydive.yaml, for Kubernetes, names it
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || echo 0)} $(GO) run ./containers/image \
	  -version '$(VERSION)' -platform linux/$(or $(ARCH),$(shell $(GO) env GOHOSTARCH)) -binary '$(BINARY)' -o '$(IMAGE)' containers/Containerfile
	@tag=$$(printf %s '$(VERSION)' | tr -c 'A-Za-z0-9_.-' -) && sed "/&image/s|:latest$$|:$$tag|" containers/kubernetes/skydive.yaml >'$(dir $(IMAGE))skydive.yaml'

dist: ## build/dist, a release: binaries, packages, images, bills of material, checksums, signed with SKYDIVE_SIGNING_KEY
	@.ci/need git:git gzip:gzip
	@GO='$(GO)' packaging/dist.sh '$(VERSION)'

dist-test: ## two releases are equal, signed, and the arm64 binary runs
	@packaging/tests/dist-test.sh

clean: ## remove build/
	@rm -rf build

.PHONY: help build up down test test-root e2e deploy-test deploy-test-all openstack-test k8s-test ansible-test test-all chaos bench fuzz fuzz-short lint generate packages images dist dist-test clean
