package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"skydive/src/config"
)

func loadConfig(t *testing.T, yaml string) *config.Config {
	t.Helper()
	c, problems, err := config.Load(config.Options{Files: []string{"-"}, Stdin: strings.NewReader(yaml), Hostname: "h1"})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	return c
}

// everyLevel logs one record of each level.
func everyLevel(t *testing.T, yaml string) {
	t.Helper()
	log, out, err := newLogger(loadConfig(t, yaml), "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	ctx := context.Background()
	for _, name := range []string{"DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL"} {
		log.With("key", "value").Log(ctx, parseLevel(name), "this is "+name)
	}
}

func TestLogBackendsHaveTheirOwnLevels(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	everyLevel(t, fmt.Sprintf("logging: {level: CRITICAL, encoder: json, backends: [file], file: {path: %s, level: notice}}\n", file))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var levels []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var record struct{ Level, Msg, ID, Key string }
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil || record.Msg != "this is "+record.Level || record.ID != "h1:agent" || record.Key != "value" {
			t.Errorf("%v: %s", err, lines.Bytes())
		}
		levels = append(levels, record.Level)
	}
	if want := []string{"NOTICE", "WARNING", "ERROR", "CRITICAL"}; !slices.Equal(levels, want) {
		t.Errorf("levels %v, want %v", levels, want)
	}
}

// A syslog server files records by their severity (RFC 5424 §6.2.1).
func TestSyslogSeverities(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.sock")
	server, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	everyLevel(t, fmt.Sprintf("logging: {level: DEBUG, backends: [syslog], syslog: {address: %s, tag: sky}}\n", path))
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	const daemon = 3 << 3
	for _, want := range []struct {
		severity int
		name     string
	}{{7, "DEBUG"}, {6, "INFO"}, {5, "NOTICE"}, {4, "WARNING"}, {3, "ERROR"}, {2, "CRITICAL"}} {
		n, err := server.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := string(buf[:n])
		if !strings.HasPrefix(got, fmt.Sprintf("<%d>", daemon+want.severity)) || !strings.Contains(got, "sky[") || !strings.Contains(got, want.name+" this is "+want.name+" id=h1:agent key=value") {
			t.Errorf("%s: %s", want.name, got)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatal("timeout: " + what)
		}
	}
}

// SIGHUP is what logrotate sends after it has moved the file away.
func TestHangupOpensTheLogAnew(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	log, out, err := newLogger(loadConfig(t, fmt.Sprintf("logging: {backends: [file], file: {path: %s}}\n", file)), "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	base, end := context.WithCancel(t.Context())
	defer end()
	ctx := out.onHangup(base, log)
	log.Info("before")
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new file", func() bool { _, err := os.Stat(file); return err == nil })
	eventually(t, "a line in it", func() bool {
		log.Info("after")
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "after")
	})
	if text, err := os.ReadFile(file + ".1"); err != nil || !strings.Contains(string(text), "before") {
		t.Errorf("%s %v", text, err)
	}
	if ctx.Err() != nil {
		t.Error("the service must go on")
	}
}

// Without a log file SIGHUP says that the terminal is gone: the service ends, as cleanly as with SIGTERM.
func TestHangupEnds(t *testing.T) {
	log, out, err := newLogger(loadConfig(t, "logging: {backends: []}\n"), "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	ctx := out.onHangup(t.Context(), log)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
