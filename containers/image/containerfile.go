package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recipe is what a Containerfile says.
type recipe struct {
	config imageConfig
	copies []copyStep
	lines  []string // of the history
}

// copyStep is one COPY instruction.
type copyStep struct {
	from, to string
	uid, gid int
}

// imageConfig is how containers run, as both OCI and Docker spell it. Healthcheck is Docker's alone.
type imageConfig struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Healthcheck  *healthcheck        `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
}

type healthcheck struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration `json:",omitempty"`
	Retries                        int           `json:",omitempty"`
}

// defaultPath is what engines set where there is no base image.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// parse reads a Containerfile. It knows the instructions that our own needs and refuses all others, so that nothing is left out
// silently.
func parse(text string, arguments map[string]string) (*recipe, error) {
	r := &recipe{config: imageConfig{
		ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{}, Labels: map[string]string{}, Env: []string{defaultPath}, WorkingDir: "/",
	}}
	values := map[string]string{}
	var whole string
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if part, more := strings.CutSuffix(line, "\\"); more {
			whole += part
			continue
		}
		whole += line
		name, rest, _ := strings.Cut(whole, " ")
		if err := r.instruction(strings.ToUpper(name), strings.TrimSpace(rest), arguments, values); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", number+1, name, err)
		}
		r.lines = append(r.lines, strings.Join(strings.Fields(whole), " "))
		whole = ""
	}
	if whole != "" {
		return nil, fmt.Errorf("the last line is continued: %s", whole)
	}
	if len(r.lines) == 0 || r.lines[0] != "FROM scratch" {
		return nil, fmt.Errorf("the first instruction is not FROM scratch")
	}
	return r, nil
}

func (r *recipe) instruction(name, rest string, arguments, values map[string]string) error {
	if name == "ENTRYPOINT" || name == "CMD" || name == "VOLUME" {
		list, err := execForm(rest)
		if err != nil {
			return err
		}
		switch name {
		case "ENTRYPOINT":
			r.config.Entrypoint = list
		case "CMD":
			r.config.Cmd = list
		case "VOLUME":
			for _, v := range list {
				r.config.Volumes[v] = struct{}{}
			}
		}
		return nil
	}
	if name == "HEALTHCHECK" {
		return r.health(rest)
	}
	words, err := split(rest, values)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return fmt.Errorf("nothing follows")
	}
	switch name {
	case "FROM":
		if len(r.lines) > 0 || !slices.Equal(words, []string{"scratch"}) {
			return fmt.Errorf("only one FROM scratch is known")
		}
	case "ARG":
		key, value, _ := strings.Cut(words[0], "=")
		if given, ok := arguments[key]; ok {
			value = given
		}
		values[key] = value
	case "LABEL":
		for _, w := range words {
			key, value, ok := strings.Cut(w, "=")
			if !ok {
				return fmt.Errorf("%q is not NAME=VALUE", w)
			}
			r.config.Labels[key] = value
		}
	case "ENV":
		for _, w := range words {
			if !strings.Contains(w, "=") {
				return fmt.Errorf("%q is not NAME=VALUE", w)
			}
			r.config.Env = append(r.config.Env, w)
		}
	case "EXPOSE":
		for _, w := range words {
			if !strings.Contains(w, "/") {
				w += "/tcp"
			}
			r.config.ExposedPorts[w] = struct{}{}
		}
	case "USER":
		r.config.User = words[0]
	case "COPY":
		return r.copy(words)
	default:
		return fmt.Errorf("unknown instruction")
	}
	return nil
}

func (r *recipe) copy(words []string) error {
	var step copyStep
	if owner, ok := strings.CutPrefix(words[0], "--chown="); ok {
		uid, gid, _ := strings.Cut(owner, ":")
		var errUser, errGroup error
		step.uid, errUser = strconv.Atoi(uid)
		step.gid, errGroup = strconv.Atoi(gid)
		if errUser != nil || errGroup != nil {
			return fmt.Errorf("%q is not UID:GID; without /etc/passwd there are no names", owner)
		}
		words = words[1:]
	}
	if len(words) != 2 || strings.HasPrefix(words[0], "--") || strings.HasSuffix(words[1], "/") || !strings.HasPrefix(words[1], "/") {
		return fmt.Errorf("only [--chown=UID:GID] FROM /TO is known, with the whole name of TO")
	}
	step.from, step.to = words[0], words[1]
	r.copies = append(r.copies, step)
	return nil
}

func (r *recipe) health(rest string) (err error) {
	options, command, ok := strings.Cut(rest, "CMD ")
	if !ok {
		return fmt.Errorf("no CMD")
	}
	list, err := execForm(command)
	if err != nil {
		return err
	}
	h := &healthcheck{Test: append([]string{"CMD"}, list...)}
	for _, option := range strings.Fields(options) {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "--interval":
			h.Interval, err = time.ParseDuration(value)
		case "--timeout":
			h.Timeout, err = time.ParseDuration(value)
		case "--start-period":
			h.StartPeriod, err = time.ParseDuration(value)
		case "--retries":
			h.Retries, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("unknown option %s", name)
		}
		if err != nil {
			return err
		}
	}
	r.config.Healthcheck = h
	return nil
}

// execForm reads ["a", "b"]. The other form is for a shell, and there is none.
func execForm(text string) (list []string, err error) {
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 {
		return nil, fmt.Errorf("%s is not in exec form", text)
	}
	return list, nil
}

// split separates words at blanks outside of double quotes, and puts in the values of ${NAME}.
func split(text string, values map[string]string) (words []string, err error) {
	for {
		before, rest, ok := strings.Cut(text, "${")
		if !ok {
			break
		}
		name, after, ok := strings.Cut(rest, "}")
		value, known := values[name]
		if !ok || !known || strings.ContainsAny(value, "\"$") {
			return nil, fmt.Errorf("${%s is not an ARG before it, or has quotes in its value", rest)
		}
		text = before + value + after
	}
	var word strings.Builder
	quoted, any := false, false
	for _, c := range text {
		switch {
		case c == '"':
			quoted, any = !quoted, true
		case c == '\\', c == '\'', c == '$':
			return nil, fmt.Errorf("%c is not known here", c)
		case (c == ' ' || c == '\t') && !quoted:
			if any {
				words = append(words, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(c)
			any = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if any {
		words = append(words, word.String())
	}
	return words, nil
}
