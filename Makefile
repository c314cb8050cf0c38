# vmentry's build. `make` alone lists the targets.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
CACHE   := $(or $(VMENTRY_CACHE),$(CURDIR)/.cache)

# Pinned: another version finds other things.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
SCRIPTS := .ci/run release/build release/check release/image test/all test/vulncheck examples/docker/run images/build images/fetch images/update images/lib.sh images/vendor.sh internal/web/fetch.sh $(wildcard images/*/*.sh test/*/*.sh) test/tinyguest/init test/tinyguest/udhcpc.script test/tinyguest/vmtest-net test/tinyguest/vmtest-ask test/tinyguest/shutdown \
	images/kubernetes-node/version images/kubernetes-node/key $(wildcard images/kubernetes-node/root/usr/libexec/kubernetes-node/*) examples/k8s/nested-access \
	$(addprefix images/debian/root/,usr/lib/quickboot/init usr/lib/quickboot/make usr/libexec/ignition-firstboot-complete \
	etc/kernel/postinst.d/zz-quickboot etc/kernel/postrm.d/zz-quickboot) \
	$(addprefix images/debian/root/usr/lib/dracut/modules.d/90ignition-boot/,module-setup.sh ignition-network ignition-failed setfiles)

.DEFAULT_GOAL := help
.PHONY: help build build-arm64 release release-check release-image web guest tinyguest signedcd passt virtiofsd image image-multiarch images update-images run stop test test-manifests test-release test-container test-images e2e-k8s e2e-nested bench bench-start bench-boot bench-network bench-disk bench-overhead bench-size fault fuzz race lint lint-go lint-imports lint-vulns lint-sh clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9%-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: web ## bin/vmentry, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/vmentry ./cmd/vmentry

build-arm64: web ## bin/arm64/vmentry, the same for arm64
	CGO_ENABLED=0 GOARCH=arm64 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o bin/arm64/vmentry ./cmd/vmentry

release: ## bin/release: what a release is made of, the same bytes wherever it is made
	release/build bin/release

release-check: release ## make it again elsewhere, and compare
	release/check bin/release

release-image: release ## vmentry:latest with that binary, and what is in the image: bin/release/vmentry-image-ARCH.spdx.json
	release/image bin/release

web: ## the JavaScript libraries of the web page, which the program is built with
	internal/web/fetch.sh

guest: ## the Debian guest's disk: .cache/debian/disk.qcow2 (root)
	images/build guest

tinyguest: ## kernel and initramfs of the tests' tiny guest: .cache/tinyguest
	test/tinyguest/cached.sh >/dev/null
	FLAVOUR=amd64 test/tinyguest/cached.sh >/dev/null
	FLAVOUR=arm64 test/tinyguest/cached.sh >/dev/null

signedcd: ## CDs that boot under Secure Boot, for tests: .cache/signedcd
	test/signedcd/cached.sh >/dev/null
	ARCH=arm64 test/signedcd/cached.sh >/dev/null

passt: ## the passt that tests use, Debian 13's: .cache/passt
	test/passt/cached.sh >/dev/null

virtiofsd: ## the virtiofsd that tests use, Debian 13's: .cache/virtiofsd
	test/virtiofsd/cached.sh >/dev/null

image: build ## container images vmentry:latest, vmentry:debug and vmentry/debian:latest
	images/build all

image-multiarch: build ## vmentry:multiarch, which has the QEMU for arm64 guests too
	images/build multiarch

images: build ## all container images: images/*. What cannot be had is named at the end
	images/build images

image-%: build ## the container image vmentry/NAME of images/NAME; ARCH=arm64
	images/build $*

update-images: ## move the pins of vendors' images (images/*/pins) to what is newest; NAME=ubuntu
	images/update $(if $(filter command line,$(origin NAME)),$(NAME))

run: ## boot the Debian guest in a container and log in; ARGS=-it for its console, ARGS=--fresh for a new disk
	@examples/docker/run $(ARGS)

stop: ## shut it down
	@examples/docker/run stop

test: ## install what is needed, build everything, run all tests (root)
	test/all

test-manifests: ## the manifests of examples/k8s, without a cluster: every field, every reference, and what vmentry says of them
	cd test/manifests && go vet . && CGO_ENABLED=0 go test -count=1 -timeout 20m .

test-release: ## what a release says is in it
	cd release/sbom && go vet . && CGO_ENABLED=0 go test -count=1 -timeout 10m .

test-container: image tinyguest ## the container images' tests alone
	test/container/need.sh
	go test -count=1 -timeout 30m -v ./test/container

