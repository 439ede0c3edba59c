// Command skydive is the whole product in one binary: analyzer, agent, both in
// one process, the command-line client, and what looks after configuration.
// It only wires packages together.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first asks for a clean end, the second gets one at once
	env := &environment{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ()}
	code := env.run(ctx)
	stop()
	os.Exit(code)
}
