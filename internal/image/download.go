package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client fetches over HTTP and does not give up easily. It follows redirects and takes the proxies that HTTP_PROXY, HTTPS_PROXY and
// NO_PROXY name; SSL_CERT_FILE and SSL_CERT_DIR name the authorities that are trusted, as everywhere in Go.
type client struct {
	http *http.Client
	log  *slog.Logger
	// name is the URL as it may be shown.
	name string
	// attempts is how often in a row nothing comes before it is given up.
	attempts int
	// pause is the time to wait after the first failure; it doubles up to longest.
	pause, longest time.Duration
	// stall is how long nothing may come before the connection counts as dead.
	stall time.Duration
}

// Patience with a server: about two minutes in all for one that does not answer, which is what a cluster takes to replace one.
const (
	fetchAttempts = 9
	cdAttempts    = 3
	firstPause    = 500 * time.Millisecond
	longestPause  = 30 * time.Second
	stallTime     = 60 * time.Second
	maxRedirects  = 10
)

// newClient makes a client. Without a digest to tell a changed file by, a connection that nobody can listen in on must not become
// one that others can write to.
func newClient(name string, log *slog.Logger, verified bool) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // what is to be unpacked is known by its content; digests are those of the file as it is
	transport.ResponseHeaderTimeout = stallTime
	transport.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	return &client{
		http: &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return fmt.Errorf("it redirects more than %d times", maxRedirects)
			case !verified && via[0].URL.Scheme == "https" && next.URL.Scheme != "https":
				return errors.New("it redirects from https to http, and there is no VM_IMAGE_SHA256 to verify what comes")
			}
			return nil
		}},
		log: log, name: name,
		attempts: fetchAttempts, pause: firstPause, longest: longestPause, stall: stallTime,
	}
}

// errChanged says that what comes does not belong to what is there: the file has to be fetched from its beginning.
var errChanged = errors.New("the file was changed on the server while it was fetched")

// statusError is an answer that is none.
type statusError struct {
	code  int
	after time.Duration // what Retry-After says
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answers %d %s", e.code, http.StatusText(e.code))
}

// lasting says that another attempt would end as this one did.
func lasting(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		switch status.code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return status.code < 500
	}
	var redirect *redirectError
	return errors.Is(err, errChanged) || errors.As(err, &redirect) ||
		errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(x509.UnknownAuthorityError)) ||
		errors.As(err, new(x509.HostnameError)) || errors.As(err, new(tls.RecordHeaderError))
}

// redirectError is a redirect that is not followed.
type redirectError struct{ error }

// download is a file that is being fetched: a stream that goes on where it was when the connection is lost.
type download struct {
	client *client
	ctx    context.Context
	url    *url.URL

	offset       int64 // of the next byte
	size         int64 // of the whole file; -1 while it is not known
	etag         string
	lastModified string
	unmarked     bool // the server does not say where the file ends

	body   io.ReadCloser
	cancel context.CancelFunc
	idle   *time.Timer
	failed int // attempts in a row
}

// open begins to fetch the file. With an offset it goes on with one that had that validator and size.
func (c *client) open(ctx context.Context, u *url.URL, from part) (*download, error) {
	d := &download{client: c, ctx: ctx, url: u, offset: from.Offset, size: -1, etag: from.ETag, lastModified: from.LastModified}
	if from.Offset > 0 {
		d.size = from.Size
	}
	if d.offset > 0 && d.offset == d.size {
		return d, nil // nothing is missing
	}
	for {
		err := d.connect()
		if err == nil {
			return d, nil
		}
		if err = d.again(err); err != nil {
			return nil, err
		}
	}
}

// Read implements io.Reader. An error is one that trying again does not mend, or that has come too often.
func (d *download) Read(p []byte) (int, error) {
	for {
		if d.body == nil {
			if d.size >= 0 && d.offset == d.size {
				return 0, io.EOF
			}
			if err := d.connect(); err != nil {
				if err = d.again(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		d.idle.Reset(d.client.stall)
		n, err := d.body.Read(p)
		d.idle.Stop()
		d.offset += int64(n)
		if n > 0 {
			d.failed = 0
		}
		if err == nil {
			return n, nil
		}
		d.Close()
		whole := d.size < 0 || d.offset == d.size
		if err == io.EOF && whole {
			d.size = d.offset
			return n, io.EOF
		}
		if n > 0 {
			return n, nil // what has come counts; the next read connects again
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err = d.again(err); err != nil {
			return 0, err
		}
	}
}

// Close ends the connection.
func (d *download) Close() {
	if d.body == nil {
		return
	}
	d.idle.Stop()
	d.cancel()
	d.body.Close()
	d.body = nil
}

// again waits before the next attempt, or gives err back where there is none.
func (d *download) again(err error) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	err = plain(err)
	if lasting(err) {
		return err
	}
	if d.failed++; d.failed >= d.client.attempts {
		return fmt.Errorf("%w (tried %d times)", err, d.failed)
	}
	wait := min(d.client.pause<<(d.failed-1), d.client.longest)
	var status *statusError
	if errors.As(err, &status) && status.after > wait {
		wait = min(status.after, 2*d.client.longest)
	}
	d.client.log.Warn("image: the connection failed; trying again", "from", d.client.name, "at", sizeText(d.offset), "error", err, "in", wait)
	select {
	case <-d.ctx.Done():
		return context.Cause(d.ctx)
	case <-time.After(wait):
		return nil
	}
}

// plain is the error without the URL that Go puts before it: a redirect's may have a signature in it.
func plain(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("nothing has come for too long")
	}
	var u *url.Error
	if !errors.As(err, &u) {
		return err
	}
	if strings.HasPrefix(u.Err.Error(), "it redirects") || strings.Contains(u.Err.Error(), "unsupported protocol scheme") {
		return &redirectError{u.Err}
	}
	return u.Err
}

// connect asks for the file, from offset on.
func (d *download) connect() error {
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		cancel()
		return errors.New("the URL cannot be asked for")
	}
	req.Header.Set("User-Agent", "vmentry")
	req.Header.Set("Accept", "*/*")
	if d.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.offset))
		if v := d.validator(); v != "" {
			req.Header.Set("If-Range", v)
		}
	}
	resp, err := d.client.http.Do(req)
	if err != nil {
		cancel()
		return err
	}
	if err := d.accept(resp); err != nil {
		resp.Body.Close()
		cancel()
		return err
	}
	d.body, d.cancel = resp.Body, cancel
	d.idle = time.AfterFunc(d.client.stall, cancel)
	return d.skip(resp)
}

