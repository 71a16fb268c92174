// SPDX-License-Identifier: Apache-2.0

// Wireguard runs a WireGuard tunnel by the module golang.zx2c4.com/wireguard as
// its own command does: on its own TUN device, with the offloads and the
// number of workers that it chooses by itself. Its configuration is a file in
// the form of the userspace implementation's "set" (wireguard.com/xplatform);
// it ends when it is told to.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: wireguard DEVICE CONFIGURATION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "wireguard:", err)
		os.Exit(1)
	}
}

func run(name, path string) error {
	config, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	t, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return fmt.Errorf("create device %s: %w", name, err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	if err := d.IpcSet(string(config)); err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	if err := d.Up(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
	case <-d.Wait():
	}
	return nil
}
