package provision

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

// A writer of ISO 9660 for a seed: a few small files in a few directories, all in memory.
//
// It is here because no library does what a seed needs. kdomanski/iso9660 writes neither Rock Ridge nor Joliet, so names
// with a dash and in lower case are outside the standard; go-diskfs writes both, but the Joliet names below the root come
// out with their bytes exchanged, the image is at least 10 MB, and its times are the clock's. Both put the files into a
// temporary directory first: secrets on a disk, and no start on a read-only root.
//
// Layout: system area, descriptors, then directories, path tables and files. Rock Ridge (SUSP 1.12, RRIP 1.12) is on the
// primary tree, which the Linux kernel prefers; the supplementary tree is Joliet level 3.

const (
	sectorSize = 2048
	// A directory of a seed has to fit into one sector, which holds at least ten files.
	largestISO = 1 << 30
)

// isoNode is a file or directory.
type isoNode struct {
	name     string // "" for the root
	data     []byte
	children []*isoNode // nil for a file
	isDir    bool
	parent   *isoNode
	// sector of the data; of a directory there are two, for the plain and the Joliet tree.
	sector [2]uint32
	number [2]uint16 // in the path table
	short  string
}

// trees of the image, the index of isoNode.sector.
const (
	plainTree  = 0
	jolietTree = 1
)

// writeISO makes an image with the label as it is given: blkid and the kernel do not care about upper case.
func writeISO(label string, files []File) ([]byte, error) {
	if len(label) > 16 {
		return nil, fmt.Errorf("label %q is longer than the 16 characters of a Joliet label", label)
	}
	root, err := isoTree(files)
	if err != nil {
		return nil, err
	}
	dirs := directoriesOf(root)

	next := uint32(16 + 3) // system area, three descriptors
	for tree := range root.sector {
		for _, d := range dirs {
			d.sector[tree] = next
			next++
		}
	}
	var tables [4]uint32 // little-endian and big-endian of each tree
	for i := range tables {
		tables[i] = next
		next++
	}
	for _, d := range dirs {
		for _, f := range d.children {
			if !f.isDir {
				f.sector = [2]uint32{next, next}
				next += sectors(len(f.data))
			}
		}
	}
	// Some readers look ahead of the last sector: mkisofs pads by 150 sectors for them.
	const padding = 150
	total := next + padding
	if uint64(total)*sectorSize > largestISO {
		return nil, fmt.Errorf("the seed would be larger than %d MiB", largestISO>>20)
	}

	image := make([]byte, uint64(total)*sectorSize)
	at := func(sector uint32) []byte { return image[uint64(sector)*sectorSize:] }
	for tree := range root.sector {
		little := pathTable(dirs, tree, binary.LittleEndian)
		big := pathTable(dirs, tree, binary.BigEndian)
		if len(little) > sectorSize {
			return nil, fmt.Errorf("the seed has too many directories")
		}
		copy(at(tables[2*tree]), little)
		copy(at(tables[2*tree+1]), big)
		copy(at(16+uint32(tree)), volumeDescriptor(label, root, tree, total, uint32(len(little)), tables[2*tree], tables[2*tree+1]))
		for _, d := range dirs {
			b, err := directory(d, tree)
			if err != nil {
				return nil, err
			}
			copy(at(d.sector[tree]), b)
		}
	}
	copy(at(18), "\xffCD001\x01")
	for _, d := range dirs {
		for _, f := range d.children {
			if !f.isDir {
				copy(at(f.sector[plainTree]), f.data)
			}
		}
	}
	return image, nil
}

func sectors(n int) uint32 { return uint32((n + sectorSize - 1) / sectorSize) }

func isoTree(files []File) (*isoNode, error) {
	root := &isoNode{isDir: true}
	root.parent = root
	for _, f := range files {
		if f.Path != path.Clean(f.Path) || path.IsAbs(f.Path) || strings.HasPrefix(f.Path, ".") {
			return nil, fmt.Errorf("path %q in a seed", f.Path)
		}
		if len(f.Data) > math.MaxInt32 {
			return nil, fmt.Errorf("%s is too large for a seed", f.Path)
		}
		d := root
		names := strings.Split(f.Path, "/")
		for _, name := range names[:len(names)-1] {
			d = d.child(name, true)
		}
		d.child(names[len(names)-1], false).data = f.Data
	}
	return root, nil
}

func (d *isoNode) child(name string, isDir bool) *isoNode {
	for _, c := range d.children {
		if c.name == name {
			return c
		}
	}
	c := &isoNode{name: name, isDir: isDir, parent: d}
	d.children = append(d.children, c)
	c.short = shortName(d.children, name, isDir)
	slices.SortFunc(d.children, func(a, b *isoNode) int { return strings.Compare(a.short, b.short) })
	return c
}

// shortName is an identifier of ISO 9660 level 1 (ECMA-119 7.5): eight and three capitals, digits and underscores.
func shortName(siblings []*isoNode, name string, isDir bool) string {
	base, ext, _ := strings.Cut(strings.ToUpper(name), ".")
	base, ext = clip(base, 8), clip(ext, 3)
	for i := 0; ; i++ {
		try := base
		if i > 0 {
			suffix := fmt.Sprint(i)
			try = clip(base, 8-len(suffix)) + suffix
		}
		if !isDir {
			try += "." + ext + ";1"
		}
		if !slices.ContainsFunc(siblings, func(s *isoNode) bool { return s.short == try }) {
			return try
		}
	}
}

func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), n)]
}

