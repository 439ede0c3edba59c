package neutron

import "skydive/src/probe"

// SetQueue sets how many commits of the graph may wait.
func SetQueue(p probe.Probe, length int) { p.(*Probe).queue = length }

// Hurry makes the looks follow each other without regard for Neutron.
func Hurry(p probe.Probe) { p.(*Probe).share = 0 }
