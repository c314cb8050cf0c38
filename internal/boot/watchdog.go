package boot

import (
	"context"
	"log/slog"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// unfed is what QEMU is to do with a guest that does not feed its watchdog, by VM_WATCHDOG. Where that is the guest's end QEMU only stops
// it, and vmentry has QEMU write out its disks before it ends it.
func unfed(w config.Watchdog) qemu.Unfed {
	switch w {
	case config.WatchdogReset:
		return qemu.UnfedReset
	case config.WatchdogPowerOff, config.WatchdogExit:
		return qemu.UnfedPause
	}
	return ""
}

// watchdog takes the event that the guest has not fed its watchdog, with v.mu held.
func (v *vm) watchdog(action string) {
	ends := unfed(v.plan.Config.Watchdog) == qemu.UnfedPause && action == string(qemu.UnfedPause) // and not another one by VM_ARGS
	level := slog.LevelWarn
	if ends {
		level, action = slog.LevelError, string(v.plan.Config.Watchdog)
	}
	v.log.Log(context.Background(), level, "the guest has not fed its watchdog", "action", action)
	if !ends {
		return
	}
	select {
	case v.unfed <- struct{}{}:
	default:
	}
}

// endUnfed ends the VM of a guest that its watchdog has stopped.
func (v *vm) endUnfed(panel supervise.Panel) {
	v.mu.Lock()
	v.end.Unfed = supervise.Unfed(v.plan.Config.Watchdog)
	v.mu.Unlock()
	v.ladder().Force(v.process, panel, supervise.Starved)
}
