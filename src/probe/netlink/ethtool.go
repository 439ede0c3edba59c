package netlink

import (
	"bytes"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"

	"skydive/src/field"
)

// hardware is what the driver of an interface says of it.
type hardware struct {
	driver, bus string
	speed       int64        // Mbit/s; 0: not known
	features    field.Object // names of offloads → active
}

// ethtool asks drivers, with the SIOCETHTOOL ioctl of whichever socket is at hand in the namespace: any family takes it. It is used
// by one goroutine.
type ethtool struct {
	names []string                // of the features, by bit: the same for all interfaces of a kernel
	known map[string]field.Object // by state of all bits: most interfaces share one of a few
	buf   [64]uint32              // what the kernel reads and writes
	large []uint32
}

// ifreq is struct ifreq of linux/if.h with a pointer in its union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

func ioctl(fd int, name string, data unsafe.Pointer) error {
	r := ifreq{data: data}
	if copy(r.name[:unix.IFNAMSIZ-1], name) < len(name) {
		return unix.EINVAL
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}

// driver returns the names of the driver and of the place on the bus, which stay the same for the life of an interface.
func (e *ethtool) driver(fd int, name string) (driver, bus string) {
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return "", ""
	}
	return text(info.Driver[:]), text(info.Bus_info[:])
}

// speed returns Mbit/s, 0 when there is none.
func (e *ethtool) speed(fd int, name string) int64 {
	// struct ethtool_cmd of linux/ethtool.h: the speed is in two halves, at 12 and 28.
	const size = 44
	e.buf[0] = unix.ETHTOOL_GSET
	if ioctl(fd, name, unsafe.Pointer(&e.buf)) != nil {
		return 0
	}
	raw := (*[size]byte)(unsafe.Pointer(&e.buf))
	speed := uint32(order.Uint16(raw[28:]))<<16 | uint32(order.Uint16(raw[12:]))
	if speed == 1<<32-1 {
		return 0
	}
	return int64(speed)
}

// features returns which offloads are active, nil when the interface does not tell.
func (e *ethtool) features(fd int, name string) field.Object {
	if e.names == nil && !e.readNames(fd, name) {
		return nil
	}
	// struct ethtool_gfeatures: command, number of blocks, then blocks of available, requested, active, never changed.
	blocks := (len(e.names) + 31) / 32
	if 2+4*blocks > len(e.buf) {
		blocks = (len(e.buf) - 2) / 4
	}
	e.buf = [len(e.buf)]uint32{unix.ETHTOOL_GFEATURES, uint32(blocks)}
	if ioctl(fd, name, unsafe.Pointer(&e.buf)) != nil {
		return nil
	}
	var key []byte
	for i := range blocks {
		key = order.AppendUint32(key, e.buf[2+4*i+2])
	}
	if o, ok := e.known[string(key)]; ok {
		return o
	}
	m := make(map[string]any, len(e.names))
	for i, feature := range e.names {
		if feature != "" && i/32 < blocks {
			m[feature] = e.buf[2+4*(i/32)+2]&bits.RotateLeft32(1, i%32) != 0
		}
	}
	o := fromMap(m)
	e.known[string(key)] = o
	return o
}

// readNames reads the names of all features that this kernel knows.
func (e *ethtool) readNames(fd int, name string) bool {
	const setFeatures = 4 // ETH_SS_FEATURES
	const nameLen = 32    // ETH_GSTRING_LEN
	// struct ethtool_sset_info: command, reserved, mask of sets (64 bits, at 8), then the size of each set.
	e.buf = [len(e.buf)]uint32{unix.ETHTOOL_GSSET_INFO}
	order.PutUint64((*[8]byte)(unsafe.Pointer(&e.buf[2]))[:], 1<<setFeatures)
	if ioctl(fd, name, unsafe.Pointer(&e.buf)) != nil {
		return false
	}
	count := int(e.buf[4])
	if count == 0 || count > 1024 {
		return false
	}
	// struct ethtool_gstrings: command, set, number of names, then the names.
	e.large = make([]uint32, 3+count*nameLen/4)
	e.large[0], e.large[1], e.large[2] = unix.ETHTOOL_GSTRINGS, setFeatures, uint32(count)
	if ioctl(fd, name, unsafe.Pointer(&e.large[0])) != nil {
		return false
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&e.large[3])), count*nameLen)
	e.names = make([]string, count)
	for i := range e.names {
		b := raw[i*nameLen : (i+1)*nameLen]
		if end := bytes.IndexByte(b, 0); end >= 0 {
			b = b[:end]
		}
		e.names[i] = string(b)
	}
	e.large = nil
	e.known = make(map[string]field.Object)
	return true
}
