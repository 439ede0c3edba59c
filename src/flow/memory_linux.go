package flow

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Entries hold no pointers and are kept outside of the heap: the collector then neither counts them, which would make it leave as much
// garbage as there are flows, nor keeps their memory once they are gone. Pages that were never touched cost nothing.

const hugePage = 2 << 20

// mapSegment maps the memory of a segment; nil: there is none. With huge, large pages are asked for: most of what an access to a large
// table costs is the way to small ones.
func mapSegment(huge bool) *block {
	const size = unsafe.Sizeof(block{})
	at, err := unix.MmapPtr(-1, 0, nil, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	// Only what begins at a multiple of its size can be a large page.
	skip := -uintptr(at) & (hugePage - 1)
	unmap(at, skip)
	unmap(unsafe.Add(at, skip+size), hugePage-skip)
	at = unsafe.Add(at, skip)
	if huge {
		// A kernel without large pages refuses, which costs speed only.
		_ = unix.Madvise(unsafe.Slice((*byte)(at), size), unix.MADV_HUGEPAGE)
	}
	return (*block)(at)
}

func freeSegment(b *block) {
	if b != nil {
		unmap(unsafe.Pointer(b), unsafe.Sizeof(*b))
	}
}

// unmap gives memory back. The kernel refuses only what was not mapped.
func unmap(at unsafe.Pointer, size uintptr) {
	if size > 0 {
		_ = unix.MunmapPtr(at, size)
	}
}
