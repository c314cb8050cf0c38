package status

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFull(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := ReadFull(dir); ok || err != nil {
		t.Errorf("with nothing there: %v, %v", ok, err)
	}
	want := Full{Disk: "data", Path: "/var/lib/vmentry/disks/data.qcow2", FileSystem: "ext4 on /var/lib/vmentry", Free: 12, Since: time.Unix(1e9, 0).UTC()}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, ok, err := ReadFull(dir)
	if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
		t.Errorf("%v, %v (-want +got)\n%s", ok, err, diff)
	}
	if s := got.String(); !strings.Contains(s, `disk "data" in ext4 on /var/lib/vmentry`) || !strings.Contains(s, "2001-09-09T01:46:40Z") {
		t.Errorf("it says %q", s)
	}
	RemoveFull(dir)
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestHeld(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []bool{true, false} {
		if want {
			if err := Hold(dir); err != nil {
				t.Fatal(err)
			}
		} else {
			Release(dir)
		}
		if Held(dir) != want {
			t.Errorf("held: %v", !want)
		}
	}
}
