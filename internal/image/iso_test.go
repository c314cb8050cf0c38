package image

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// isoOf is the beginning of an ISO 9660 image with a boot catalogue.
func isoOf(catalog []byte) []byte {
	b := make([]byte, 24*isoSector)
	copy(b[16*isoSector:], "\x01CD001\x01")
	copy(b[17*isoSector:], "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[17*isoSector+0x47:], 20)
	copy(b[20*isoSector:], catalog)
	return b
}

// TestISO: a CD stays one, also where it begins like a disk; it says what can boot it, and brings the base of an empty disk.
func TestISO(t *testing.T) {
	entries := func(bytes ...byte) []byte { // one byte for the first of each entry, and one for its second
		catalog := make([]byte, 16*len(bytes))
		for i := 0; i < len(bytes); i += 2 {
			copy(catalog[16*i:], bytes[i:i+2])
		}
		return catalog
	}
	one := func(catalog []byte, headers ...int) []byte { // a section of one entry
		for _, i := range headers {
			catalog[32*i+2] = 1
		}
		return catalog
	}
	for _, tt := range []struct {
		name    string
		catalog []byte
		want    []string
	}{
		{"BIOS", entries(1, 0, 0x88, 0), []string{"bios"}},
		{"UEFI", entries(1, 0xef, 0x88, 0), []string{"uefi"}},
		{"both", one(entries(1, 0, 0x88, 0, 0x91, 0xef, 0x88, 0), 2), []string{"bios", "uefi"}},
		{"three", one(entries(1, 0, 0x88, 0, 0x90, 1, 0x88, 0, 0x91, 0xef, 0x88, 0), 2, 4), []string{"bios", "uefi"}},
		{"not bootable", entries(1, 0, 0, 0), nil},
		{"another platform", entries(1, 2, 0x88, 0), nil},
		{"none", make([]byte, 64), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := isoOf(tt.catalog)
			copy(content[446:], []byte{0x80, 0, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 48}) // a hybrid image has partitions
			content[510], content[511] = 0x55, 0xaa
			in := input(t, write(t, filepath.Join(t.TempDir(), "cd"), content))
			first, err := plan(in)
			if err != nil || !first.Pending() {
				t.Errorf("the first plan is %+v, %v", first, err)
			}
			local := mustMake(t, in)
			if local.Format != ISO || local.Path != in.Path || fmt.Sprint(local.Firmwares) != fmt.Sprint(tt.want) {
				t.Errorf("it became %+v, want %q", local, tt.want)
			}
			if info, err := os.Stat(local.Blank); err != nil || info.Size() != blankSize {
				t.Errorf("the base of an empty disk is %v, %v", info, err)
			}
			again, err := plan(in)
			if err != nil || again.Pending() || len(again.Steps) > 0 || again.Local.Blank != local.Blank || (len(again.Warnings) > 0) != (tt.want == nil) {
				t.Errorf("the second plan is %+v, %v", again, err)
			}
			packed := newBadServer(t, pack(t, "xz", content))
			fetched := mustMake(t, input(t, packed.url()))
			wantContent(t, fetched, content)
			if fetched.Format != ISO || fetched.Blank == "" || fmt.Sprint(fetched.Firmwares) != fmt.Sprint(tt.want) {
				t.Errorf("packed it became %+v", fetched)
			}
		})
	}
}

// TestCDAlone: a VM that needs no image takes a CD all the same, and nothing else. What is not known is looked at once, where a CD has been before.
func TestCDAlone(t *testing.T) {
	dir := t.TempDir()
	iso, disk := isoOf(make([]byte, 64)), diskContent(1<<20, 5)
	cd, rawFile := write(t, filepath.Join(dir, "cd"), iso), write(t, filepath.Join(dir, "disk"), disk)
	packedCD, packedDisk := write(t, filepath.Join(dir, "cd.xz"), pack(t, "xz", iso)), write(t, filepath.Join(dir, "disk.xz"), pack(t, "xz", disk))
	for _, tt := range []struct {
		name, source string
		before       bool // there was a CD before
		steps        int  // of the first plan
		cd           bool
	}{
		{"a CD", cd, false, 0, true},
		{"a disk", rawFile, true, 0, false},
		{"packed, and no CD before", packedCD, false, 0, false},
		{"a packed CD", packedCD, true, 1, true},
		{"a packed disk", packedDisk, true, 1, false},
	} {
		in := input(t, tt.source)
		in.CDAlone = true
		if tt.before {
			write(t, paths{in.DataDir}.blank(), make([]byte, blankSize))
		}
		p, err := plan(in)
		if err != nil || len(p.Steps) != tt.steps || p.Pending() != (tt.steps > 0) {
			t.Errorf("%s: the plan is %+v, %v", tt.name, p, err)
		}
		local := mustMake(t, in)
		if is := local != nil && local.Format == ISO; is != tt.cd {
			t.Errorf("%s: it became %+v", tt.name, local)
		}
		if local != nil && local.Kept && !tt.cd { // nobody uses it
			if err := os.Remove(local.Path); err != nil {
				t.Fatal(err)
			}
		}
		again, err := plan(in)
		if err != nil || len(again.Steps) > 0 || (again.Local != nil) != tt.cd {
			t.Errorf("%s: the second plan is %+v, %v", tt.name, again, err)
		}
	}
}
