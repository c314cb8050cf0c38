package console

// booted are the lines by which a system says that it has come up: systemd's last targets and its own account of the start, and the
// prompt of a login on the console (agetty's, busybox's), which other systems have as well.
var booted = pattern(`Reached target (?:\x1b\[[0-9;]*m)?(?:multi-user\.target|graphical\.target|Multi-User System|Graphical Interface)` +
	`|systemd\[1\]: Startup finished in ` +
	`|(?:^|[^ ]+ )login: ?$`)

// Booted says whether a line of the console tells that the guest's system has come up.
func Booted(line string) bool { return booted().MatchString(line) }
