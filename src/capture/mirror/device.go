package mirror

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"skydive/src/netns"
)

// raise sets an interface up, so that it takes packets and sends none by itself, and returns its index.
func raise(netNS, name string) (index int, err error) {
	err = within(netNS, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
			return err
		}
		index = int(request.Uint32())
		// What the host would say on it is no traffic of the port. IPv6 may not be there at all.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
			return err
		}
		request.SetUint16(request.Uint16() | unix.IFF_UP | unix.IFF_NOARP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("set interface %s up: CAP_NET_ADMIN is needed: %w", name, err)
	case err != nil:
		return 0, fmt.Errorf("set interface %s up: %w", name, err)
	}
	return index, nil
}

// within does something in a network namespace.
func within(netNS string, do func() error) error {
	if netNS == "" {
		return do()
	}
	ns, err := netns.OpenPath(netNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Do(ns, do)
}
