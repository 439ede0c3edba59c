// Command image writes the container image that a Containerfile describes, without an engine and without root: one archive that both
// "docker load" and "podman load" take. The same input gives the same bytes.
//
//	go run ./containers/image -version v1.2 -o build/images/skydive.tar containers/Containerfile
//
// File names in the Containerfile are relative to the working directory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+err.Error())
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("o", "build/images/skydive.tar", "`file` to write")
	name := flags.String("name", "localhost/skydive/skydive", "`name` of the image")
	version := flags.String("version", "unknown", "`version`: the tag, and the argument VERSION")
	target := flags.String("platform", "linux/"+runtime.GOARCH, "`os/architecture` of the program")
	binary := flags.String("binary", "build/skydive", "`program` to copy instead of build/skydive")
	created := flags.String("created", os.Getenv("SOURCE_DATE_EPOCH"), "`seconds` since 1970 of all times in the image (default $SOURCE_DATE_EPOCH)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("want one Containerfile")
	}
	seconds, err := strconv.ParseInt(*created, 10, 64)
	if err != nil {
		return fmt.Errorf("-created %q is not a number of seconds", *created)
	}
	var p platform
	parts := strings.Split(*target, "/")
	switch len(parts) {
	case 3:
		p.Variant = parts[2]
		fallthrough
	case 2:
		p.OS, p.Architecture = parts[0], parts[1]
	default:
		return fmt.Errorf("-platform %q is not os/architecture", *target)
	}
	text, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	r, err := parse(string(text), map[string]string{"VERSION": *version})
	if err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	reference := *name + ":" + tag(*version)
	if strings.HasSuffix(reference, ":") {
		return fmt.Errorf("no tag can be made of the version %q", *version)
	}
	at := time.Unix(seconds, 0).UTC()
	content, err := layer(r.copies, func(from string) fs.FS {
		if from == "build/skydive" {
			from = *binary
		}
		return source(from)
	}, at)
	if err != nil {
		return err
	}
	data, err := archive(r, content, reference, p, at)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	// Whoever reads the file meanwhile has the old one, whole.
	if err := os.WriteFile(*out+".part", data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(*out+".part", *out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s: %s %s, %.1f MB\n", *out, reference, *target, float64(len(data))/1e6)
	return err
}

// tag makes a version a valid tag: Debian's and SemVer's have + and ~.
func tag(version string) string {
	t := regexp.MustCompile(`[^A-Za-z0-9_.-]`).ReplaceAllString(version, "-")
	t = strings.TrimLeft(t, ".-") // cannot begin one
	return t[:min(len(t), 128)]
}
