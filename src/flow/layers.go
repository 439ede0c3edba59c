package flow

import (
	"encoding/binary"
	"slices"
)

// parseDHCP reads a DHCPv4 message as far as records show it; nil if it is none.
func parseDHCP(b []byte) *DHCPv4 {
	if len(b) < 240 || binary.BigEndian.Uint32(b[236:]) != 0x63825363 {
		return nil
	}
	return &DHCPv4{HardwareLen: uint32(b[2]), HardwareOpts: uint32(b[3]), Secs: uint32(binary.BigEndian.Uint16(b[8:])),
		Flags: uint32(binary.BigEndian.Uint16(b[10:])), ServerName: slices.Clone(b[44:108]), File: slices.Clone(b[108:236])}
}

// parseVRRP reads an advertisement as far as records show it; nil if it is none.
func parseVRRP(b []byte) *VRRPv2 {
	if len(b) < 8 || b[0] != 2<<4|1 {
		return nil
	}
	return &VRRPv2{Version: 2, VirtualRtrID: uint32(b[1]), Priority: uint32(b[2]), AdverInt: uint32(b[5])}
}
