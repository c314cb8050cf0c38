// Package config turns the environment into a typed Config. It is pure: apart from the environment it looks at nothing,
// so everything that depends on the container, the host or a file (whether the memory fits, whether the image is there)
// is somebody else's question, asked of the values that this package gives.
//
// The struct raw in variables.go is the one source: it is what is parsed, what Text prints for `vmentry env` and what
// Markdown prints for docs/configuration.md.
package config
