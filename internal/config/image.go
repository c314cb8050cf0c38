package config

import (
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
)

// ImageKind tells where the base image comes from.
type ImageKind string

// The kinds of VM_IMAGE.
const (
	ImageFind ImageKind = "find" // unset: the one file in the image's directories
	ImagePath ImageKind = "path"
	ImageURL  ImageKind = "url"
	ImageNone ImageKind = "none" // no disk: a kernel is booted directly
)

// Image is VM_IMAGE.
type Image struct {
	Kind ImageKind
	Path string   // if Kind is ImagePath
	URL  *url.URL // http or https with a host, if Kind is ImageURL; it may carry a password
}

// String is the path, the URL without what may be a secret in it, none, or nothing for an image that is to be found.
func (i Image) String() string {
	switch i.Kind {
	case ImagePath:
		return i.Path
	case ImageURL:
		return showURL(i.URL.String())
	case ImageNone:
		return "none"
	}
	return ""
}

func parseImage(s string) (Image, error) {
	if isNone(s) {
		return Image{Kind: ImageNone}, nil
	}
	scheme, _, found := strings.Cut(s, "://")
	if !found || strings.Contains(scheme, "/") {
		path, err := parsePath(s)
		if err != nil {
			return Image{Kind: ImageFind}, err
		}
		return Image{Kind: ImagePath, Path: path}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Image{Kind: ImageFind}, errors.New("not a URL that can be fetched; write http://HOST/PATH, https://HOST/PATH or a path")
	}
	return Image{Kind: ImageURL, URL: u}, nil
}

// showURL is the text without what may be a secret in a URL: user and password, and the query (a signature).
func showURL(s string) string {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return s
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = rest[i+1:]
	}
	return scheme + "://" + rest
}

// Digest is VM_IMAGE_SHA256: 64 lower-case hexadecimal digits, DigestAuto, or "" for none.
type Digest string

// DigestAuto takes the digest that is published beside the image.
const DigestAuto Digest = "auto"

func parseDigest(s string) (Digest, error) {
	s = strings.ToLower(s)
	if isNone(s) {
		return "", nil
	}
	if Digest(s) == DigestAuto {
		return DigestAuto, nil
	}
	if sum, err := hex.DecodeString(s); err != nil || len(sum) != 32 {
		return "", errors.New("not a SHA-256 digest; write 64 hexadecimal digits or auto")
	}
	return Digest(s), nil
}
