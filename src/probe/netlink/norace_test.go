//go:build !race

package netlink

const raceFactor = 0
