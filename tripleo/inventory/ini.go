package inventory

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Source is a configuration file, or a directory whose *.conf files are read in the order of their names. Later ones win.
type Source struct {
	Path      string
	Directory bool
}

const maxFile = 16 << 20

func (s Source) read() (map[string]string, error) {
	// As oslo.config does, for shells leave --config-file=~/x as it is.
	if rest, ok := strings.CutPrefix(s.Path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			s.Path = filepath.Join(home, rest)
		}
	}
	paths := []string{s.Path}
	if s.Directory {
		entries, err := os.ReadDir(s.Path)
		if err != nil {
			return nil, fmt.Errorf("config dir %s: %w", s.Path, reason(err))
		}
		paths = nil
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".conf") && !strings.HasPrefix(entry.Name(), ".") {
				paths = append(paths, filepath.Join(s.Path, entry.Name()))
			}
		}
		sort.Strings(paths)
	}
	settings := map[string]string{}
	for _, path := range paths {
		text, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("config file %s: %w", path, err)
		}
		if err := parseINI(text, settings); err != nil {
			return nil, fmt.Errorf("config file %s: %w", path, err)
		}
	}
	return settings, nil
}

// readFile reads a file of bounded size; its errors do not name it.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, reason(err)
	case len(text) > maxFile:
		return nil, fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return text, nil
}

// reason leaves out operation and path, which the caller names.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// parseINI adds the section DEFAULT to settings, as oslo.config reads it: "key = value" or "key: value", comments from # and ; at the
// beginning of a line, values go on in lines that begin with blanks, quotes around a value do not belong to it. Other sections are other
// programs'. Messages tell no content: a line may be a password.
func parseINI(text []byte, settings map[string]string) error {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxFile+1)
	section, last := "", ""
	values := map[string]string{}
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimRight(lines.Text(), " \t\r\f\v")
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		switch {
		case line == "":
			last = ""
		case line[0] == '#' || line[0] == ';':
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return fmt.Errorf("line %d goes on where nothing has begun", number)
			}
			values[last] += "\n" + strings.TrimLeft(line, " \t")
		case line[0] == '[':
			end := strings.IndexByte(line, ']')
			if end < 2 {
				return fmt.Errorf("line %d is no section", number)
			}
			section, last = line[1:end], ""
		default:
			at := strings.IndexAny(line, "=:")
			switch {
			case at < 0:
				return fmt.Errorf("line %d has neither = nor :", number)
			case section == "":
				return fmt.Errorf("line %d stands before the first section: put [DEFAULT] above it", number)
			}
			last = section + "\n" + key(strings.TrimSpace(line[:at]))
			values[last] = strings.TrimSpace(line[at+1:])
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for name, value := range values {
		if name, ok := strings.CutPrefix(name, "DEFAULT\n"); ok {
			if n := len(value); n > 1 && value[0] == value[n-1] && (value[0] == '"' || value[0] == '\'') {
				value = value[1 : n-1]
			}
			settings[name] = value
		}
	}
	return nil
}
