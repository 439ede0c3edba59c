//go:build race

package netlink

// raceFactor is how much more time everything may take under the race detector.
const raceFactor = 5
