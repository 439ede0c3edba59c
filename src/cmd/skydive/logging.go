package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"skydive/src/config"
)

// Levels that slog does not name.
const (
	levelNotice   = slog.LevelInfo + 2
	levelCritical = slog.LevelError + 4
)

func parseLevel(name string) slog.Level {
	switch strings.ToUpper(name) {
	case "DEBUG":
		return slog.LevelDebug
	case "NOTICE":
		return levelNotice
	case "WARNING":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	case "CRITICAL":
		return levelCritical
	}
	return slog.LevelInfo
}

// newLogger builds the log of a service, and returns where it goes, to be closed in the end.
func newLogger(c *config.Config, service string) (log *slog.Logger, out *outputs, err error) {
	var handlers []slog.Handler
	out = &outputs{}
	for _, name := range c.Logging.Backends {
		var w io.Writer
		own := config.LogBackend{}
		colour := false
		switch name {
		case "stderr":
			w, own, colour = os.Stderr, c.Logging.Stderr, terminal(os.Stderr)
		case "stdout":
			w, own, colour = os.Stdout, c.Logging.Stdout, terminal(os.Stdout)
		case "file":
			out.file = &logFile{path: c.Logging.File.Path}
			if err := out.file.open(); err != nil {
				out.close()
				return nil, nil, err
			}
			out.closers = append(out.closers, out.file)
			w, own = out.file, c.Logging.File.LogBackend
		case "syslog":
			s := c.Logging.Syslog
			sys, err := syslog.Dial(s.Protocol, s.Address, syslog.LOG_DAEMON|syslog.LOG_INFO, s.Tag)
			if err != nil {
				out.close()
				return nil, nil, fmt.Errorf("connect to syslog at %s: %w", s.Address, err)
			}
			out.closers = append(out.closers, sys)
			w, own = sys, s.LogBackend
		default:
			out.close()
			return nil, nil, fmt.Errorf("Invalid logging backend: %s", name)
		}
		level := parseLevel(cmp.Or(own.Level, c.Logging.Level))
		handler := func(w io.Writer) slog.Handler {
			if cmp.Or(own.Encoder, c.Logging.Encoder) == "json" {
				return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: nameLevel})
			}
			return newConsole(w, level, colour && c.Logging.Color)
		}
		if sys, ok := w.(*syslog.Writer); ok {
			handlers = append(handlers, bySeverity(sys, handler)...)
		} else {
			handlers = append(handlers, handler(w))
		}
	}
	id := cmp.Or(service, c.Logging.ID)
	return slog.New(slog.NewMultiHandler(handlers...)).With("id", c.HostID+":"+id), out, nil
}

// outputs is where a log goes.
type outputs struct {
	file    *logFile // nil: none
	closers []io.Closer
}

func (o *outputs) close() {
	for _, c := range o.closers {
		c.Close()
	}
}

// onHangup makes SIGHUP open the log file anew, which may have been moved away. Where there is none, the signal says that the
// terminal is gone, and ends the returned context.
func (o *outputs) onHangup(ctx context.Context, log *slog.Logger) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	hangup := make(chan os.Signal, 1)
	if o.file != nil || !signal.Ignored(syscall.SIGHUP) { // nohup(1) has it ignored
		signal.Notify(hangup, syscall.SIGHUP)
	}
	go func() {
		defer cancel()
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			if o.file == nil {
				return
			}
			if err := o.file.open(); err != nil {
				log.Error("the log goes on where it was", "error", err)
			}
		}
	}()
	return ctx
}