test-images: image tinyguest ## vendors' images alone: fetched from a web server of the test's, built and booted
	bash -c '. images/lib.sh; need_packages curl jq gnupg fdisk e2fsprogs xfsprogs dosfstools mtools grub-common grub-efi-amd64-bin qemu-utils xz-utils'
	go test -count=1 -timeout 30m -v ./test/images

e2e-k8s: image tinyguest ## the examples on a cluster: KUBECONFIG=FILE; E2E_IMPORT=COMMAND or E2E_REGISTRY=PREFIX brings the images there
	go test -count=1 -timeout 2h -v -skip '^TestNested' ./test/k8s

e2e-nested: image image-kubernetes-node ## Kubernetes in VMs on a cluster, as e2e-k8s; K8S_BIN_DIR=FOLDER of a Kubernetes' programs, else they are built. Hours without KVM (root)
	bash -c '. images/lib.sh; need_packages openssl'
	go test -count=1 -timeout 6h -v -run '^TestNested' ./test/k8s

bench: bench-start bench-boot bench-network bench-disk bench-overhead ## all that is measured, as ratios to something run beside it (root; an hour on a machine that does nothing else)

bench-start: ## how long it takes until QEMU runs, as a ratio to the least that could be done and to a shell script; vmentry's own start (root)
	bash -c '. images/lib.sh; need_packages qemu-utils iproute2 nftables containernetworking-plugins dnsmasq-base'
	go test -run '^$$' -bench Start -benchtime $(STARTS)x -timeout 60m ./test/network
	go test -run '^$$' -bench OwnStart -benchtime 200x ./test

STARTS := 20
ROUNDS := 5
bench-network: tinyguest ## throughput and request time of every network mode, as a ratio to a guest on a tap without vmentry; ROUNDS=5 (root)
	bash -c '. images/lib.sh; need_packages qemu-system-x86 iproute2 nftables containernetworking-plugins iperf3 passt'
	go test -run '^$$' -bench Modes -benchtime $(ROUNDS)x -timeout 60m ./test/network

bench-disk: tinyguest ## what each kind of disk costs, as a ratio to a raw file in a bare QEMU; ROUNDS=5 (root)
	bash -c '. images/lib.sh; need_packages qemu-system-x86 qemu-utils'
	test/fio/cached.sh >/dev/null
	go test -run '^$$' -bench Disk -benchtime $(ROUNDS)x -timeout 90m ./test

bench-boot: tinyguest ## how long a guest boots in the machine that vmentry gives it, and in others; ROUNDS=5 (root)
	bash -c '. images/lib.sh; need_packages qemu-system-x86 ovmf'
	go test -run '^$$' -bench Boot -benchtime $(ROUNDS)x -timeout 60m ./test

bench-overhead: tinyguest passt virtiofsd ## what a VM costs beside its guest: memory and idle CPU time of each process, and a probe (root)
	bash -c '. images/lib.sh; need_packages qemu-system-x86 qemu-utils'
	go test -run '^$$' -bench Overhead -benchtime 1x -timeout 20m ./test

bench-size: image ## how large the image is, by component, beside the same plainly from Debian's packages; the table of docs/images.md
	test/size/table.sh

fault: ## vmentry and its helpers killed, and calls failing, at everything that they change on a disk; FAULTS=all, or how often in each scene (root)
	bash -c '. images/lib.sh; need_packages qemu-utils mount'
	VMENTRY_FAULT_ROUNDS=$(FAULTS) go test -count=1 -timeout 3h -v ./test/fault

FUZZTIME := 20s
fuzz: ## every fuzz target for FUZZTIME
	@go list ./internal/... | while read -r p; do \
		for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$p || exit 1; \
		done; \
	done

race: ## the tests of the packages with the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race ./internal/...

lint: lint-go lint-imports lint-vulns lint-sh ## formatting, vet, staticcheck, the import rule, known vulnerabilities, shellcheck

lint-go:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	GOARCH=arm64 go vet ./...

# Packages under internal/ know nothing of each other; boot alone knows them all.
lint-imports:
	@go list -f '{{$$p := .ImportPath}}{{range .Imports}}{{$$p}} {{.}}{{"\n"}}{{end}}' ./internal/... | \
	awk '$$2 ~ "^github.com/vmentry/vmentry/internal/" && $$1 !~ "/internal/boot$$" && index($$2, $$1 "/") != 1 \
		{ print $$1 " must not import " $$2; bad = 1 } END { exit bad }'

lint-vulns:
	test/vulncheck $(GOVULNCHECK)

lint-sh:
	bash -c '. images/lib.sh; need_packages shellcheck'
	shellcheck -x $(SCRIPTS)

clean: ## delete bin and .cache
	bash -c '. images/lib.sh; remove_tree bin "$$CACHE"'
