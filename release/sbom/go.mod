module github.com/vmentry/vmentry/release/sbom

go 1.26.0

toolchain go1.26.10

require (
	github.com/github/go-spdx/v2 v2.8.0
	github.com/google/licensecheck v0.3.1
	github.com/spdx/tools-golang v0.5.7
)

require github.com/anchore/go-struct-converter v0.1.0 // indirect
