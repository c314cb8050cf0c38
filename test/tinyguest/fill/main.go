// Command fill runs in the tiny guest and makes QEMU use as much memory as this guest can: fill [FUNCTIONS].
//
// It makes so many functions, each in a place of its own, and calls each once: an emulator has to translate all of them, and remembers them.
// Then it takes what memory the guest has left, and keeps it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// left is how much memory the guest keeps to live on, in bytes.
const left = 4 << 20

func main() {
	if err := fill(os.Args[1:]); err != nil {
		fmt.Println("vmtest: fill:", err)
		os.Exit(1)
	}
	select {}
}

func fill(args []string) error {
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		if err := translate(n); err != nil {
			return err
		}
		fmt.Println("vmtest: translated", n)
	}
	const step = 1 << 20
	taken := 0
	for {
		available, err := memAvailable()
		if err != nil {
			return err
		}
		if available < left+step {
			break
		}
		m, err := syscall.Mmap(-1, 0, step, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			break
		}
		for i := 0; i < len(m); i += 4096 {
			m[i] = byte(i >> 12)
		}
		taken += step
	}
	fmt.Println("vmtest: filled", taken>>20)
	return nil
}

// translate makes n functions and calls each of them.
func translate(n int) error {
	// mov (%rsp),%eax; ret: reads memory, which is what makes translated code long
	function := []byte{0x8b, 0x04, 0x24, 0xc3}
	const apart = 16
	code, err := syscall.Mmap(-1, 0, n*apart, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer syscall.Munmap(code)
	for i := range n {
		copy(code[i*apart:], function)
	}
	for i := range n {
		entry := &code[i*apart]
		value := &entry // a function's value points to where its entry is written
		(*(*func())(unsafe.Pointer(&value)))()
	}
	return nil
}

// memAvailable is what the guest's kernel could still give, in bytes.
func memAvailable() (int, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			var kib int
			_, err := fmt.Sscan(rest, &kib)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no MemAvailable in /proc/meminfo")
}
