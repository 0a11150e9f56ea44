# Targets are documented in "make help".

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X main.version=$(VERSION))
# Where build puts the programs.
BIN     := bin
GOTEST  := $(GO) run ./internal/deps/gotest
# The end-to-end tests time real programs, so they run after the others.
UNIT     = $$($(GO) list ./... | grep -v '/internal/e2e$$')

.PHONY: build package demo test test-unit test-e2e deps lint fuzz clean help

## build: build bin/sshgated and bin/sshgate (the default)
# Without -buildvcs, which fails where git distrusts the owner of the folder; the
# version comes from git describe. The folder sshgate holds source, hence bin/.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/sshgated ./cmd/sshgate

## package: make deb and rpm packages of both, for amd64 and arm64, in dist
package:
	VERSION='$(VERSION)' internal/packaging/package.sh dist amd64 arm64

## demo: build, and run a gateway with everything it needs on this machine
demo: build
	exec bin/sshgated dev $(ARGS)

## test: run all tests, after installing what they need
test: test-unit test-e2e

## test-unit: run the tests of the packages
test-unit: deps
	@internal/deps/tool.sh nfpm >/dev/null || echo 'nfpm cannot be built: the tests of the packages are skipped' >&2
	$(GOTEST) -race -timeout 10m $(UNIT)

## test-e2e: run the tests of the whole, with real clients and servers
test-e2e: deps
	@internal/deps/tool.sh soft >/dev/null || echo 'the git server cannot be built: its tests are skipped' >&2
	$(GOTEST) -count=1 -timeout 20m ./internal/e2e

## deps: install what the tests need, where that is possible
deps:
	internal/deps/install.sh

## lint: gofmt, vet, staticcheck and golangci-lint
lint:
	@test -z "$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go'))" || \
		{ echo 'not formatted, run gofmt -w:'; gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go'); exit 1; }
	$(GO) vet ./...
	"$$(internal/deps/tool.sh staticcheck)" ./...
	"$$(internal/deps/tool.sh golangci-lint)" run ./...

## fuzz: run each fuzz target for FUZZTIME, 10s unless told
fuzz:
	internal/deps/fuzz.sh $(or $(FUZZTIME),10s)

## clean: remove what was built
clean:
	rm -rf bin dist

## help: show the targets
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)
