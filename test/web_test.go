package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/vmentry/vmentry/test/transcript"
)

// browser opens a page in a real Chromium, and answers its questions with yes.
func browser(t *testing.T, url string) context.Context {
	t.Helper()
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU, chromedp.ExecPath("chromium"),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1200, 1000), chromedp.WSURLReadTimeout(transcript.Patience))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), flags...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, transcript.Patience)
	t.Cleanup(cancel)
	chromedp.ListenTarget(ctx, func(event any) {
		if _, ok := event.(*page.EventJavascriptDialogOpening); ok {
			go chromedp.Run(ctx, page.HandleJavaScriptDialog(true))
		}
	})
	do(t, ctx, chromedp.Navigate(url))
	return ctx
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var text string
		chromedp.Run(ctx, chromedp.Evaluate("document.body.innerText", &text))
		t.Fatalf("%v; the page:\n%s", err, text)
	}
}

// until waits until an expression of JavaScript is true on the page.
func until(expression string) chromedp.Action {
	return chromedp.Poll(expression, nil, chromedp.WithPollingTimeout(transcript.Patience))
}

// shot takes a picture of the page, if VMENTRY_SCREENSHOTS names a directory for it.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("VMENTRY_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	do(t, ctx, chromedp.FullScreenshot(&png, 100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// types puts a line into the console. The library's own way of typing sends each key twice to a page that acts on the key itself.
func types(line string) chromedp.Action {
	const enter = 13
	return chromedp.Tasks{
		chromedp.Focus(".xterm-helper-textarea"),
		input.InsertText(line),
		input.DispatchKeyEvent(input.KeyRawDown).WithKey("Enter").WithCode("Enter").WithWindowsVirtualKeyCode(enter),
		input.DispatchKeyEvent(input.KeyUp).WithKey("Enter").WithCode("Enter").WithWindowsVirtualKeyCode(enter),
	}
}

// drawn is true when the screen shows something: the firmware's words, bright on black.
const drawn = `(() => {
	const canvas = document.querySelector('#screen canvas')
	if (!canvas || canvas.width < 600 || canvas.clientWidth < 100) return false
	const seen = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
	return seen.some((v, i) => i % 4 === 0 && v > 128)
})()`

// TestWebPage: in a real browser the page shows the boot and the console, a wrong token opens nothing, with the right one somebody
// logs in on the console and sees the screen, and the power button works. At a phone's width nothing sticks out.
func TestWebPage(t *testing.T) {
	t.Parallel()
	at := fmt.Sprintf("127.0.0.1:%d", port(t))
	m := start(t, tiny(t, "vmtest.shell", "VM_HTTP="+at, "VM_HTTP_TOKEN=s3cret", "VM_DISPLAY=vnc", "VM_READY=boot"))
	m.stdout.Await(t, tinyReady)
	ctx := browser(t, "http://"+at+"/")
	do(t, ctx,
		until(`document.querySelector('#milestones').innerText.includes('first console byte')`),
		until(fmt.Sprintf(`window.consoleText?.().includes(%q)`, tinyReady)),
		until(`document.querySelector('#state').innerText === 'running'`),

		chromedp.SendKeys("#token", "wrong\r"),
		until(`document.querySelector('#refused').innerText.includes('wrong token')`),
		types("echo not $((6*7)) allowed"),
	)
	var visible bool
	do(t, ctx, chromedp.Evaluate(`!document.querySelector('#buttons').hidden`, &visible))
	if visible {
		t.Error("the buttons are there without a token")
	}

	do(t, ctx,
		chromedp.SendKeys("#token", "s3cret\r"),
		until(`!document.querySelector('#buttons').hidden && document.querySelector('#hint').innerText.includes('goes to the guest')`),
		types("echo root::0:0:root:/:/bin/sh >/etc/passwd; hostname tiny; login"),
		until(`window.consoleText().includes('tiny login: ')`),
		until(`document.querySelector('#state').innerText === 'ready'`),
		types("root"),
		types("echo in as $LOGNAME $((6*7))"),
		until(`window.consoleText().includes('in as root 42')`),
	)
	if strings.Contains(m.stdout.String(), "not 42 allowed") {
		t.Error("what was typed without a token has reached the guest")
	}
	shot(t, ctx, "page-light")
	dark := emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}})
	do(t, ctx, dark)
	shot(t, ctx, "page-dark")
	do(t, ctx, chromedp.Click("#tab-screen"), until(drawn))
	shot(t, ctx, "page-screen")

	var sticksOut bool
	do(t, ctx, chromedp.Click("#tab-console"), chromedp.EmulateViewport(390, 844),
		chromedp.Evaluate(`document.documentElement.scrollWidth > window.innerWidth`, &sticksOut))
	if sticksOut {
		t.Error("something sticks out at a phone's width")
	}
	shot(t, ctx, "page-phone")
	do(t, ctx, chromedp.Click(`[data-press="powerdown"]`))
	m.wants(0, "a button was pressed over HTTP", "powered itself off")
}
