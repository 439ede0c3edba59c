//go:build race

package flow

// raced: the race detector keeps memory of its own for all memory that was ever used.
const raced = true