// validator is what If-Range may carry: a strong ETag, or the date (RFC 9110 §13.1.5).
func (d *download) validator() string {
	if d.etag != "" && !strings.HasPrefix(d.etag, "W/") {
		return d.etag
	}
	return d.lastModified
}

// accept takes what the server says about the file, and refuses what does not fit what it has said before.
func (d *download) accept(resp *http.Response) error {
	etag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	begun := d.offset > 0
	same := etag == d.etag && modified == d.lastModified && etag+modified != ""
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && begun:
		return errChanged // it has become shorter
	case resp.StatusCode == http.StatusPartialContent && begun:
		from, total, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return &statusError{code: resp.StatusCode}
		}
		if from != d.offset || d.size >= 0 && total >= 0 && total != d.size || !same {
			return errChanged
		}
		d.size = max(d.size, total)
		return nil
	case resp.StatusCode != http.StatusOK:
		e := &statusError{code: resp.StatusCode}
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			e.after = min(time.Duration(s)*time.Second, time.Hour)
		}
		return e
	case begun && (!same || d.size >= 0 && resp.ContentLength >= 0 && resp.ContentLength != d.size):
		return errChanged
	}
	d.etag, d.lastModified = etag, modified
	d.size = max(d.size, resp.ContentLength)
	d.unmarked = resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && resp.ProtoMajor < 2
	return nil
}

// skip reads over what is there already, where the server sends the whole file again.
func (d *download) skip(resp *http.Response) error {
	if d.offset == 0 || resp.StatusCode == http.StatusPartialContent {
		return nil
	}
	buf := make([]byte, 64<<10)
	for left := d.offset; left > 0; {
		d.idle.Reset(d.client.stall)
		n, err := resp.Body.Read(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if err != nil && left > 0 {
			d.Close()
			return err
		}
	}
	return nil
}

var contentRange = pattern(`^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)$`)

// parseContentRange reads a Content-Range (RFC 9110 §14.4): where the part begins, and the length of the whole, -1 where it is not
// said.
func parseContentRange(s string) (from, total int64, err error) {
	m := contentRange().FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("Content-Range %.60q", s)
	}
	from, _ = strconv.ParseInt(m[1], 10, 64) // eighteen digits fit
	last, _ := strconv.ParseInt(m[2], 10, 64)
	total = -1
	if m[3] != "*" {
		total, _ = strconv.ParseInt(m[3], 10, 64)
	}
	if last < from || total >= 0 && last >= total {
		return 0, 0, fmt.Errorf("Content-Range %.60q", s)
	}
	return from, total, nil
}

// published asks for the digest of the file that u names, in the files beside it.
func (c *client) published(ctx context.Context, u *url.URL) (string, error) {
	op, name := "verify "+c.name, baseName(u)
	if name == "" {
		return "", configError(op, noSums, "VM_IMAGE_SHA256 is auto, and the URL names no file")
	}
	for _, beside := range sumsNames(name) {
		at := *u
		at.RawQuery, at.Fragment, at.RawPath = "", "", ""
		at.Path = strings.TrimSuffix(u.Path, name) + beside
		text, err := c.text(ctx, &at)
		var status *statusError
		if errors.As(err, &status) && status.code < 500 && lasting(err) {
			continue // 403 is what some stores answer for what is not there
		}
		if err != nil {
			return "", stoppedOr(ctx, op, fmt.Errorf("%s: %w", beside, err))
		}
		sum, err := findSum(text, name, strings.HasPrefix(beside, name))
		if errors.Is(err, errNoSum) {
			continue
		}
		if err != nil {
			return "", refusal(op, noSums, "%s: %w", beside, err)
		}
		c.log.Info("image: the digest to be had", "from", beside, "sha256", sum)
		return sum, nil
	}
	return "", configError(op, noSums, "VM_IMAGE_SHA256 is auto, and no digest of %s is published beside it (%s, SHA256SUMS, CHECKSUM, …)", name, name+".sha256")
}

// text fetches a small file.
func (c *client) text(ctx context.Context, u *url.URL) ([]byte, error) {
	d, err := c.open(ctx, u, part{})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(io.LimitReader(d, maxSums))
}