// logFile is a file that can be opened anew while it is written to.
type logFile struct {
	path string

	mu sync.Mutex // guards f
	f  *os.File
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.f.Close() // of nil: nothing
	l.f = f
	return nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// bySeverity gives each level a handler of its own, which writes with the severity of that level.
func bySeverity(s *syslog.Writer, handler func(io.Writer) slog.Handler) (handlers []slog.Handler) {
	from := slog.Level(math.MinInt)
	for _, severity := range []struct {
		below slog.Level
		write severityWriter
	}{
		{slog.LevelInfo, s.Debug}, {levelNotice, s.Info}, {slog.LevelWarn, s.Notice}, {slog.LevelError, s.Warning},
		{levelCritical, s.Err}, {math.MaxInt, s.Crit},
	} {
		handlers = append(handlers, band{handler(severity.write), from, severity.below})
		from = severity.below
	}
	return handlers
}

type severityWriter func(string) error

func (w severityWriter) Write(p []byte) (int, error) { return len(p), w(string(p)) }

// band is a handler of the levels from one up to, but without, another.
type band struct {
	slog.Handler
	from, below slog.Level
}

func (b band) Enabled(ctx context.Context, l slog.Level) bool {
	return b.from <= l && l < b.below && b.Handler.Enabled(ctx, l)
}

func (b band) WithAttrs(a []slog.Attr) slog.Handler {
	b.Handler = b.Handler.WithAttrs(a)
	return b
}

func (b band) WithGroup(name string) slog.Handler {
	b.Handler = b.Handler.WithGroup(name)
	return b
}

// nameLevel writes levels as the configuration spells them: slog would say INFO+2 for NOTICE.
func nameLevel(groups []string, a slog.Attr) slog.Attr {
	if level, ok := a.Value.Any().(slog.Level); ok && len(groups) == 0 && a.Key == slog.LevelKey {
		name, _ := levelName(level)
		a.Value = slog.StringValue(name)
	}
	return a
}

func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// console writes one line per record for people: time, level, message, then the attributes as slog's text handler writes them.
type console struct {
	out    *sharedWriter
	level  slog.Level
	colour bool
	attrs  slog.Handler // writes attributes only, into out.attrs
}

type sharedWriter struct {
	mu    sync.Mutex // guards the others; one line at a time
	w     io.Writer
	line  bytes.Buffer
	attrs bytes.Buffer
}

func newConsole(w io.Writer, level slog.Level, colour bool) *console {
	out := &sharedWriter{w: w}
	keep := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && slices.Contains([]string{slog.TimeKey, slog.LevelKey, slog.MessageKey}, a.Key) {
			return slog.Attr{}
		}
		return a
	}
	return &console{out: out, level: level, colour: colour,
		attrs: slog.NewTextHandler(&out.attrs, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: keep})}
}

func (c *console) Enabled(_ context.Context, l slog.Level) bool { return l >= c.level }

func (c *console) Handle(ctx context.Context, r slog.Record) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	line := &c.out.line
	line.Reset()
	c.out.attrs.Reset()
	if err := c.attrs.Handle(ctx, r); err != nil {
		return err
	}
	name, colour := levelName(r.Level)
	if c.colour {
		name = colour + name + "\x1b[0m"
	}
	fmt.Fprintf(line, "%s %s %s", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), name, r.Message)
	if c.out.attrs.Len() > 1 {
		line.WriteByte(' ')
	}
	line.Write(c.out.attrs.Bytes())
	if !bytes.HasSuffix(line.Bytes(), []byte("\n")) {
		line.WriteByte('\n')
	}
	_, err := c.out.w.Write(line.Bytes())
	return err
}

func (c *console) WithAttrs(a []slog.Attr) slog.Handler {
	return &console{c.out, c.level, c.colour, c.attrs.WithAttrs(a)}
}

func (c *console) WithGroup(name string) slog.Handler {
	return &console{c.out, c.level, c.colour, c.attrs.WithGroup(name)}
}

func levelName(l slog.Level) (name, colour string) {
	switch {
	case l >= levelCritical:
		return "CRITICAL", "\x1b[35m"
	case l >= slog.LevelError:
		return "ERROR", "\x1b[31m"
	case l >= slog.LevelWarn:
		return "WARNING", "\x1b[33m"
	case l >= levelNotice:
		return "NOTICE", "\x1b[36m"
	case l >= slog.LevelInfo:
		return "INFO", "\x1b[32m"
	}
	return "DEBUG", "\x1b[34m"
}
