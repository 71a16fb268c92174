# SPDX-License-Identifier: Apache-2.0
#
# make demo    two sites, a real negotiation, real traffic (as root)
# make test    every test that this machine can run (as root)
#
# Both install the Debian packages they need first; the rest is in "make help".

GO ?= go
FUZZTIME ?= 10s
BENCH ?=
BENCH_ARGS ?=
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# A checkout that belongs to another user has no readable history, which is no
# reason not to build.
export GOFLAGS ?= -buildvcs=false

# What needs namespaces, peers and time is below tests/.
packages = $$($(GO) list ./... | grep -v /tests/)
systems = $$($(GO) list ./... | grep /tests/)

.PHONY: build
build: ## build bin/quicksand
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/quicksand ./cmd/quicksand

PREFIX ?= /usr/local
sbin = $(PREFIX)/sbin
units = $(PREFIX)/lib/systemd/system

.PHONY: install
install: build ## put the program and a systemd unit below DESTDIR and PREFIX
	install -D -m 755 bin/quicksand $(DESTDIR)$(sbin)/quicksand
	install -d $(DESTDIR)$(units)
	sed 's|@sbin@|$(sbin)|' cmd/quicksand/quicksand.service > $(DESTDIR)$(units)/quicksand.service

.PHONY: help
help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that tests and demo need
	@tests/setup.sh

.PHONY: setup-vm
setup-vm: ## and those that guests need
	@tests/vm/setup.sh

.PHONY: demo
demo: setup build ## two sites in namespaces, then strongSwan as the peer
	$(GO) build -o bin/demo ./tests/demo
	@exec bin/demo

.PHONY: test
test: setup-vm build check generated objects portable ## run every test
	$(GO) test -race $(packages)
	$(GO) test -count=1 -p 1 -parallel 4 -timeout 40m $(systems)

.PHONY: check
check: ## gofmt and go vet
	@unformatted=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-clean:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...

# Generators that need nothing but Go; "make generate" runs them all.
.PHONY: generated
generated: ## the assembly is what its generators make
	@sums() { sha256sum accel/modexp/*_amd64.s accel/modexp/*/*_amd64.s fallback/*/*_amd64.s; }; \
	before=$$(sums); $(GO) generate ./accel/... ./fallback/...; \
	if [ "$$before" != "$$(sums)" ]; then echo "the committed assembly is not what go generate makes:"; git diff --stat; exit 1; fi

# Debian 12 and 13 both have this compiler, in the same version. A later
# patch of it may make other objects: then this says so, and "make bpf" and a
# look at what changed are due.
CLANG = clang-19 llvm-19

.PHONY: objects
objects: ## the kernel programs are what the compiler makes of bpf/*.c
	@tests/setup.sh $(CLANG)
	@sums() { sha256sum bpf/*_bpfe[lb].* xdp/*_bpfe[lb]_test.*; }; \
	before=$$(sums); $(GO) generate ./bpf ./xdp; \
	if [ "$$before" != "$$(sums)" ]; then echo "the committed kernel programs are not what make bpf makes:"; git diff --stat; exit 1; fi

.PHONY: portable
portable: ## without assembly, and for another architecture
	GOARCH=arm64 $(GO) build ./...
	$(GO) test -short -tags purego ./accel/... ./fallback/aead ./fallback/esp ./fallback/tun

.PHONY: interop
interop: setup build ## the tests against strongSwan, each case shown; ARGS go to go test
	$(GO) test -count=1 -parallel 4 -timeout 20m -v $(ARGS) ./tests/interop

.PHONY: vm
vm: setup-vm build ## the tests in guests with Debian kernels, each case shown; VM_RUN chooses some
	$(GO) test -count=1 -timeout 40m -v $(ARGS) ./tests/vm

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@for package in $(packages); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

.PHONY: timing
timing: ## ask by statistics whether times depend on secrets; wants a quiet machine
	$(GO) test -count=1 -tags timing -run Timing -v ./accel/... ./fallback/aead

.PHONY: bench
bench: setup-vm build ## measure beside peers and write bench/; BENCH names one group of crypto, dh, quickmode, storm, tunnel, xdp, xfrm; BENCH_ARGS go to it
	@tests/setup.sh libipsec-mb-dev openssl
	@for p in gcm cbc; do gcc -O2 -o bin/ipsecmb-$$p tests/perf/ipsecmb/$$p.c -lIPSec_MB || exit 1; done
	$(GO) build -o bin/wireguard ./tests/perf/wireguard
	CGO_ENABLED=0 $(GO) build -o bin/perf ./tests/perf
	@exec bin/perf -group '$(BENCH)' $(BENCH_ARGS)

.PHONY: bpf
bpf: ## build the kernel programs (bpf/*.c) again
	@tests/setup.sh $(CLANG)
	$(GO) generate ./bpf ./xdp

.PHONY: generate
generate: ## make the generated files again
	$(GO) generate ./...

.PHONY: lint
lint: check ## and staticcheck
	$(GO) run $(STATICCHECK) ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