// directoriesOf lists them by level, then by parent, then by name, as path tables have them (ECMA-119 6.9.1), and numbers them.
func directoriesOf(root *isoNode) []*isoNode {
	dirs := []*isoNode{root}
	for i := 0; i < len(dirs); i++ {
		for tree := range root.number {
			dirs[i].number[tree] = uint16(i + 1)
		}
		for _, c := range dirs[i].children {
			if c.isDir {
				dirs = append(dirs, c)
			}
		}
	}
	return dirs
}

// identifier of a directory record.
func (n *isoNode) identifier(tree int) []byte {
	if tree == jolietTree {
		return ucs2(n.name)
	}
	return []byte(n.short)
}

func ucs2(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return b
}

func directory(d *isoNode, tree int) ([]byte, error) {
	var b bytes.Buffer
	b.Write(record(d, tree, []byte{0}, rockRidge(d, tree, d == d.parent, "")))
	b.Write(record(d.parent, tree, []byte{1}, rockRidge(d.parent, tree, false, "")))
	children := slices.Clone(d.children)
	if tree == jolietTree {
		slices.SortFunc(children, func(x, y *isoNode) int { return bytes.Compare(x.identifier(tree), y.identifier(tree)) })
	}
	for _, c := range children {
		b.Write(record(c, tree, c.identifier(tree), rockRidge(c, tree, false, c.name)))
	}
	if b.Len() > sectorSize {
		return nil, fmt.Errorf("the seed has too many files in one directory")
	}
	return b.Bytes(), nil
}

// record is a directory record (ECMA-119 9.1).
func record(n *isoNode, tree int, identifier, systemUse []byte) []byte {
	b := make([]byte, 33, 255)
	size := uint32(len(n.data))
	if n.isDir {
		size = sectorSize
		b[25] = 2
	}
	putBoth32(b[2:], n.sector[tree])
	putBoth32(b[10:], size)
	copy(b[18:], recordTime)
	putBoth16(b[28:], 1)
	b[32] = byte(len(identifier))
	b = append(b, identifier...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b = append(b, systemUse...)
	b[0] = byte(len(b))
	return b
}

// The time of all that is in a seed: 1980-01-01, so that the same data makes the same image.
var recordTime = []byte{80, 1, 1, 0, 0, 0, 0}

// rockRidge gives the entries of a record: who may read it, its true name, its times.
func rockRidge(n *isoNode, tree int, first bool, name string) []byte {
	if tree == jolietTree {
		return nil
	}
	var b []byte
	if first { // the "." of the root says that there are such entries (SUSP 5.3), and whose (SUSP 5.5)
		b = append(b, "SP\x07\x01\xbe\xef\x00"...)
	}
	mode, links := uint32(0o100400), uint32(1)
	if n.isDir {
		mode, links = 0o040500, 2
	}
	px := make([]byte, 36)
	copy(px, "PX\x24\x01")
	putBoth32(px[4:], mode)
	putBoth32(px[12:], links)
	b = append(b, px...)
	b = append(b, "TF\x0c\x01\x02"...) // modification only, short form
	b = append(b, recordTime...)
	if name != "" {
		b = append(b, 'N', 'M', byte(5+len(name)), 1, 0)
		b = append(b, name...)
	}
	if first {
		const id, text = "RRIP_1991A", "THE ROCK RIDGE INTERCHANGE PROTOCOL"
		b = append(b, 'E', 'R', byte(8+len(id)+len(text)), 1, byte(len(id)), byte(len(text)), 0, 1)
		b = append(b, id+text...)
	}
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

// pathTable is ECMA-119 9.4.
func pathTable(dirs []*isoNode, tree int, order binary.AppendByteOrder) []byte {
	var b []byte
	for _, d := range dirs {
		id := d.identifier(tree)
		if d == d.parent {
			id = []byte{0}
		}
		b = append(b, byte(len(id)), 0)
		b = order.AppendUint32(b, d.sector[tree])
		b = order.AppendUint16(b, d.parent.number[tree])
		b = append(b, id...)
		if len(id)%2 == 1 {
			b = append(b, 0)
		}
	}
	return b
}

// volumeDescriptor is primary (ECMA-119 8.4) or, for Joliet, supplementary (8.5).
func volumeDescriptor(label string, root *isoNode, tree int, total, tableSize, little, big uint32) []byte {
	b := make([]byte, sectorSize)
	b[0] = 1
	text := func(from, to int, s string) {
		if tree == jolietTree {
			s = string(ucs2(s))
			for i := from; i+1 < to; i += 2 {
				b[i], b[i+1] = 0, ' '
			}
		} else {
			copy(b[from:to], strings.Repeat(" ", to-from))
		}
		copy(b[from:to], s)
	}
	if tree == jolietTree {
		b[0] = 2
		copy(b[88:], "%/E") // Joliet level 3
	}
	copy(b[1:], "CD001\x01")
	text(8, 40, "LINUX")
	text(40, 72, label)
	putBoth32(b[80:], total)
	putBoth16(b[120:], 1)
	putBoth16(b[124:], 1)
	putBoth16(b[128:], sectorSize)
	putBoth32(b[132:], tableSize)
	binary.LittleEndian.PutUint32(b[140:], little)
	binary.BigEndian.PutUint32(b[148:], big)
	copy(b[156:], record(root, tree, []byte{0}, nil))
	text(190, 318, "")
	text(318, 446, "")
	text(446, 574, "")
	text(574, 702, "VMENTRY")
	text(702, 739, "")
	text(739, 776, "")
	text(776, 813, "")
	const made, never = "1980010100000000\x00", "0000000000000000\x00"
	copy(b[813:], made)
	copy(b[830:], made)
	copy(b[847:], never)
	copy(b[864:], never)
	b[881] = 1
	return b
}

// Numbers are there twice, in both byte orders (ECMA-119 7.2.3, 7.3.3).
func putBoth32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}

func putBoth16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}
